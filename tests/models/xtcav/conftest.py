"""A small collection in the experiment's format, generated once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

OPTIONS = {"files": 2, "rows": 90, "runs": 2, "dark": 0, "pred": 12, "scale": 8}
SCALARS = ["bld.L3energy"]


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a collection: 2 files of labelled runs, and files for prediction."""
    from models.xtcav import generate

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTCAV_DATA", str(tmp_path_factory.mktemp("xtcav")))
        return generate.ensure(OPTIONS, 1)


@pytest.fixture
def block(collection: Path) -> dict[str, Any]:
    """The `data` block of its labelled files."""
    return {
        "path": str(collection / "amo86815_mlearn-*.h5"),
        "scalars": SCALARS,
        "preprocess": [{"downsample": 2}, "log", "standardise"],
        "split": [0.6, 0.2, 0.2],
        "block": 5,
    }
