"""A snapshot of a network that has hardly been trained, for tests of what is done with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ground.states import save_state
from models.base import Place
from models.cellprofiler import data
from models.cellprofiler.config import resolve
from models.cellprofiler.learner import CellLearner

SMALL = {"WIDTH": 4, "BLOCKS": 2, "FEATURES": 6, "EPOCHS": 2, "BATCH_SIZE": 12, "LAMBDAS": "0.1", "EVAL_BATCH": 20}


def snapshot(folder: Path, root: Path, seed: int = 0, name: str = "best", **settings: Any) -> Path:
    """The file of a model trained for one piece on the store of a project."""
    learner = CellLearner(resolve({**SMALL, **settings}), data.load({"project": str(root)}, "val"), Place(), seed)
    learner.train_piece()
    folder.mkdir(parents=True, exist_ok=True)
    state = {"family": "cellprofiler", "settings": learner.config, "metrics": {}, "weights": learner.weights()}
    save_state(folder / f"{name}.safetensors", state)  # as a trial writes it
    return folder / f"{name}.safetensors"
