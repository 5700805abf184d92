"""A search that is killed with -9, within trials and between them, ends as one that nobody disturbed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from models.base import Place
from models.xtcav import FAMILY
from tests.tuner.test_study import ended, kill, search, start, wait_for, whole

SETTINGS = {"NET": "residual", "DEPTH": 3, "GRID": 2, "HIDDEN": 16, "BATCH_SIZE": 8,
            "AVERAGE": 0.999, "LR.SCHEDULE": "plateau", "SAMPLING": "weighted", "GAIN": 0.1}  # fmt: skip
SPACE: dict[str, dict[str, list[Any]]] = {
    "WIDTH": {"randint": [6, 9]},
    "LR": {"loguniform": [1e-3, 1e-2]},
    "CLASS_WEIGHTS": {"choice": ["none", "root", "balanced"]},
}
# with several workers, which proposal knows of which result is a matter of time
ONE = ("--workers", 1, "--checkpoint-seconds", 1)
SECONDS = 10  # of a trial
CLOCK = ["seconds", "read_ms", "train_ms", "eval_ms"]


def steps(block: dict[str, Any]) -> int:
    """Of a trial that lasts about `SECONDS` here."""
    settings = FAMILY.check({**SETTINGS, "WIDTH": SPACE["WIDTH"]["randint"][0], "STEPS": 10**6, "EVALS": 10**6})
    learner = FAMILY.learner(settings, FAMILY.load(block, "val"), Place(), 0)
    begun = time.perf_counter()
    while time.perf_counter() - begun < 3:
        learner.train_piece()
    return round(SECONDS * learner.steps / (time.perf_counter() - begun))


def scores(study: Path) -> pd.DataFrame:
    """`models.csv` without names and times."""
    frame = pd.read_csv(study / "models.csv", index_col=0).drop(columns=[*CLOCK, "trial_id", "path"])
    return frame.sort_values(["balanced_accuracy", "log_loss", "step", "val_ckpt"]).reset_index(drop=True)


def ensemble(study: Path) -> dict[str, Any]:
    """Members with their weights, scores and calibration, and what they predict; without names."""
    found = json.loads((study / "ensemble/ensemble.json").read_text())
    members = [{k: m[k] for k in ("val_ckpt", "weight", "score", "settings")} for m in found["members"]]
    with h5py.File(study / "ensemble/validation.h5") as file:
        predicted = {name: np.asarray(file[name]).tolist() for name in file}
    return {"members": members, "predicted": predicted, **{k: found[k] for k in ("scores", "calibration", "size")}}


@pytest.mark.slow
def test_a_killed_search_ends_as_one_left_alone(block: dict[str, Any], tmp_path: Path) -> None:
    space = tmp_path / "small.yaml"
    many = steps(block)
    fixed = {**SETTINGS, "STEPS": many, "EVALS": many // 7}
    space.write_text(
        yaml.safe_dump({"family": "xtcav", "data": block, "fixed": fixed, "space": SPACE, "budget": {"samples": 2}})
    )
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    done = search(space, plain, *ONE)
    assert done.returncode == 0, done.stderr

    def written(pattern: str, many: int = 1) -> bool:
        return len(list(cut.glob(pattern))) >= many

    moments = {
        "as a trial begins": lambda: written("trials/*/config.json"),
        "between validations": lambda: written("trials/*/metrics.csv"),
        "after a checkpoint to go on from": lambda: written("trials/*/last.safetensors"),
        "after a trial": lambda: written("trials/*/result.json"),
        "in a later trial": lambda: written("trials/*/last.safetensors") and written("trials/*/result.json"),
    }
    before: dict[Path, bytes] = {}
    for moment, reached in moments.items():
        process = start(space, cut, *ONE)
        wait_for(reached, process, 240)
        assert reached() and process.poll() is None, moment
        kill(process)
        whole(cut)
        assert all(path.read_bytes() == content for path, content in before.items()), moment
        before = {path: path.read_bytes() for path in cut.glob("trials/*/result.json")}
    done = search(space, cut, *ONE)
    assert done.returncode == 0, done.stderr
    assert "resuming study" in done.stdout and len(ended(cut)) == 2
    pd.testing.assert_frame_equal(scores(cut), scores(plain))
    assert json.dumps(ensemble(cut)) == json.dumps(ensemble(plain))
