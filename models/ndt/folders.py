"""The folders of the NLB tools and of the original program, by the environment variables their users know."""

from __future__ import annotations

from pathlib import Path

from ground import paths

FOLDERS = {
    "NLB_DATA_RAW": "raw",
    "NLB_CACHE_DIR": "processed",
    "NDT_CACHE_DIR": "neural-data-transformer",
    "CHECKPOINT_DIR": "checkpoints",
    "CONFIG_DIR": "configs",
    "SUBMISSION_VALIDATION_ROOT": "submission-validation",
}


def folder(variable: str) -> Path:
    """The folder that `variable` names, or its default below NLB_HOME."""
    return paths.folder(variable, FOLDERS[variable])
