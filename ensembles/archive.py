"""A published archive of checkpoints as studies: they rank, ensemble and predict like our own."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from download.unpack import unpack
from ground.errors import BadInput
from ground.files import sha256, write_json
from ground.paths import folder
from ground.states import save_state
from models.base import Family
from models.registry import get
from studies import ledger
from studies.study import FORMAT, Study, versions

NOT_SETTINGS = {"trial_id", "val_ckpt"}


def import_archive(
    source: Path,
    home: Path | None = None,
    family_name: str = "ndt",
    suffix: str = "-imported",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Study]:
    """Turn each dataset folder (`models.csv` + `<trial_id>.<snapshot>.pth`) of an archive into a study.

    Args:
        source: the zip, the folder it was unpacked to, or one dataset's folder.
        home: where studies go (default RAY_TUNE_HOME).
        suffix: added to the dataset's name, so that an own search under that name is not touched.

    Raises:
        BadInput: no such archive, a damaged or refused checkpoint, a study that is there already.
    """
    family = get(family_name)
    home = home or folder("RAY_TUNE_HOME")
    if not source.exists():
        raise BadInput(f"{source}: no such archive")
    if source.is_file():
        with tempfile.TemporaryDirectory(prefix="concert-import-") as place:
            unpack(source, Path(place))
            return _import(Path(place), home, family, suffix, overwrite, say)
    return _import(source, home, family, suffix, overwrite, say)


def _import(
    root: Path, home: Path, family: Family, suffix: str, overwrite: bool, say: Callable[[str], None]
) -> list[Study]:
    tables = sorted(root.rglob("models.csv"))
    if not tables:
        raise BadInput(f"{root}: holds no models.csv, so it is no archive of checkpoints")
    for table in tables:
        place = home / f"{table.parent.name}{suffix}"
        if place.exists() and not overwrite:
            raise BadInput(f"study {place.name} is there already; give --overwrite to replace it")
    return [_import_dataset(table.parent, home / f"{table.parent.name}{suffix}", family, say) for table in tables]


def _import_dataset(source: Path, place: Path, family: Family, say: Callable[[str], None]) -> Study:
    dataset = source.name
    frame = ledger.read(source / "models.csv")
    metric = family.metric.name
    if metric not in frame:
        raise BadInput(f"{source / 'models.csv'}: has no column {metric}")
    settings_columns = [c for c in frame.columns if "." in c and c not in NOT_SETTINGS]
    metric_columns = [c for c in frame.columns if c not in settings_columns and c not in NOT_SETTINGS]
    say(f"{dataset}: importing {len(frame)} checkpoints")
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        study = Study(new, _config(dataset, place.name, family, frame, settings_columns))
        for number, (_, row) in enumerate(frame.iterrows()):
            _import_checkpoint(study, source, row, number, settings_columns, metric_columns)
        write_json(new / "study.json", study.config)
        new.chmod(0o755)
        if place.exists():
            shutil.rmtree(place)
        new.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    study = Study(place, study.config)
    ledger.write(study, keep=len(frame) + 1)
    return study


def _import_checkpoint(
    study: Study, source: Path, row: pd.Series[Any], number: int, settings: list[str], metrics: list[str]
) -> None:
    trial_id, snapshot = str(row["trial_id"]), str(row["val_ckpt"])
    if not trial_id.isalnum() or snapshot not in study.family.snapshots:
        raise BadInput(f"{source / 'models.csv'}: row {number} names no checkpoint ({trial_id}.{snapshot})")
    config, weights = study.family.import_checkpoint(source / f"{trial_id}.{snapshot}.pth")
    trial = study.trials / trial_id
    if not (trial / "config.json").exists():
        searched = {name: _plain(row[name]) for name in settings if not _missing(row[name])}
        write_json(trial / "config.json", {"trial_id": trial_id, "number": number, "seed": 0, "settings": searched})
    values = {name: float(row[name]) for name in metrics if not _missing(row[name])}
    path = trial / f"{snapshot}.safetensors"
    save_state(path, {"family": study.family.name, "settings": config, "metrics": values, "weights": weights})
    write_json(path.with_suffix(".json"), {"metrics": values, "sha256": sha256(path)})
    best = {study.family.metric.name: values.get(study.family.metric.name)}
    write_json(
        trial / "result.json",
        {"status": "finished", "reason": "imported", "seconds": None, "best": best, "metrics": values},
    )


def _config(dataset: str, name: str, family: Family, frame: pd.DataFrame, settings: list[str]) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for column in settings:
        values = sorted({_plain(v) for v in frame[column] if not _missing(v)}, key=str)
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) > 1 and len(numbers) == len(values):
            space[column] = {"uniform": [float(min(numbers)), float(max(numbers))]}
        elif values:
            space[column] = {"choice": values}
    return {
        "format": FORMAT,
        "name": name,
        "dataset": dataset,
        "family": family.name,
        "data": {"dataset": dataset, "bin_ms": 5},
        "fixed": {},
        "space": space,
        "seed": 0,
        "objective": family.metric.name,
        "fingerprint": None,
        "imported": True,
        "versions": versions(),
    }


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
