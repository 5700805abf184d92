"""No block in two parts, the same split whatever comes first, classes in their shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models.xtcav.split import balance, blocks, cap, class_weights, split, weighted

SHARES = (0.7, 0.2, 0.1)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count, size = draw(st.integers(4, 40)), draw(st.integers(1, 9))
    labels = draw(st.lists(st.integers(0, 3), min_size=count * size, max_size=count * size))
    return np.array(labels), np.repeat(np.arange(count), size)


@given(labelled(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_block_is_split_and_each_part_has_some(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    labels, block = data
    part = split(labels, block, SHARES, seed)
    assert set(part) == {0, 1, 2}
    assert all(len(set(part[block == b])) == 1 for b in set(block))
    assert np.array_equal(part, split(labels, block, SHARES, seed))


def test_shares_hold_for_each_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 8000, p=[0.099, 0.062, 0.432, 0.407])
    part = split(labels, np.arange(8000) // 10, SHARES, 1)
    for label in range(4):
        found = np.bincount(part[labels == label]) / (labels == label).sum()
        assert found == pytest.approx(SHARES, abs=0.01)
    assert not np.array_equal(part, split(labels, np.arange(8000) // 10, SHARES, 2))


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(BadInput, match="2 blocks"):
        split(np.zeros(20, int), np.arange(20) // 10, SHARES, 0)
    assert set(split(np.zeros(20, int), np.arange(20) // 10, (0.5, 0.5, 0.0), 0)) == {0, 1}


def test_blocks_end_with_the_run() -> None:
    run = np.array([69] * 5 + [70] * 4)
    none = np.zeros(9, int)
    assert blocks(run, none, none, 2, False).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    group = np.array([0, 0, 1, 1, 2, 0, 0, 1, 1])
    assert blocks(run, group, run, 100, True).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    assert len(blocks(run[:0], none[:0], none[:0], 2, False)) == 0


@pytest.mark.parametrize(("ratio", "most"), [(1.0, 2355), (2.3, 5417), (3.2, 7536), (4.0, 9420), (0.25, 9420)])
def test_caps_are_the_published_ones(ratio: float, most: int) -> None:
    assert cap(np.array([3744, 2355, 16390, 15489]), ratio) == most


def test_caps_round_half_up() -> None:
    assert (cap(np.array([5]), 1.5), cap(np.array([3]), 1.5), cap(np.array([18]), 1.2)) == (8, 5, 22)
    for counts, ratio in (([3, 0], 1.0), ([3], 0.0), ([3], -1.0), ([3], float("nan"))):
        with pytest.raises(BadInput):
            cap(np.array(counts), ratio)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.floats(0.2, 5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_balancing_caps_each_class(counts: list[int], ratio: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept = balance(labels, len(counts), ratio, np.random.default_rng(seed))
    most = cap(np.array(counts), ratio)
    assert np.bincount(labels[kept]).tolist() == [min(count, most) for count in counts]
    assert (np.diff(kept) > 0).all()


def test_weights_and_draws_make_classes_equal() -> None:
    labels = np.repeat([0, 1, 2], [50, 200, 1000])
    weights = class_weights(np.array([50, 200, 1000, 0]))
    assert weights[:3] * [50, 200, 1000] == pytest.approx(1250 / 3)
    assert weights[3] == 0
    assert weights[labels].mean() == pytest.approx(1)
    drawn = labels[weighted(labels, np.random.default_rng(0))]
    assert len(drawn) == 1250
    assert np.bincount(drawn) / 1250 == pytest.approx(1 / 3, abs=0.05)
