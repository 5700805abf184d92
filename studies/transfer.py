"""Starting from another study's weights: the setting `INIT: <study>/<trial>.<snapshot>`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ground.errors import BadInput
from ground.files import sha256
from studies import places
from studies.study import open_study

SETTING = "INIT"


def resolve(text: Any, family: str) -> dict[str, str]:
    """What study.json keeps of an INIT: where the snapshot lies and its checksum.

    Args:
        text: `<study>/<trial>.<snapshot>`, the study by name or path.

    Raises:
        BadInput: no such study or snapshot, or one of another family.
    """
    name, slash, checkpoint = str(text).rpartition("/")
    if not slash or not name or "." not in checkpoint:
        raise BadInput(f"{SETTING} {text}: expected <study>/<trial>.<snapshot>")
    study = open_study(places.find(name))
    if study.config["family"] != family:
        raise BadInput(f"{SETTING} {text}: a study of family {study.config['family']}, not {family}")
    trial, _, snapshot = checkpoint.partition(".")
    known = {path.name for path in study.trials.iterdir()} if study.trials.is_dir() else set()
    file = study.trials / trial / f"{snapshot}.safetensors"
    if trial not in known or snapshot not in study.family.snapshots or not file.is_file():
        raise BadInput(f"{SETTING} {text}: study {study.name} keeps no such checkpoint; its models.csv says which")
    return {"from": str(text), "path": str(file.resolve()), "sha256": sha256(file)}


def snapshot(init: Mapping[str, str] | None) -> Path | None:
    """The snapshot's file, checked to be the one that was named.

    Raises:
        BadInput: it is gone or was changed.
    """
    if init is None:
        return None
    file = Path(init["path"])
    if not file.is_file():
        raise BadInput(f"{SETTING} {init['from']}: {file} is gone")
    if sha256(file) != init["sha256"]:
        raise BadInput(f"{SETTING} {init['from']}: {file} was changed since the study began")
    return file
