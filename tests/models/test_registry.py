"""A new family is one folder and one YAML: this one lies in the tests and is searched like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.errors import BadInput
from models import registry
from models.base import Family, Place
from models.conformance import Conformance, HoldsOut, Transfers
from tests.conftest import ROOT, run

HERE = ROOT / "tests" / "families"
ENV = {registry.EXTRA_FOLDERS: str(HERE), "CONCERT_SPACES": str(HERE)}


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    return registry.get("mean")


class TestConformance(Conformance, HoldsOut, Transfers):
    poison = {"rate": 1e20, "epochs": 50}
    overfit = {"rate": 0.3, "epochs": 20}

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"epochs": 6, "rate": 0.1}

    @pytest.fixture
    def block(self, tmp_path: Path) -> dict[str, Any]:
        np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 40))
        return {"path": str(tmp_path / "values.txt")}

    @pytest.fixture
    def other_block(self, tmp_path: Path) -> dict[str, Any]:
        np.savetxt(tmp_path / "other.txt", np.random.default_rng(1).normal(4.0, 1.0, 40))
        return {"path": str(tmp_path / "other.txt")}

    @pytest.fixture(autouse=True)
    def spaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONCERT_SPACES", str(HERE))


def test_one_folder_and_one_yaml_are_enough(tmp_path: Path, home: Path) -> None:
    np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 40))
    done = run("run_hyperopt.py", "--data", tmp_path / "values.txt", "--family", "mean", "--workers", 2, env=ENV)
    assert done.returncode == 0, done.stderr
    assert "mse out of fold" in done.stdout
    assert (home / "ray_results/mean/values/ensemble/ensemble.json").exists()


def test_data_is_read_once_a_process(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "values.txt", np.arange(10.0))
    command = ["run_hyperopt.py", "--data", tmp_path / "values.txt", "--family", "mean", "--samples", 4, "--workers", 1]
    done = run(*command, "--no-ensemble", env={**ENV, "MEAN_LOADS": str(tmp_path / "loads")})
    assert done.returncode == 0, done.stderr
    loads = (tmp_path / "loads").read_text().split()
    assert len(loads) == len(set(loads)) == 2  # the command itself, and its one worker for four trials


def test_a_model_that_crashes_is_a_failed_trial(tmp_path: Path, home: Path) -> None:
    np.savetxt(tmp_path / "values.txt", np.arange(10.0))
    command = ["run_hyperopt.py", "--data", tmp_path / "values.txt", "--family", "mean", "--samples", 2]
    done = run(*command, "--set", "crash=true", env=ENV)
    assert done.returncode == 1
    assert "not one trial succeeded (RuntimeError: as told)" in done.stderr
    study = home / "ray_results/mean/values"
    assert (study / "models.csv").read_text().count("failed") == 2
    assert all("as told" in path.read_text() for path in study.glob("trials/*/error.txt"))


def test_running_out_of_memory_is_told(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuner.trial import run_trial

    def too_much(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(family), "learner", too_much)
    result = run_trial(tmp_path, family, {}, lambda: None, Place(), 0, lambda metrics: None)
    assert result["status"] == "oom"


def test_unknown_family_names_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean ndt"):
        registry.get("ndtt")
