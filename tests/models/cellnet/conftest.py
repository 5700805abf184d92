"""Small events, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models.cellnet import written


@pytest.fixture(scope="session")
def xy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of two events each, indices 1 to 6, TPC 1."""
    return written.folder(tmp_path_factory.mktemp("xy"))


@pytest.fixture
def block(xy_folder: Path) -> dict[str, Any]:
    """The `data` block of these."""
    return {"path": str(xy_folder), "train": [1, 3], "val": [4, 5], "test": [6, 6]}
