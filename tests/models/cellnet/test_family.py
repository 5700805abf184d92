"""What Concert asks of every family, for ghosts and for charges; what a user gets back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from models.base import Family
from models.cellnet import FAMILY
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from tests.models.cellnet import written

CONFIG = {"N_CHANNELS": 4, "N_STRIDES": 2, "REPS": 1, "EPOCHS": 3, "PIECE_STEPS": 2, "SPATIAL": "32,32,32",
          "MOMENTUM": 0.9}  # fmt: skip


class Both(Conformance, HoldsOut, Transfers):
    overfit: dict[str, Any] = {"EPOCHS": 8}
    poison: dict[str, Any] = {"LR": 1e30}

    @pytest.fixture
    def family(self, block: dict[str, Any]) -> Family:
        return get("cellnet").of(block)

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return CONFIG


class TestGhosts(Both, ReadsLazily):
    @pytest.fixture
    def other_block(self, xy_folder: Path, tmp_path: Path) -> dict[str, Any]:
        copied = shutil.copytree(xy_folder, tmp_path / "other")
        written.write(next(copied.glob("*002*")), seed=999)
        return {"path": str(copied), "train": [1, 3], "val": [4, 5], "test": [6, 6]}

    @pytest.fixture
    def lost(self, block: dict[str, Any], xy_folder: Path, tmp_path: Path) -> Any:
        copied = shutil.copytree(xy_folder, tmp_path / "copied")
        data = FAMILY.load({**block, "path": str(copied), "cache_mb": 0}, "val")
        shutil.rmtree(copied)
        return data


class TestCharges(Both):
    """The charge of each voxel, with z segments as further features and truth in other units."""

    @pytest.fixture
    def block(self, xy_folder: Path) -> dict[str, Any]:
        transforms = {"z_segments": [8, 16, 24], "scale": 2.0, "coord_lim": [None, [1, 23], None]}
        ranges = {"train": [1, 3], "val": [4, 5], "test": [6, 6]}
        return {"path": str(xy_folder), "task": "charge", "transforms": transforms, **ranges}

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {**CONFIG, "LOSS": "huber"}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "transforms": {**block["transforms"], "scale": 3.0}}
