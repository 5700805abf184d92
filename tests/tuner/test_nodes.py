"""Clusters: several nodes with GPUs of their own, on this machine; none of the GPUs is real."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ground.states import load_state
from tests.clusters import Cluster
from tests.conftest import run
from tests.tuner.test_cluster import env, launch  # noqa: F401

CPUS, GPUS = 8, 4
SECONDS = 400.0
PACE = ("--set", "pace=0.1", "--searcher", "random")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with four GPUs each."""
    nodes = Cluster()
    try:
        for _ in range(2):
            nodes.add(CPUS, GPUS)
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def places(env: dict[str, str], cluster: Cluster, tmp_path: Path) -> Path:  # noqa: F811
    """The file in which each attempt at a trial notes where it runs; the environment of such a search names it."""
    env.update(cluster.env, MEAN_PLACES=str(tmp_path / "places.jsonl"))
    return tmp_path / "places.jsonl"


def noted(places: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in places.read_text().splitlines()] if places.exists() else []


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.2)


def stop(process: Any) -> None:
    """Ctrl-C, and what it leaves."""
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 130, err


def epochs(study: Path) -> dict[float, int]:
    """How far the checkpoint of each trial is, by the trial's rate."""
    found = {}
    for folder in study.glob("trials/*"):
        if (folder / "last.safetensors").exists():
            rate = json.loads((folder / "config.json").read_text())["settings"]["rate"]
            found[rate] = load_state(folder / "last.safetensors")["learner"]["epoch"]
    return found


@pytest.mark.slow
def test_half_a_gpu_a_trial_puts_eight_on_a_node(
    cluster: Cluster,
    env: dict[str, str],  # noqa: F811
    places: Path,
    tmp_path: Path,
) -> None:
    given = ("--address", cluster.address, "--gpus-per-trial", 0.5, "--samples", 16, *PACE)
    process = launch(tmp_path / "one", env, *given)
    try:
        wait(lambda: len(noted(places)) == 16 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        nodes = Counter(place["parent"] for place in noted(places))
        assert sorted(nodes.values()) == [8, 8]
        for node in nodes:
            devices = Counter(place["devices"] for place in noted(places) if place["parent"] == node)
            assert devices == {str(number): 2 for number in range(GPUS)}
        assert {place["device"] for place in noted(places)} == {"cuda"}
        assert len({place["pid"] for place in noted(places)}) == 16
    finally:
        stop(process)
    assert not (tmp_path / "one/.ray").exists()


@pytest.mark.slow
def test_trials_of_a_dead_node_and_of_a_dead_driver_go_on_from_their_checkpoints(
    cluster: Cluster,
    env: dict[str, str],  # noqa: F811
    places: Path,
    tmp_path: Path,
) -> None:
    study = tmp_path / "one"
    third = cluster.add(CPUS, GPUS)
    given = ("--address", cluster.address, "--gpus-per-trial", 2, "--workers", 4, "--samples", 4)
    given += ("--checkpoint-seconds", 0.5, *PACE)
    process = launch(study, env, *given)
    try:
        wait(lambda: len(epochs(study)) == 4 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        first = noted(places)
        assert {place["devices"] for place in first} <= {"0,1", "2,3"}
        assert len({(place["parent"], place["devices"]) for place in first}) == 4
        # the node with the most trials that is not the driver's own
        driver_node = psutil.Process(cluster.nodes[0].pid)
        own = {child.pid for child in driver_node.children()}
        by_node = Counter(place["parent"] for place in first if place["parent"] not in own)
        victim, lost = by_node.most_common(1)[0]
        node = next(n for n in cluster.nodes if victim in {c.pid for c in psutil.Process(n.pid).children()})
        moved = {place["rate"] for place in first if place["parent"] == victim}
        before = epochs(study)
        cluster.kill(node)
        wait(lambda: len(noted(places)) == 4 + lost or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        again = noted(places)[4:]
        assert {place["rate"] for place in again} == moved
        for place in again:
            assert place["parent"] != victim
            assert place["epoch"] >= before[place["rate"]] > 0
        # now the driver; the same command goes on, from further on
        before = epochs(study)
        assert len(before) == 4
        process.kill()
        process.communicate()
        places.unlink()
        process = launch(study, env, *given)
        wait(lambda: len(noted(places)) == 4 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        assert {place["rate"] for place in noted(places)} == set(before)
        for place in noted(places):
            assert place["epoch"] >= before[place["rate"]] > 0
        stop(process)
    finally:
        if process.poll() is None:
            process.kill()
        if len(cluster.nodes) > 2:
            cluster.kill(third if third in cluster.nodes else cluster.nodes[-1])
    assert not list(study.glob("trials/*/result.json"))
    assert not (study / ".ray").exists()


@pytest.mark.slow
def test_what_does_not_fit_is_said(
    cluster: Cluster,
    env: dict[str, str],  # noqa: F811
    places: Path,
    tmp_path: Path,
) -> None:
    study = tmp_path / "one"
    total = 2 * CPUS
    strangers = {**env, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    for more, who, words in (
        (("--workers", total + 1), env, f"at most {total} do"),
        (("--cpus-per-trial", CPUS + 1), env, "no node has such room"),
        (("--gpus-per-trial", GPUS + 1), env, "no node has such room"),
        (("--gpus-per-trial", 2 * GPUS + 1), env, f"wants {2 * GPUS + 1} GPUs but there are {2 * GPUS}"),
        ((), strangers, f"no Ray cluster at {cluster.address}"),
    ):
        done = run(
            "run_hyperopt.py", "small", "--study", study, "--address", cluster.address, *more, env=who, timeout=240
        )
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert words in done.stderr
        assert not study.exists()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a folder of a node's own needs root")
def test_a_node_that_does_not_share_the_folder_is_named(
    cluster: Cluster,
    env: dict[str, str],  # noqa: F811
    places: Path,
    tmp_path: Path,
) -> None:
    where = tmp_path / "disk"
    where.mkdir()
    killed, lives = (where / f".concert-probe-{socket.gethostname()}-{pid}-x" for pid in (2**22 + 1, os.getpid()))
    killed.touch()
    lives.touch()
    given = ("run_hyperopt.py", "small", "--study", where / "one", "--address", cluster.address, "--no-ensemble")
    try:
        node = cluster.add(1, own=where)
    except RuntimeError:
        pytest.skip("this machine allows no mounts")
    try:
        done = run(*given, env=env)
    finally:
        cluster.kill(node)
    assert done.returncode == 2
    assert f"{where} is not shared: node " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(where.iterdir()) == [lives]
    done = run(*given, env=env)
    assert done.returncode == 0, done.stderr
