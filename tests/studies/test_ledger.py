"""models.csv, and which checkpoints survive on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ground.files import write_json
from ground.states import save_state
from studies import ledger
from studies.results import DIVERGED, FAILED, FINISHED, RUNNING
from studies.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, {"family": "ndt", "data": {}, "space": {"MODEL.DROPOUT": {"uniform": [0, 1]}}, "seed": 0})


def trial(study: Study, number: int, status: str, snapshots: dict[str, tuple[int, float]], key: str = "step") -> str:
    """A trial whose snapshots were taken at a step, with a score."""
    name = f"t{number:02d}"
    folder = study.trials / name
    write_json(folder / "config.json", {"trial_id": name, "number": number, "seed": 0, "settings": {}})
    for snapshot, (step, score) in snapshots.items():
        save_state(folder / f"{snapshot}.safetensors", {"weights": {}})
        write_json(folder / f"{snapshot}.json", {"metrics": {key: step, "co-bps": score}, "sha256": ""})
    if status != RUNNING:
        result: dict[str, Any] = {"status": status, "reason": "", "seconds": 1.0, "best": {}, "metrics": {}}
        write_json(folder / "result.json", result)
    return name


def kept(study: Study) -> set[str]:
    return {f"{path.parent.name}.{path.stem}" for path in study.trials.glob("*/*.safetensors")}


def test_failed_trials_take_no_places(study: Study) -> None:
    """The only usable checkpoint was once deleted in favour of better-looking ones of failed trials."""
    for number, status in enumerate((FAILED, DIVERGED, FAILED)):
        trial(study, number, status, {"best": (5, 0.9)})
    trial(study, 3, FINISHED, {"best": (5, 0.1)})
    frame = ledger.write(study, keep=1)
    assert kept(study) == {"t03.best"}
    assert list(ledger.usable(study, frame)["trial_id"]) == ["t03"]
    assert set(frame["status"]) == {FAILED, DIVERGED, FINISHED}  # their rows stay


def test_keep_counts_distinct_moments(study: Study) -> None:
    trial(study, 0, FINISHED, {"best": (7, 0.5), "lve": (7, 0.5), "lfve": (3, 0.2)})
    trial(study, 1, FINISHED, {"best": (9, 0.4)})
    trial(study, 2, FINISHED, {"best": (2, 0.3)})
    frame = ledger.write(study, keep=2)
    assert kept(study) == {"t00.best", "t01.best"}
    assert [f"{r.trial_id}.{r.val_ckpt}" for r in ledger.usable(study, frame).itertuples()] == ["t00.best", "t01.best"]


def test_running_trials_keep_their_snapshots(study: Study) -> None:
    trial(study, 0, RUNNING, {"best": (1, 0.01)})
    trial(study, 1, FINISHED, {"best": (1, 0.5)})
    ledger.write(study, keep=1)
    assert kept(study) == {"t00.best", "t01.best"}


def test_a_metric_that_is_no_number_is_not_usable(study: Study) -> None:
    trial(study, 0, FINISHED, {"best": (1, np.nan)})
    trial(study, 1, FINISHED, {"best": (1, 0.1)})
    frame = ledger.write(study, keep=1)
    assert list(ledger.usable(study, frame)["trial_id"]) == ["t01"]
    assert kept(study) == {"t01.best"}


def test_whole_numbers_stay_whole_beside_a_row_without_one(study: Study) -> None:
    """models.csv once said step 7.0 while a trial without a snapshot ran, and 7 after."""
    trial(study, 0, FINISHED, {"best": (7, 0.5)})
    trial(study, 1, RUNNING, {})
    ledger.write(study, keep=2)
    steps = pd.read_csv(study.path / "models.csv", dtype=str)["step"]
    assert list(steps.fillna("")) == ["7", ""]
