"""One trial by itself: what goes wrong in it is its own end, with a reason."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.errors import BadInput
from models import registry
from models.base import Family, Place
from studies.results import read_result
from tests.models.test_registry import HERE
from tuner.trial import DiskFull, run_trial

DATA = {"train": np.arange(4.0), "eval": np.arange(4.0)}


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    return registry.get("mean")


def run(folder: Path, family: Family, load: Any = lambda: DATA, **settings: Any) -> Any:
    return run_trial(folder, family, family.check(settings), load, Place(), 1, print)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "the mount is gone", "/data/x.h5"), OSError("truncated file: eof = 96"),
     BlockingIOError(errno.EAGAIN, "unable to lock file"), BadInput("x.h5: holds NaN"), KeyError("images")],
)  # fmt: skip
def test_data_that_fails_in_a_worker_is_a_failed_trial_with_its_reason(
    error: Exception, family: Family, tmp_path: Path
) -> None:
    def load() -> Any:
        raise error

    result = run(tmp_path, family, load)
    assert result["status"] == "failed"
    assert type(error).__name__ in result["reason"]
    assert read_result(tmp_path) == result
    assert "Traceback" in (tmp_path / "error.txt").read_text()


def test_a_lost_mount_in_a_batch_is_a_failed_trial(family: Family, tmp_path: Path) -> None:
    result = run(tmp_path, family, crash="disk")
    assert result["status"] == "failed"
    assert "the mount is gone" in result["reason"]
    assert "/data/values.txt" in (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_only_a_full_disk_stops_the_search(code: int, family: Family, tmp_path: Path) -> None:
    def load() -> Any:
        raise OSError(code, "full")

    with pytest.raises(DiskFull):
        run(tmp_path, family, load)
    assert read_result(tmp_path) is None  # it goes on when there is room


def test_checkpoints_are_written_between_pieces(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no validation is due for hours."""
    learner = type(family.learner(family.check({}), DATA, Place(), 1))
    monkeypatch.setattr(learner, "due", property(lambda self: False))
    pieces = 0
    train = learner.train_piece

    def third_time_killed(self: Any) -> dict[str, float]:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise KeyboardInterrupt
        return train(self)

    monkeypatch.setattr(learner, "train_piece", third_time_killed)
    with pytest.raises(KeyboardInterrupt):
        run_trial(tmp_path, family, family.check({}), lambda: DATA, Place(), 1, lambda metrics: None, 0.0)
    assert (tmp_path / "last.safetensors").exists()
