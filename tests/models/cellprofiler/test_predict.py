from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from models.base import Place
from models.cellprofiler import data
from models.cellprofiler.__main__ import main
from models.cellprofiler.config import resolve
from models.cellprofiler.network import CellNetwork
from models.cellprofiler.snapshot import Snapshot
from models.registry import get
from tests.models.cellprofiler import plates
from tests.models.cellprofiler.trained import SMALL, snapshot


@pytest.fixture(scope="session")
def model(learnable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("trial"), learnable)


def run_verb(*words: Any) -> int:
    return main(["predict", *map(str, words)])


def test_wells_and_cells(learnable: Path, model: Path, tmp_path: Path) -> None:
    wells, cells = tmp_path / "wells.csv", tmp_path / "cells.parquet"
    assert run_verb(learnable, "--model", model, "-o", wells, "--batch", 13) == 0
    assert run_verb(learnable, "--model", model, "-o", cells, "--cells", "--plates", "P-2") == 0
    table, each = pd.read_csv(wells), pd.read_parquet(cells)
    names = ["p_DMSO", "p_lupin", "p_malva", "p_nerin"]
    assert len(table) == 27 and len(each) == 54 and (table["cells"] == 6).all()
    told = Snapshot.open(model).member(data.open_project(learnable))["probabilities"]
    assert np.allclose(table[names], told, atol=1e-5)  # what an ensemble's predict gives, in the same order
    assert [f"p_{name}" for name in table["told"]] == [names[k] for k in told.argmax(1)]
    mean = each.groupby("Metadata_Well")[names].mean()
    of_plate = table[table["Metadata_Plate"] == "P-2"].set_index("Metadata_Well")
    assert np.allclose(mean, of_plate[names], atol=1e-5) and (of_plate.loc["A01", "Metadata_Compound"]) == "DMSO"
    assert {"Metadata_Site", "Nuclei_Location_Center_X"} <= set(each)


def test_new_labels_are_kept_beside_what_is_told(model: Path, tmp_path: Path) -> None:
    root = plates.project(tmp_path / "new", {"P-8": ""}, seed=3)
    index = root / "inputs" / "metadata" / "index.csv"
    index.write_text(index.read_text().replace("lupin", "unheard-of"))
    assert run_verb(root, "--model", model, "-o", tmp_path / "t.csv") == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert "unheard-of" in set(table["Metadata_Compound"]) and set(table["told"]) <= set(plates.COMPOUNDS)


def test_nothing_is_overwritten_silently(
    learnable: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.csv"
    out.write_text("mine")
    assert run_verb(learnable, "--model", model, "-o", out) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_text() == "mine"
    assert run_verb(learnable, "--model", model, "-o", out, "--overwrite") == 0 and out.read_text() != "mine"
    assert run_verb(learnable, "--model", model, "-o", tmp_path / "t.txt") == 2


def test_a_trial_s_own_file_is_all_that_prediction_needs(learnable: Path, tmp_path: Path) -> None:
    """As a search writes it: no settings beside the file, no training data, no weights that training began with."""
    from tuner.trial import run_trial

    folder, lost = tmp_path / "trial", tmp_path / "start.safetensors"
    save_file(CellNetwork(resolve(SMALL), 2, 16, 4).body.state_dict(), lost)
    block, settings = {"project": str(learnable)}, resolve({**SMALL, "EPOCHS": 1, "WEIGHTS": str(lost)})
    family = get("cellprofiler")
    result = run_trial(folder, family, settings, lambda: family.load(block, "val"), Place(), 3, lambda _: None)
    assert result["status"] == "finished", result
    lost.unlink()
    root = Path(shutil.copytree(learnable, tmp_path / "p", ignore=shutil.ignore_patterns("outputs")))
    told = Snapshot.open(folder).member(data.open_project(root))
    assert told["profile"].shape[0] == told["probabilities"].shape[0] == 27
    assert run_verb(root, "--model", folder, "-o", tmp_path / "t.csv") == 0
