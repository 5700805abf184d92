"""How a trial ended: `result.json` and the words for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ground.files import read_json

FINISHED, STOPPED, DIVERGED, OOM, FAILED = "finished", "stopped", "diverged", "oom", "failed"
USABLE = (FINISHED, STOPPED)
RUNNING = "interrupted"


def read_result(folder: Path) -> dict[str, Any] | None:
    """How a trial ended, or None while it has not."""
    return read_json(folder / "result.json")
