"""Co-bps prepared for one truth: what selection calls is the metric itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ndt.metrics import CoBps, bits_per_spike, log_sum

NAME = CoBps.NAME


def example(seed: int, trials: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Rates with zeros among them, and counts above one and missing entries."""
    rng = np.random.default_rng(seed)
    spikes = rng.poisson(0.7, (trials, 8, 3)).astype(np.float32)
    rates = rng.gamma(1.0, 0.7, spikes.shape).astype(np.float32)
    rates[rng.random(spikes.shape) < 0.05] = 0
    if seed % 2:
        spikes[1, :4] = np.nan
    return rates, spikes


@given(st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_equals_bits_per_spike_on_all_and_on_some_trials(seed: int) -> None:
    rates, spikes = example(seed)
    scorer = CoBps(spikes)
    reduced = scorer.reduce({NAME: rates})
    assert scorer.score(reduced) == pytest.approx(bits_per_spike(rates, spikes), abs=1e-6)
    some = np.flatnonzero(np.random.default_rng(seed).random(len(spikes)) < 0.6)
    fired = np.isin(scorer.rows["fired"], some)
    kept = {"fired": reduced["fired"][fired], "mass": reduced["mass"][some]}
    expected = bits_per_spike(rates[some], spikes[some]) if len(some) else np.nan
    assert scorer.take(some).score(kept) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("scale", [1e-300, 1e-44, 1e-9, 1.0, 1e30, 1e300])
def test_sums_of_logarithms_of_any_size(scale: float) -> None:
    values = scale * np.random.default_rng(0).uniform(0.5, 1.5, 61)
    assert log_sum(values) == pytest.approx(float(np.log(values).sum()), rel=1e-12)


def test_impossible_rates_have_no_score() -> None:
    rates, spikes = example(0)
    for bad in (np.nan, np.inf, -1.0):
        broken = rates.copy()
        broken[np.unravel_index(np.argmin(spikes), spikes.shape)] = bad
        assert np.isnan(CoBps(spikes)({NAME: broken}))
