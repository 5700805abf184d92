"""The folders of the NLB tools and of Concert, by environment variable."""

from __future__ import annotations

import os
from pathlib import Path

_BELOW_HOME = {
    "NLB_DATA_RAW": "raw",
    "NLB_CACHE_DIR": "processed",
    "NDT_CACHE_DIR": "neural-data-transformer",
    "RAY_TUNE_HOME": "ray_results/neural-data-transformer",
    "CHECKPOINT_DIR": "checkpoints",
    "CONFIG_DIR": "configs",
    "SUBMISSION_VALIDATION_ROOT": "submission-validation",
}


def folder(variable: str) -> Path:
    """The folder that `variable` names, or its default below NLB_HOME ($HOME/nlb_2021)."""
    set_to = os.environ.get(variable)
    if set_to:
        return Path(set_to).expanduser()
    home = Path(os.environ.get("NLB_HOME") or Path.home() / "nlb_2021").expanduser()
    return home if variable == "NLB_HOME" else home / _BELOW_HOME[variable]


def cache_dir(variable: str) -> Path:
    """`folder`, made if missing."""
    path = folder(variable)
    path.mkdir(parents=True, exist_ok=True)
    return path
