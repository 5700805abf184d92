"""INIT: trials that start from another study's checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.errors import BadInput
from ground.states import save_state
from models import registry
from models.base import Place
from studies import transfer
from studies.study import open_study
from tests.conftest import run
from tests.models.test_registry import ENV, HERE
from tuner.trial import run_trial


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that keeps one checkpoint, a value of 40."""
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    place = tmp_path / "first"
    (place / "trials/t1").mkdir(parents=True)
    config: dict[str, Any] = {"family": "mean", "data": {}, "space": {}, "seed": 0, "fingerprint": None}
    (place / "study.json").write_text(json.dumps(config))
    save_state(place / "trials/t1/best.safetensors", {"weights": {"value": 40.0}})
    return place


def test_a_trial_starts_with_the_weights_that_were_named(study: Path, tmp_path: Path) -> None:
    family = registry.get("mean")
    init = transfer.resolve(f"{study}/t1.best", "mean")
    data = {"train": np.zeros(4), "eval": np.zeros(4)}
    settings = family.check({"epochs": 1, "rate": 0.25})
    result = run_trial(tmp_path, family, settings, lambda: data, Place(), 1, print, init=init)
    assert result["metrics"]["mse"] == pytest.approx(20.0**2)  # half-way from 40 to the mean, 0


def test_a_changed_or_lost_snapshot_is_refused(study: Path) -> None:
    init = transfer.resolve(f"{study}/t1.best", "mean")
    save_state(study / "trials/t1/best.safetensors", {"weights": {"value": 41.0}})
    with pytest.raises(BadInput, match="was changed"):
        transfer.snapshot(init)
    (study / "trials/t1/best.safetensors").unlink()
    with pytest.raises(BadInput, match="is gone"):
        transfer.snapshot(init)


@pytest.mark.parametrize(
    ("text", "words"),
    [("nothing", "expected"), ("{study}/t2.best", "no such checkpoint"), ("{study}/t1.last", "no such checkpoint"),
     ("{study}/../t1.best", "study.json|no study|no such"), ("nowhere/t1.best", "no study nowhere")],
)  # fmt: skip
def test_wrong_names(text: str, words: str, study: Path) -> None:
    with pytest.raises(BadInput, match=words):
        transfer.resolve(text.format(study=study), "mean")


def test_another_family(study: Path) -> None:
    with pytest.raises(BadInput, match="of family mean"):
        transfer.resolve(f"{study}/t1.best", "ndt")


@pytest.mark.slow
def test_the_command_resolves_it_into_the_study(study: Path, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "values.txt", np.arange(10.0))
    command = [
        "run_hyperopt.py",
        "--data",
        tmp_path / "values.txt",
        "--family",
        "mean",
        "--samples",
        1,
        "--no-ensemble",
    ]
    second = tmp_path / "second"
    done = run(*command, "--study", second, "--set", f"INIT={study}/t1.best", env=ENV)
    assert done.returncode == 0, done.stderr
    config = open_study(second).config
    assert config["init"]["path"] == str(study / "trials/t1/best.safetensors")
    assert "INIT" not in config["fixed"]
    other = run(*command, "--study", second, env=ENV)
    assert other.returncode == 2
    assert "another INIT" in other.stderr
