from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from models.base import Family
from models.cellspike import FAMILY
from models.conformance import Conformance, HoldsOut, ReadsLazily, Transfers
from models.registry import get
from tests.models.cellspike import written

CONFIG: dict[str, Any] = {
    "CONV_DEPTH": 2, "FILTERS_1": 8, "FILTERS_2": 8, "KERNEL_1": 3, "KERNEL_2": 3, "POOL_1": 2, "POOL_2": 2,
    "FC_DEPTH": 1, "FC_1": 16, "DROPOUT": 0.1, "EPOCHS": 5, "BATCH_SIZE": 16, "LR": 3e-3, "SCHEDULE": "cosine",
}  # fmt: skip


class Both(Conformance, HoldsOut, Transfers, ReadsLazily):
    overfit: dict[str, Any] = {"EPOCHS": 20, "DROPOUT": 0.0, "LR": 0.01}
    poison: dict[str, Any] = {"LR": 1e30}

    @pytest.fixture
    def family(self) -> Family:
        return get("cellspike")

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return CONFIG

    @pytest.fixture
    def lost(self, block: dict[str, Any], tmp_path: Path) -> Any:
        data = FAMILY.load({**block, "limit_mb": 0.001}, "val")
        shutil.rmtree(tmp_path / "packs")
        return data


class TestManyCells(Both):
    """Packs of ONTRA, three cells, one of them a witness."""

    @pytest.fixture
    def block(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "packs").mkdir(exist_ok=True)
        for cell in range(3):
            written.ontra(tmp_path / "packs", cell)
        return {"path": str(tmp_path / "packs"), "witness": ["bbp1021"]}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "target": "u"}


class TestOneCell(Both):
    """A pack of BBP3 under two stimuli, each a sample; read from the file while training."""

    @pytest.fixture
    def block(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "packs").mkdir(exist_ok=True)
        path = written.mlpack(tmp_path / "packs" / "L5.mlPack1.h5")
        return {"path": str(path), "stimuli": "samples", "limit_mb": 0.05, "normalisation": "probe"}

    @pytest.fixture
    def other_block(self, block: dict[str, Any]) -> dict[str, Any]:
        return {**block, "stims": ["stim1"]}
