"""The benchmarks run, and ours is the faster: ratios of CPU time, with room for a noisy machine."""

from __future__ import annotations

import resource

import pytest

from benchmarks import inference, ndt, searchers, selection


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(("case", "ratio"), [("band", 1.6), ("no band", 1.4)])
def test_a_step_is_faster_than_the_textbook_loop(case: str, ratio: float) -> None:
    times = ndt.measure(3, case)
    assert times["plain"] / times["ours"] > ratio


@pytest.mark.alone
@pytest.mark.slow
def test_inference_is_faster_than_the_plain_loop() -> None:
    times = inference.measure(30, 4, 5)
    assert times["plain, one thread"] / times["ours"] > 1.1


@pytest.mark.alone
@pytest.mark.slow
def test_an_ensemble_is_chosen_in_time_and_memory() -> None:
    seconds, pool = selection.whole()
    assert seconds <= 90
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= 4 * 2**20
    assert len(pool.predictions) == 60


def test_both_ways_of_selecting_agree() -> None:
    _, pool = selection.whole(trials=30, candidates=6)
    times = selection.piece(pool, trials=30)
    assert set(times) == {"ours", "plain"}


def test_the_searcher_comparison_runs() -> None:
    for name in searchers.CONTENDERS:
        ((best, _, repeats),) = searchers.compare(name, 1, 14)
        assert 0.0 < best < 0.37
        assert repeats == 0 or name == "skopt as Ray used it"
