"""A study cannot be lost: killed, interrupted, out of disk, it goes on and ends the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import ROOT, SLOW, run


def search(
    space: Path, study: Path, *more: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run("run_hyperopt.py", space, "--study", study, "--workers", 2, *more, env=env)


def ended(study: Path) -> set[str]:
    return {path.parent.name for path in study.glob("trials/*/result.json")}


def whole(study: Path) -> None:
    """Every file of a study can be read: nothing is half-written."""
    from ground.states import load_state

    for path in study.rglob("*.safetensors"):
        if not path.name.startswith(".tmp-"):
            load_state(path)
    for path in [*study.rglob("config.json"), *study.rglob("result.json"), *study.glob("trials/*/best.json")]:
        json.loads(path.read_text())
    for path in [*study.glob("models.csv"), *study.glob("trials/*/metrics.csv")]:
        assert len(pd.read_csv(path)) > 0


def start(space: Path, study: Path, *more: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "run_hyperopt.py", space, "--study", study, "--workers", 2, *more]
    return subprocess.Popen(
        [str(c) for c in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.1)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "_trainable" in " ".join(child.cmdline()) or "ImplicitFunc" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver alone, as the kernel's out-of-memory killer would."""
    process.kill()
    process.communicate()


def test_search_resume_extend_refuse_overwrite(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "one"
    first = search(tiny_space, study)
    assert first.returncode == 0, first.stderr
    assert "co-bps out of fold" in first.stdout
    assert len(ended(study)) == 4
    whole(study)
    frame = pd.read_csv(study / "models.csv", index_col=0, dtype={"trial_id": str})
    assert list(frame["co-bps"]) == sorted(frame["co-bps"], reverse=True)
    assert {"trial_id", "val_ckpt", "seconds", "status", "path", "MODEL.DROPOUT", "TRAIN.LR.INIT"} <= set(frame)
    kept_rows = frame.dropna(subset="path")  # of snapshots of the same moment one stays
    assert all((study / path).exists() for path in kept_rows["path"])
    assert set(kept_rows["trial_id"]) == set(frame["trial_id"])
    assert not kept_rows.duplicated(["trial_id", "step"]).any()
    assert set(study.glob("trials/*/*.safetensors")) == {study / path for path in kept_rows["path"]}
    page = (study / "report.html").read_text()
    for heading in (
        "Optimization history",
        "Parallel coordinates",
        "Learning curves",
        "Ensemble size",
        "Single trials",
    ):
        assert heading in page
    assert 'src="http' not in page  # self-contained
    assert list(study.glob("trials/*/tb/events*"))

    stamp = (study / "ensemble/ensemble.json").stat().st_mtime_ns
    again = search(tiny_space, study)
    assert again.returncode == 0
    assert "resuming study one: 4 of 4" in again.stdout
    assert (study / "ensemble/ensemble.json").stat().st_mtime_ns == stamp

    kept = {p: p.read_bytes() for p in study.glob("trials/*/best.safetensors")}
    more = search(tiny_space, study, "--samples", 6, "--json")
    assert more.returncode == 0, more.stderr
    assert len(ended(study)) == 6
    assert all(p.read_bytes() == content for p, content in kept.items())
    events = [json.loads(line) for line in more.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] == "finished"] == ["finished"] * 2
    assert events[-1]["event"] == "done"

    other = search(tiny_space, study, "--set", "MODEL.NUM_LAYERS=2")
    assert other.returncode == 2
    assert "another fixed settings" in other.stderr
    assert "MODEL.NUM_LAYERS" in other.stderr
    assert search(tiny_space, study, "--seed", 2).returncode == 2
    assert len(ended(study)) == 6
    fresh = search(tiny_space, study, "--samples", 1, "--overwrite", "--quiet")
    assert fresh.returncode == 0
    assert fresh.stdout == ""
    assert len(ended(study)) == 1


@pytest.mark.slow
def test_other_data_under_the_same_name_is_refused(tiny_space: Path, spikes: Path, tmp_path: Path) -> None:
    import h5py

    copy = tmp_path / "tiny.h5"
    shutil.copy(spikes, copy)
    space = tmp_path / "s.yaml"
    space.write_text(tiny_space.read_text().replace(str(spikes), str(copy)))
    assert search(space, tmp_path / "st", "--samples", 1, "--no-ensemble").returncode == 0
    with h5py.File(copy, "a") as file:
        file["train_data_heldin"][0, 0, 0] += 1
    refused = search(space, tmp_path / "st", "--samples", 1)
    assert refused.returncode == 2
    assert "another data" in refused.stderr


def test_a_foreign_folder_is_never_deleted(tiny_space: Path, tmp_path: Path) -> None:
    place = tmp_path / "precious"
    place.mkdir()
    (place / "thesis.txt").write_text("years")
    done = search(tiny_space, place, "--overwrite")
    assert done.returncode == 2
    assert (place / "thesis.txt").read_text() == "years"


@pytest.mark.slow
def test_killed_drivers_lose_nothing(tiny_space: Path, tmp_path: Path) -> None:
    """kill -9 at random moments; every finished trial stays as it was, and the study ends complete."""
    study, samples = tmp_path / "killed", 6
    rounds = 10 if SLOW else 3
    rng = random.Random(1)
    more = ("--samples", samples, "--no-ensemble", "--set", "TRAIN.NUM_UPDATES=60")
    before: dict[str, bytes] = {}
    for _ in range(rounds):
        process = start(tiny_space, study, *more)
        wait_for(lambda: list(study.glob("trials/*/config.json")), process)
        time.sleep(rng.uniform(0, 6))
        kill(process)
        whole(study)
        for trial, content in before.items():
            assert (study / "trials" / trial / "result.json").read_bytes() == content
        before = {t: (study / "trials" / t / "result.json").read_bytes() for t in ended(study)}
    last = search(tiny_space, study, *more)
    assert last.returncode == 0, last.stderr
    assert len(ended(study)) == samples
    assert len(list(study.glob("trials/*"))) == samples
    for trial, content in before.items():
        assert (study / "trials" / trial / "result.json").read_bytes() == content
    assert all(json.loads(p.read_text())["status"] == "finished" for p in study.glob("trials/*/result.json"))


def test_interrupted_trial_ends_as_if_never_stopped(tiny_space: Path, tmp_path: Path) -> None:
    """The checkpoint to go on from is written often here; both studies must end in the same numbers."""
    from ground.states import load_state
    from models.base import Place
    from models.registry import get
    from tuner.trial import run_trial

    class Stop(Exception):
        pass

    import yaml

    space = yaml.safe_load(tiny_space.read_text())
    family = get("ndt")
    data = family.load(space["data"], "val")
    settings = family.check({**space["fixed"], "TRAIN.NUM_UPDATES": 12})
    calls = 0

    def stop_in_the_middle(metrics: dict[str, object]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    ends = {}
    for name in ("straight", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                run_trial(folder, family, settings, lambda: data, Place(), 5, stop_in_the_middle, checkpoint_seconds=0)
            assert (folder / "last.safetensors").exists()
        result = run_trial(
            folder, family, settings, lambda: data, Place(), 5, lambda metrics: None, checkpoint_seconds=0
        )
        ends[name] = (result["best"], load_state(folder / "best.safetensors")["weights"]["network"])
    assert ends["straight"][0] == ends["cut"][0]
    for key, tensor in ends["straight"][1].items():
        assert (tensor == ends["cut"][1][key]).all()
    rows = {name: pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="seconds") for name in ends}
    pd.testing.assert_frame_equal(rows["straight"], rows["cut"])


@pytest.mark.slow
def test_killed_worker_is_replaced(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "worker"
    process = start(tiny_space, study, "--samples", 2, "--no-ensemble", "--set", "TRAIN.NUM_UPDATES=400")
    wait_for(lambda: list(study.glob("trials/*/best.safetensors")), process)
    victims = workers_of(process)
    assert victims
    victims[0].kill()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert len(ended(study)) == 2
    whole(study)


def test_interrupt_exits_130_and_resumes(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "ctrl-c"
    more = ("--samples", 3, "--no-ensemble", "--set", "TRAIN.NUM_UPDATES=300")
    process = start(tiny_space, study, *more)
    wait_for(lambda: list(study.glob("trials/*/metrics.csv")), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "same command goes on" in output
    assert "Traceback" not in output
    whole(study)
    resumed = search(tiny_space, study, *more)
    assert resumed.returncode == 0, resumed.stderr
    assert len(ended(study)) == 3


def test_second_search_of_a_study_is_refused(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "busy"
    process = start(tiny_space, study, "--samples", 2, "--set", "TRAIN.NUM_UPDATES=2000")
    try:
        wait_for(lambda: list(study.glob("trials/*/config.json")), process)
        second = search(tiny_space, study, "--samples", 2, "--set", "TRAIN.NUM_UPDATES=2000")
        assert second.returncode == 2
        assert "in use by another process" in second.stderr
    finally:
        kill(process)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_stops_and_resumes(tiny_space: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        study = disk / "full"
        more = ("--samples", 8, "--no-ensemble", "--set", "MODEL.HIDDEN_SIZE=1024")
        done = search(tiny_space, study, *more)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "full" in done.stderr.lower() or "no space" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        whole(study)
        kept = {t: (study / "trials" / t / "result.json").read_bytes() for t in ended(study)}
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        again = search(tiny_space, study, *more)
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(ended(study)) == 8
        for trial, content in kept.items():
            assert (study / "trials" / trial / "result.json").read_bytes() == content
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_failed_and_diverged_trials_stay_in_the_table(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "diverged"
    done = search(tiny_space, study, "--samples", 2, "--set", "TRAIN.LR.INIT=1e30", "--set", "TRAIN.MAX_GRAD_NORM=1e30")
    assert done.returncode == 1
    assert "not one trial succeeded" in done.stderr
    frame = pd.read_csv(study / "models.csv")
    assert set(frame["status"]) == {"diverged"}
    assert frame["reason"].str.contains("loss is nan|loss is inf").all()


@pytest.mark.slow
def test_asha_and_optuna_and_warm_start(tiny_space: Path, tmp_path: Path) -> None:
    study = tmp_path / "asha"
    done = search(tiny_space, study, "--samples", 5, "--scheduler", "asha", "--searcher", "optuna", "--keep", 3,
                  "--set", "TRAIN.NUM_UPDATES=40")  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses = {json.loads(p.read_text())["status"] for p in study.glob("trials/*/result.json")}
    assert statuses <= {"finished", "stopped"}
    frame = pd.read_csv(study / "models.csv")
    assert frame["path"].notna().sum() == 3  # the rest was pruned, its rows were not
    assert len(frame) > 3
    warm = search(tiny_space, tmp_path / "warm", "--samples", 1, "--no-ensemble", "--warm-start", study / "models.csv",
                  "--searcher", "random", "--objective", "best_masked_loss")  # fmt: skip
    assert warm.returncode == 0, warm.stderr
