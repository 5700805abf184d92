"""Searchers of an empty space: one setting, as often as asked for."""

from __future__ import annotations

import pytest
from ray.tune.search import Searcher

from tuner import searchers


@pytest.mark.parametrize("name", searchers.names())
def test_one_setting_is_handed_out_again_and_again(name: str) -> None:
    searcher = searchers.create(name, {}, "objective", "min", 1)
    for number in range(4):
        assert searcher.suggest(str(number)) == {}
        assert searcher.asked == number + 1
    searcher.on_trial_complete("0", {"objective": 1.0})
    searcher.add_evaluated_point({}, 2.0)
    searcher.add_pending_point("9", {})
    assert searcher.suggest("5") == {}
    assert len(searcher.history) == 2 and len(searcher.pending) == 5


def test_an_infeasible_one_ends_the_search() -> None:
    searcher = searchers.create("skopt", {}, "objective", "min", 1, lambda point: False)
    assert searcher.suggest("0") == Searcher.FINISHED
