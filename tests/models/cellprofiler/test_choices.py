from __future__ import annotations

import numpy as np
import pytest

from models.base import Diverged
from models.cellprofiler import choices
from models.cellprofiler.choices import Choice, apply, choose
from models.cellprofiler.scorers import MeanAveragePrecision
from models.cellprofiler.wells import Wells, profiles

CELLS = 12


def plates(seed: int = 0, labels: int = 10, nuisance: float = 6.0) -> tuple[dict[str, np.ndarray], Wells, np.ndarray]:
    """Cells of wells on three plates: a layer that says the label under a nuisance that controls show, too, and a layer
    of noise."""
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(labels), np.full(10, labels)] * 3)
    plate = np.repeat(["P1", "P2", "P3"], labels + 10)
    count, d = len(target), 16
    kinds = np.vstack([np.random.default_rng(99).normal(size=(labels, d)) * 0.5, np.zeros(d)])
    direction = np.random.default_rng(98).normal(size=d)
    well_level = kinds[target] + nuisance * rng.normal(size=(count, 1)) * direction / np.linalg.norm(direction)
    well_of = np.repeat(np.arange(count), CELLS)
    signal = well_level[well_of] + 0.5 * rng.normal(size=(len(well_of), d))
    features = {"noise": rng.normal(size=signal.shape).astype(np.float32), "signal": signal.astype(np.float32)}
    names = np.array([f"A{row}" for row in range(count)])
    wells = Wells(plate, names, target.astype(str), target, target == labels, np.full(count, CELLS))
    return features, wells, well_of


def test_the_layer_that_tells_is_chosen_and_controls_silence_the_nuisance() -> None:
    features, wells, well_of = plates()
    samples = np.flatnonzero(~wells.control)
    found = choose(features, wells, well_of, samples, lambdas=(None, 1e-2))
    assert found.choice.layer == "signal" and found.choice.lam == 1e-2
    assert len(found.table) == 2 * 2 * 2 and found.table["map"].is_monotonic_decreasing
    assert found.map == found.table["map"].iloc[0]
    unsphered = found.table.query("layer == 'signal' and lam.isna()")["map"].max()
    assert found.map > unsphered + 0.2 and found.table.query("layer == 'noise'")["map"].max() < 0.3
    scorer = MeanAveragePrecision(wells.target[samples], np.zeros(len(samples), int))
    assert scorer({"profile": found.profile}) == pytest.approx(found.map)
    np.testing.assert_allclose(found.similarity, found.profile @ found.profile.T, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.profile, axis=1), 1, atol=1e-5)


def test_a_choice_is_applied_to_other_wells() -> None:
    features, wells, well_of = plates()
    found = choose(features, wells, well_of, np.flatnonzero(~wells.control))
    choice = found.choice
    other, others, other_of = plates(seed=1)
    rows = np.flatnonzero(~others.control)
    profile = profiles(other[choice.layer], other_of, len(others), choice.aggregate)
    scorer = MeanAveragePrecision(others.target[rows], np.zeros(len(rows), int))
    with_controls = scorer({"profile": apply(choice, found.sphering, profile, others, rows)})
    assert with_controls > 0.6
    # the stored sphering serves wells that bring no controls
    alone = others.take(rows)
    assert scorer({"profile": apply(choice, found.sphering, profile[rows], alone, np.arange(len(rows)))}) > 0.6
    same = apply(choice, found.sphering, profiles(features[choice.layer], well_of, len(wells), choice.aggregate), wells,
                 np.flatnonzero(~wells.control))  # fmt: skip
    assert np.array_equal(same, found.profile)


def test_part_of_the_samples_ranks_the_whole_gallery() -> None:
    features, wells, well_of = plates()
    gallery = np.flatnonzero(~wells.control)
    whole = choose(features, wells, well_of, gallery, ["signal"], ["mean"], [0.1], pairs="plates")
    part = choose(features, wells, well_of, gallery[::3], ["signal"], ["mean"], [0.1], "plates", gallery)
    assert part.similarity.shape == (10, 30) and part.profile.shape == (10, 16)
    np.testing.assert_allclose(part.similarity, whole.similarity[::3], atol=1e-6)
    scorer = choices.scorer_of(wells, gallery, gallery, "plates")
    expected = scorer.each({"similarity": whole.similarity})[::3].mean()
    assert part.map == pytest.approx(expected)


def test_where_nothing_can_be_found_the_first_choice_stands() -> None:
    features, wells, well_of = plates()
    lonely = choose(features, wells, well_of, np.array([0]), ["noise", "signal"], ["median"], [None, 0.1])
    assert np.isnan(lonely.map) and lonely.choice == Choice("noise", "median", None)
    assert lonely.choice.to_json() == {"layer": "noise", "aggregate": "median", "lam": None}


def test_features_that_are_not_finite_are_told() -> None:
    features, wells, well_of = plates()
    features["signal"][3, 2] = np.inf
    with pytest.raises(Diverged, match="signal"):
        choose(features, wells, well_of, np.arange(5))
