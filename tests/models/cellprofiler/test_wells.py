from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.states import load_state, save_state
from models.cellprofiler.sphering import Sphering
from models.cellprofiler.wells import Wells, profiles


def wells(count: int = 6) -> Wells:
    rows = np.arange(count)
    text = np.array([f"P{row % 2}" for row in rows])
    return Wells(text, np.array([f"A{row}" for row in rows]), text, rows, rows % 3 == 0, rows + 1)


def test_wells_are_taken_in_any_order() -> None:
    some = wells().take(np.array([4, 1]))
    assert some.well.tolist() == ["A4", "A1"] and some.cells.tolist() == [5, 2] and len(some) == 2
    assert some.keys.tolist() == ["P0/A4", "P1/A1"]
    assert wells().take(wells().control).well.tolist() == ["A0", "A3"]
    with pytest.raises(ValueError, match="different lengths"):
        Wells(**{**vars(wells()), "cells": np.arange(2)})


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 7), st.sampled_from(["mean", "median"]))
def test_profiles_are_those_of_each_wells_cells(seed: int, cells: int, count: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    features, well_of = rng.normal(size=(cells, 3)).astype(np.float32), rng.integers(0, count, cells)
    found = profiles(features, well_of, count, how)
    assert found.shape == (count, 3) and found.dtype == np.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wells without cells
        for well in range(count):
            expected = getattr(np, how)(features[well_of == well], axis=0)
            np.testing.assert_allclose(found[well], expected, rtol=1e-5, atol=1e-6)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="mean, median"):
        profiles(np.ones((2, 2)), np.zeros(2, int), 1, "mode")


def naive(x: np.ndarray, control: np.ndarray, lam: float) -> np.ndarray:
    """The published formula on one plate, (S + λ)^(-½) over all d directions, λ relative."""
    c = x[control]
    c = c - c.mean(0)
    values, vectors = np.linalg.eigh(c.T @ c / len(c))
    out = (x - x[control].mean(0)) @ vectors @ np.diag((np.clip(values, 0, None) + lam * values.mean()) ** -0.5)
    out = out @ vectors.T
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "d"), [(40, 6), (12, 20)])  # more and fewer controls than features
@pytest.mark.parametrize("lam", [1e-4, 1e-2, 1.0])
def test_sphering_is_the_formula(count: int, d: int, lam: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count + 15, d)) @ rng.normal(size=(d, d))
    control = np.arange(len(x)) < count
    # on one plate standardising divides by the controls' deviation first
    standard = x / x[control].std(0, ddof=1)
    plates = np.full(len(x), "P")
    found = Sphering.fit(x, plates, control, lam)
    np.testing.assert_allclose(found.transform(x, plates), naive(standard, control, lam), atol=2e-5)
    other = Sphering.fit(x, plates, control, 0.5).at(lam).transform(x, plates)
    assert np.array_equal(other, found.transform(x, plates))


def test_controls_end_up_white() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 3
    plates, control = np.full(400, "P"), np.ones(400, bool)
    one = Sphering.fit(x, plates, control, 1e-9)
    standard = (x - one.mean[0]) / one.scale[0]
    white = standard @ (one.vectors * one.values**-0.5) @ one.vectors.T
    np.testing.assert_allclose(white.T @ white / 400, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(
        one.transform(x, plates), white / np.linalg.norm(white, axis=1, keepdims=True), atol=1e-5
    )


def two_plates() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Six labels on two plates that differ by an offset and a gain, twelve controls on each."""
    rng = np.random.default_rng(2)
    kinds = 5 * np.eye(8)[:6]
    label = np.concatenate([np.arange(6), np.full(12, -1)] * 2)
    x = rng.normal(size=(36, 8)) + np.where(label[:, None] >= 0, kinds[label], 0)
    plates = np.repeat(["P1", "P2"], 18)
    x[18:] = 3 * x[18:] + 20
    return x, plates, label, label < 0


def test_plates_are_brought_together() -> None:
    x, plates, label, control = two_plates()
    out = Sphering.fit(x, plates, control, None).transform(x, plates)
    nearest = (out[label >= 0] @ out[label >= 0].T - 2 * np.eye(12)).argmax(1)
    assert np.array_equal(label[label >= 0][nearest], label[label >= 0])
    # without statistics of its own the second plate's wells all look alike
    blind = Sphering.fit(x[:18], plates[:18], control[:18], None).transform(x, plates)[18:]
    assert (blind @ blind.T).min() > 0.7


def test_few_controls_do_not_blow_up_a_plate() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(42, 10))
    x[41, :5] = x[40, :5]  # two controls of the second plate happen to agree
    plates = np.array(["P1"] * 40 + ["P2"] * 2)
    one = Sphering.fit(x, plates, np.ones(42, bool), None)
    assert one.plates == ("P1", "P2")
    assert (one.scale[1] > 0.5).all() and np.allclose(one.mean[1], x[40:].mean(0))
    single = Sphering.fit(x[:41], plates[:41], np.ones(41, bool), None)
    assert single.plates == ("P1",)  # of one control no centre is made


def test_features_that_never_vary_are_harmless() -> None:
    x = np.random.default_rng(4).normal(size=(20, 4))
    x[:, 2] = 7.0
    plates, control = np.full(20, "P"), np.arange(20) < 10
    for lam in (None, 1e-3):
        out = Sphering.fit(x, plates, control, lam).transform(x, plates)
        assert np.isfinite(out).all() and np.abs(out[:, 2]).max() < 1e-6
    constant = Sphering.fit(np.ones((8, 3)), np.full(8, "P"), np.ones(8, bool), 0.1)
    assert not constant.transform(np.ones((8, 3)), np.full(8, "P")).any()


def test_without_controls_all_wells_serve() -> None:
    x, plates, _, _ = two_plates()
    none = Sphering.fit(x, plates, np.zeros(36, bool), 0.1)
    assert none.on == "all"
    assert np.array_equal(
        none.transform(x, plates), Sphering.fit(x, plates, np.ones(36, bool), 0.1).transform(x, plates)
    )
    with pytest.raises(ValueError, match="no well"):
        Sphering.fit(x[:0], plates[:0], np.zeros(0, bool), 0.1)
    with pytest.raises(ValueError, match="above 0"):
        Sphering.fit(x, plates, np.ones(36, bool), 0.0)


def test_other_wells_use_their_own_controls_where_they_have_some() -> None:
    x, plates, _, control = two_plates()
    one = Sphering.fit(x, plates, control, 0.1)
    shifted = x + 100
    names = np.char.add("new", plates)
    own = one.for_wells(shifted, names, control)
    np.testing.assert_allclose(own.transform(shifted, names), one.transform(x, plates), atol=1e-5)
    assert one.for_wells(shifted, names, np.zeros(36, bool)) is one


@pytest.mark.parametrize("lam", [None, 0.3])
def test_a_sphering_is_kept_in_a_snapshot(lam: float | None, tmp_path: Path) -> None:
    x, plates, _, control = two_plates()
    one = Sphering.fit(x, plates, control, lam)
    save_state(tmp_path / "s.safetensors", {"sphering": one.state()})
    back = Sphering.from_state(load_state(tmp_path / "s.safetensors")["sphering"])
    assert np.array_equal(back.transform(x, plates), one.transform(x, plates))
    assert (back.lam, back.plates, back.on) == (one.lam, one.plates, one.on)
