"""One trial trained by several processes: what a user sees, and what happens when one of them goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from ground.states import save_state
from models import registry
from models.base import Place
from studies.results import read_result
from tests.conftest import run
from tests.models.test_registry import HERE
from tuner.trial import RankEnded, run_trial

DATA = {"train": np.arange(4.0), "eval": np.arange(4.0)}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "spaces").mkdir()
    np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 40))
    (tmp_path / "spaces/parallel.yaml").write_text(
        "family: mean\ndata: {path: " + str(tmp_path / "values.txt") + "}\n"
        "space:\n  rate: {loguniform: [0.01, 0.9]}\nbudget: {samples: 1}\n"
    )
    return {registry.EXTRA_FOLDERS: str(HERE), "CONCERT_SPACES": str(tmp_path / "spaces")}


def scores(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "models.csv")[["trial_id", "mse", "step", "train_loss", "status"]]


@pytest.mark.slow
def test_two_ranks_train_what_one_would(env: dict[str, str], tmp_path: Path) -> None:
    for ranks in (1, 2):
        done = run("run_hyperopt.py", "parallel", "--study", tmp_path / f"of{ranks}", "--ranks", ranks, env=env)
        assert done.returncode == 0, done.stderr
    one, two = scores(tmp_path / "of1"), scores(tmp_path / "of2")
    # trial ids differ: they are of the study's name
    pd.testing.assert_frame_equal(one.drop(columns="trial_id"), two.drop(columns="trial_id"), rtol=1e-12)
    assert json.loads((tmp_path / "of2/study.json").read_text())["ranks"] == 2
    assert len(list((tmp_path / "of2/trials").glob("*/result.json"))) == 1
    again = run("run_hyperopt.py", "parallel", "--study", tmp_path / "of2", env=env)
    assert again.returncode == 2
    assert "another number of ranks (2 then, None now)" in again.stderr


@pytest.mark.slow
def test_a_killed_rank_is_made_up_for(env: dict[str, str], tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    crash = f"crash=kill:{mark}"
    study = tmp_path / "one"
    done = run("run_hyperopt.py", "parallel", "--study", study, "--ranks", 2, "--set", crash, env=env)
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    whole = run("run_hyperopt.py", "parallel", "--study", tmp_path / "other/one", "--ranks", 2, "--set", crash, env=env)
    assert whole.returncode == 0, whole.stderr
    pd.testing.assert_frame_equal(scores(study), scores(tmp_path / "other/one"))


@pytest.mark.slow
def test_a_rank_that_fails_is_a_failed_trial_with_its_reason(env: dict[str, str], tmp_path: Path) -> None:
    study = tmp_path / "bad"
    done = run("run_hyperopt.py", "parallel", "--study", study, "--ranks", 2, "--set", "crash=raise:always", env=env)
    assert done.returncode == 1
    assert "ValueError: rank 1: as told" in done.stderr
    (folder,) = (study / "trials").iterdir()
    result = read_result(folder)
    assert result is not None
    assert result["status"] == "failed"
    assert "as told" in (folder / "error.txt").read_text()


def one_rank(rank: int, place: Path) -> None:
    """A rank of a trial without Ray, in a folder of its own below `place`."""
    dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=rank, world_size=2)
    family = registry.get("mean")
    try:
        run_trial(place / str(rank), family, family.check({}), lambda: DATA, Place(rank=rank, ranks=2), 1, print)
    except RankEnded as end:
        (place / f"end{rank}").write_text(end.reason)
    # gloo aborts a rank whose peer goes before it has heard all
    (place / f"left{rank}").touch()
    deadline = time.monotonic() + 60
    while not (place / f"left{1 - rank}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    dist.destroy_process_group()


def both_ranks(place: Path) -> None:
    for rank in (0, 1):
        (place / str(rank)).mkdir(exist_ok=True)
    torch.multiprocessing.spawn(one_rank, (place,), nprocs=2)


def test_only_the_first_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    both_ranks(tmp_path)
    assert read_result(tmp_path / "0")["status"] == "finished"  # type: ignore[index]
    assert {path.name for path in (tmp_path / "1").iterdir()} <= {".lock"}


def test_ranks_that_see_different_folders_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    (tmp_path / "0").mkdir()
    state = {"learner": {"value": torch.tensor(0.5), "epoch": 2}, "rows": [], "best": {}, "seconds": 1.0}
    save_state(tmp_path / "0/last.safetensors", state)
    both_ranks(tmp_path)
    for rank in (0, 1):
        assert "go on from different steps ([2, 0])" in (tmp_path / f"end{rank}").read_text()
    assert read_result(tmp_path / "0") is None


def test_what_cannot_be_is_said_before(env: dict[str, str], spikes: Path, tiny_space: Path) -> None:
    alone = run("run_hyperopt.py", tiny_space, "--ranks", 2)
    assert alone.returncode == 2
    assert alone.stderr.strip().endswith("--ranks 2: family ndt trains a model in one process")
    many = run("run_hyperopt.py", "parallel", "--ranks", 1000, env=env)
    assert many.returncode == 2
    assert "each trial of 1000 ranks wants 1000 CPUs" in many.stderr
