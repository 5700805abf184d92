"""Unit parameters: every convention there and back, and what has no meaning is refused."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellspike.units import Units
from tests.conftest import SHARED

reals = st.floats(-1, 1)
positive = st.floats(1e-7, 1e2)
SAMPLE = SHARED / "data" / "cellspike" / "L5_TTPC_bpo.mlPack1.h5"


@st.composite
def ontra(draw: Any) -> tuple[Units, np.ndarray, np.ndarray]:
    base = np.array(draw(st.lists(positive, min_size=1, max_size=5)))
    width = draw(st.floats(0, 2))
    cent = np.log10(base) + draw(st.floats(-1.5, 1.5))
    delta = np.full(len(base), draw(st.floats(1, 3)))
    ranges = np.stack([base / 10**width, base * 10**width], 1)
    return Units.ontra([f"g{i}" for i in range(len(base))], ranges, cent, delta, ["S/cm2"] * len(base)), cent, delta


@st.composite
def centred(draw: Any) -> Units:
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=5))
    rows = [[draw(st.floats(-90, 90)) if linear else draw(positive), draw(st.floats(0.05, 2)), "x"] for linear in kinds]
    return Units.centred([f"p{i}" for i in range(len(kinds))], rows, [i for i, linear in enumerate(kinds) if linear])


@st.composite
def ranged(draw: Any) -> tuple[Units, list[list[float]], list[float]]:
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=5))
    low = [draw(st.floats(-2, 2)) for _ in kinds]
    rows = [[lo, lo + draw(st.floats(0.1, 3))] for lo in low]
    base = [draw(positive) for _ in kinds]
    names = [f"p{i}" for i in range(len(kinds))]
    return Units.ranged(names, rows, base, [n for n, linear in zip(names, kinds, strict=True) if linear]), rows, base


def there_and_back(units: Units, u: np.ndarray) -> None:
    assert units.unit(units.star(u)) == pytest.approx(u, abs=1e-9)
    assert units.from_physical(units.physical(u)) == pytest.approx(u, abs=1e-9)
    again = Units.of(json.loads(json.dumps(units.as_dict())))
    assert again.as_dict() == units.as_dict()
    assert np.array_equal(again.physical(u), units.physical(u))


@given(ontra(), reals)
def test_ontra(made: tuple[Units, np.ndarray, np.ndarray], u: float) -> None:
    units, cent, delta = made
    rows = np.full((3, len(cent)), u)
    there_and_back(units, rows)
    # the direct formula of the field, without bias and base
    assert units.physical(rows) == pytest.approx(10 ** (units.star(rows) * delta + cent), rel=1e-9)
    assert units.physical(rows[0]) == pytest.approx(units.centre * 10**u, rel=1e-12)


@given(centred(), reals)
def test_centred(units: Units, u: float) -> None:
    rows = np.full(len(units.names), u)
    there_and_back(units, rows)
    assert not units.has_star and np.array_equal(units.star(rows), rows)
    ends = units.physical(np.stack([rows * 0, rows * 0 + 1]))
    assert ends[0] == pytest.approx(units.centre, rel=1e-12)
    expected = np.where(units.linear, units.centre + units.half, units.centre * 10**units.half)
    assert ends[1] == pytest.approx(expected, rel=1e-9)


@given(ranged(), reals)
def test_ranged(made: tuple[Units, list[list[float]], list[float]], u: float) -> None:
    units, rows, base = made
    values = np.full(len(rows), u)
    there_and_back(units, values)
    for k, (low, high) in enumerate(rows):
        x = (low + high) / 2 + u * (high - low) / 2
        wanted = x if units.linear[k] else base[k] * 10**x
        assert units.physical(values)[k] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_the_real_pack_agrees(shared: Any) -> None:
    with h5py.File(SAMPLE) as file:
        meta = json.loads(file["meta.JSON"][0])
        units = Units.centred(meta["parName"], meta["phys_par_range"], meta["linearParIdx"])
        u, p = file["train_unit_par"][()], file["train_phys_par"][()]
    assert units.physical(u) == pytest.approx(p, rel=2e-6)
    assert units.units == ("",) * 19


def test_taking_some() -> None:
    units = Units.ontra(["a", "b", "c"], [[1, 100], [2, 8], [3, 3]], [1, 0, 0], [2, 1, 1])
    some = units.take([2, 0])
    assert some.names == ("c", "a") and some.centre.tolist() == pytest.approx([3, 10])
    assert some.scale.tolist() == [1, 2] and units.has_star


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Units.ontra(["gNa"], [[0, 1]]), "gNa"),
        (lambda: Units.ontra(["gNa"], [[-1, 1]]), "gNa"),
        (lambda: Units.ontra(["gNa"], [[2, 1]]), "lo <= hi"),
        (lambda: Units.ontra(["gNa"], [[1, np.inf]]), "gNa"),
        (lambda: Units.ontra(["gNa"], [[1, 1]], [0], [0]), "scale is 0"),
        (lambda: Units.ontra(["gNa"], [[1, 1]], [np.nan], [1]), "bias is nan"),
        (lambda: Units.ontra(["gNa", "gK"], [[1, 1]]), "1 ranges for 2"),
        (lambda: Units.centred(["gNa"], [[1, 0, "S"]], []), "half is 0"),
        (lambda: Units.centred(["e_pas"], [[-75, 1]], []), "e_pas"),
        (lambda: Units.centred(["gNa"], [["x", 1]], []), "two numbers"),
        (lambda: Units.centred(["gNa"], [[1, 1]], [4]), "index 4"),
        (lambda: Units.ranged(["gNa"], [[-1, 1]], [0.0], []), "base 0"),
        (lambda: Units.ranged(["gNa"], [[-1, 1]], [1.0, 2.0], []), "2 base values"),
        (lambda: Units.of({"names": ["a"]}), "unreadable"),
        (lambda: Units.ontra(["gNa"], [[1, 1]]).from_physical(np.array([[-1.0]])), "gNa"),
    ],
)
def test_what_means_nothing_is_refused(call: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()
