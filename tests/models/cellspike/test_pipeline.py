"""From nothing to a report, by the commands that a user gives."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import run
from tests.models.cellspike import written

SMALL = {"CONV_DEPTH": 2, "FILTERS_1": 8, "FILTERS_2": 8, "KERNEL_1": 5, "KERNEL_2": 3, "POOL_1": 5, "POOL_2": 4,
         "FC_DEPTH": 1, "FC_1": 16, "EPOCHS": 2, "WARMUP_EPOCHS": 1, "BATCH_SIZE": 16}  # fmt: skip


def space_of(folder: Path, data: dict[str, object], fastest: float = 1e-2, **changed: object) -> Path:
    path = folder / "small.yaml"
    content = {"family": "cellspike", "data": data, "fixed": {**SMALL, **changed},
               "space": {"LR": {"loguniform": [fastest / 10, fastest]}}, "budget": {"samples": 2}}  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_simulated_cells_become_a_report(tmp_path: Path, home: Path) -> None:
    options = {"types": 1, "clones": 2, "witness": 1, "samples": 60, "shard": 30, "bins": 1000}
    space = space_of(tmp_path, {"generator": "neurons", "options": options})
    study = tmp_path / "cells"
    done = run("run_hyperopt.py", space, "--study", study)
    assert done.returncode == 0, done.stderr
    page = (study / "report.html").read_text()
    for words in ("witness", "gK", "mean squared error of the mean"):
        assert words in page
    folder = next((home / "cellspike").rglob("*.data.h5")).parent
    done = run("-m", "ensembles", "predict", study, folder, "-o", tmp_path / "out.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        rows = file["ustar"].shape[0]
        assert np.isfinite(file["physical"][()]).all() and (file["ustar_sd"][()] >= 0).all()
    done = run("-m", "models.cellspike", "report", tmp_path / "out.h5", folder, "-o", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "report").glob("sum_pred*.yaml")
    told = yaml.safe_load(summary.read_text())
    assert told["numSamples"] == rows and np.isfinite(told["testLossMSE"])
    assert len(told["residual_mean_std"]) > 3
    scored = run("-m", "ensembles", "score", study, "--json")
    assert scored.returncode == 0, scored.stderr
    told = json.loads(scored.stdout)
    assert told["phase"] == "test" and any("witness" in name for name in told["scores"])


@pytest.mark.slow
def test_two_ranks_and_the_doubled_batch_learn_alike(tmp_path: Path) -> None:
    """The loss curve through Ray Train, gloo and all, against one process."""
    (tmp_path / "packs").mkdir()
    for cell in range(2):
        written.ontra(tmp_path / "packs", cell)
    curves = []
    for name, ranks, batch in (("one", 1, 16), ("two", 2, 8)):
        (tmp_path / name).mkdir()
        # small steps: the batches hold other rows
        fixed = {"EPOCHS": 4, "BATCH_SIZE": batch, "DROPOUT": 0.0, "WARMUP_EPOCHS": 0}
        space = space_of(tmp_path / name, {"path": str(tmp_path / "packs")}, 3e-4, **fixed)
        # of the same name, so that proposals and seeds are the same
        command = ("run_hyperopt.py", space, "--study", tmp_path / name / "same", "--samples", 1, "--no-ensemble")
        done = run(*command, "--ranks", ranks)
        assert done.returncode == 0, done.stderr
        (metrics,) = (tmp_path / name / "same").glob("trials/*/metrics.csv")
        curves.append(pd.read_csv(metrics))
    one, two = curves
    assert list(one["step"]) == list(two["step"])
    np.testing.assert_allclose(two["mse"], one["mse"], rtol=0.01)
    assert one["mse"].iloc[-1] < one["mse"].iloc[0]


def test_a_space_of_which_nothing_fits_is_refused_before(tmp_path: Path) -> None:
    path = written.mlpack(tmp_path / "cell.mlPack1.h5")
    space = space_of(tmp_path, {"path": str(path)}, POOL_1=40, POOL_2=40)
    done = run("run_hyperopt.py", space, "--study", tmp_path / "none")
    assert done.returncode == 2
    assert "no model of it can be made for this data" in done.stderr
    assert not (tmp_path / "none").exists()
