from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from ground.machine import available_cpus
from models.base import Metric
from tuner.progress import Progress, clock
from tuner.resources import plan, plan_nodes


@given(
    st.integers(1, 64), st.integers(0, 8), st.sampled_from([0.25, 0.5, 1, 2, 3]), st.sampled_from([0, 0.25, 0.5, 1, 2])
)
def test_a_plan_fits_the_machine(cpus: int, gpus: int, cpus_per_trial: float, gpus_per_trial: float) -> None:
    try:
        found = plan(cpus, gpus, None, cpus_per_trial, gpus_per_trial)
    except BadInput as error:
        assert cpus_per_trial > cpus or gpus_per_trial > gpus
        assert "no trial could start" in str(error)
        return
    assert found >= 1
    assert found * cpus_per_trial <= cpus
    assert found * gpus_per_trial <= gpus or not gpus_per_trial


def test_two_trials_on_each_gpu_as_the_winners_ran() -> None:
    assert plan(16, 4, None, 1, 0.5) == 8
    with pytest.raises(BadInput, match="at most 8"):
        plan(16, 4, 9, 1, 0.5)


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 8)), max_size=4),
    st.sampled_from([0.5, 1, 2, 3]),
    st.sampled_from([0, 0.5, 1, 2]),
    st.integers(1, 4),
)
def test_a_cluster_takes_what_its_nodes_take(
    nodes: list[tuple[int, int]], cpus: float, gpus: float, ranks: int
) -> None:
    """A process lies on one node, whatever the sums over all nodes are."""
    places = 0
    for there, devices in nodes:
        while there >= cpus and devices >= gpus:  # one after the other, as Ray puts them
            there, devices, places = there - cpus, devices - gpus, places + 1
    if gpus == 0.5 and ranks > 1:
        return
    if places < ranks:
        with pytest.raises(BadInput, match="no trial could start"):
            plan_nodes(nodes, None, cpus, gpus, ranks)
    else:
        assert plan_nodes(nodes, None, cpus, gpus, ranks) == places // ranks
        with pytest.raises(BadInput, match=f"at most {places // ranks} do"):
            plan_nodes(nodes, places // ranks + 1, cpus, gpus, ranks)


def test_cores_are_counted() -> None:
    assert available_cpus() >= 1


def follow(mode: str) -> str:
    out = io.StringIO()
    with Progress(mode, Metric("co-bps"), 3, 1, "study", out) as shown:
        shown.say("hello")
        shown.start("aaaa", False)
        shown.report("aaaa", 0.5, 0.1)
        shown.end("aaaa", "finished", 0.2, "")
        shown.start("bbbb", True)
        shown.end("bbbb", "diverged", None, "loss is nan")
    return out.getvalue()


def test_plain_lines() -> None:
    lines = follow("plain").splitlines()
    assert lines[0] == "hello"
    assert lines[1].startswith("[2/3] aaaa finished: co-bps 0.2000; best 0.2000 (aaaa)")
    assert "[3/3] bbbb diverged: loss is nan; best 0.2000 (aaaa)" in lines[2]
    assert "1 failed" in lines[2]


def test_json_lines() -> None:
    events = [json.loads(line) for line in follow("json").splitlines()]
    assert [e["event"] for e in events] == ["message", "started", "progress", "finished", "resumed", "diverged"]
    assert events[3]["co-bps"] == 0.2
    assert events[3]["ended"] == 2


def test_quiet_is_quiet() -> None:
    assert follow("quiet") == ""


def test_live_table_shows_the_best() -> None:
    out = io.StringIO()
    shown = Progress("live", Metric("co-bps"), 3, 0, "study", out)
    with shown:
        shown.start("aaaa", False)
        shown.report("aaaa", 0.5, 0.1)
        from rich.console import Console

        page = io.StringIO()
        Console(file=page, width=100).print(shown._table())
    assert "best co-bps 0.1000 (aaaa)" in page.getvalue()
    assert "50%" in page.getvalue()


def test_clock() -> None:
    assert [clock(s) for s in (5, 75, 3700, float("nan"))] == ["0:05", "1:15", "1:01:40", "-"]
