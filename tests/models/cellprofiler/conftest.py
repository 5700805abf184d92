"""A small project with learnable cells, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.cellprofiler import plates


@pytest.fixture(scope="session")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `plates.stored`; not to be written to."""
    return plates.stored(tmp_path_factory.mktemp("plates") / "project")
