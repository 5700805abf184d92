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
from ground.limits import shown
from ground.names import is_plain, plain
from ground.paths import made_if_all_is_well
from ground.states import save_state
from models.base import Family
from models.registry import choose, having
from studies import ledger
from studies.places import studies_home
from studies.results import FINISHED
from studies.study import FORMAT, Study, remove, versions

_MOST_DATASETS = 1000
_NAMES = {"trial_id", "val_ckpt"}
_HOOK = "import_checkpoint"


def import_archive(
    source: Path,
    home: Path | None = None,
    family_name: str | None = None,
    suffix: str = "-imported",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Study]:
    """Turn each dataset folder (`models.csv` + `<trial_id>.<snapshot>.<ending>`) of an archive into a study.

    Args:
        source: the zip, the folder it was unpacked to, or one dataset's folder.
        home: where studies go (default: where the family's studies lie).
        family_name: whose checkpoints they are (default: of the family by whose metric their models.csv ranks).
        suffix: added to the dataset's name, so that an own search under that name is not touched.

    Raises:
        BadInput: no such archive, a damaged or refused checkpoint, a study that is there already.
    """
    if not suffix:
        raise BadInput("--suffix is empty: an imported study would take the name of an own one")
    if not is_plain(f"x{suffix}"):
        raise BadInput(f"--suffix {shown(suffix)} cannot end a study's name")
    if family_name is not None:
        choose(_HOOK, family_name)
    if not source.exists():
        raise BadInput(f"{source}: no such archive")
    if source.is_file():
        with tempfile.TemporaryDirectory(prefix="concert-import-") as place:
            unpack(source, Path(place), strip_top=False)  # the folders name the datasets
            return _import(Path(place), home, family_name, suffix, overwrite, say)
    return _import(source, home, family_name, suffix, overwrite, say)


def _family(table: Path) -> Family:
    """Whose checkpoints a models.csv lists: the family by whose metric it ranks them."""
    found, columns = having(_HOOK), ledger.read(table)
    fit = [family for family in found if family.metric.name in columns]
    if not fit:
        raise BadInput(f"{table}: ranks nothing by {' or '.join(family.metric.name for family in found)}")
    if len(fit) > 1:
        raise BadInput(f"{table}: may be of {' or '.join(family.name for family in fit)}; say which with --family NAME")
    return fit[0]


def _import(
    root: Path, home: Path | None, name: str | None, suffix: str, overwrite: bool, say: Callable[[str], None]
) -> list[Study]:
    tables = sorted(root.resolve().rglob("models.csv"))
    if not tables:
        raise BadInput(f"{root}: holds no models.csv, so it is no archive of checkpoints")
    family = _family(tables[0]) if name is None else choose(_HOOK, name)
    home = home or studies_home(family)
    if len(tables) > _MOST_DATASETS:
        raise BadInput(f"{root}: holds {len(tables)} models.csv; {_MOST_DATASETS} are the most")
    for table in tables:
        place = home / plain(f"{table.parent.name}{suffix}", "a study")
        if place.exists() and not overwrite:
            raise BadInput(f"study {place.name} is there already; give --overwrite to replace it")
    return [_import_dataset(table.parent, home / f"{table.parent.name}{suffix}", family, say) for table in tables]


def _import_dataset(source: Path, place: Path, family: Family, say: Callable[[str], None]) -> Study:
    dataset = source.name
    frame = ledger.read(source / "models.csv")
    metric = family.metric.name
    if metric not in frame or frame.empty:
        raise BadInput(f"{source / 'models.csv'}: ranks nothing by {metric}")
    frame = ledger.read(source / "models.csv", metric)
    twice = frame.duplicated(["trial_id", "val_ckpt"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise BadInput(f"{source / 'models.csv'}: lists {row['trial_id']}.{row['val_ckpt']} twice")
    say(f"{dataset}: importing {len(frame)} checkpoints")
    settings = [name for name in frame if name not in _NAMES and _is_setting(family, str(name), frame[name])]
    metrics = [name for name in frame.select_dtypes("number") if name not in settings]
    with made_if_all_is_well(place.parent):
        new = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            study = Study(new, _config(dataset, place.name, family, frame, settings))
            for number, (_, row) in enumerate(frame.iterrows()):
                _import_checkpoint(study, source, row, number, settings, metrics)
            write_json(new / "study.json", study.config)
            new.chmod(0o755)
            if place.exists():
                remove(place)
                shutil.rmtree(place)
            new.rename(place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    study = Study(place, study.config)
    ledger.write(study, keep=len(frame) + 1)
    return study


def _is_setting(family: Family, name: str, column: pd.Series[Any]) -> bool:
    """Whether a column of models.csv is one of the family's settings and not a score."""
    try:
        family.check({} if column.isna().all() else {name: _plain(column.dropna().iloc[0])})
    except BadInput:
        return False
    return True


def _import_checkpoint(
    study: Study, source: Path, row: pd.Series[Any], number: int, settings: list[str], metrics: list[str]
) -> None:
    trial_id, snapshot = str(row["trial_id"]), str(row["val_ckpt"])
    if not is_plain(trial_id) or not trial_id.isalnum() or snapshot not in study.family.snapshots:
        named = shown(f"{trial_id}.{snapshot}")
        raise BadInput(f"{source / 'models.csv'}: row {number} names no checkpoint ({named})")
    files = sorted(source.glob(f"{trial_id}.{snapshot}.*"))
    if len(files) != 1:
        raise BadInput(f"{source}: has {len(files)} files {trial_id}.{snapshot}.*, where one checkpoint is wanted")
    config, weights = study.family.import_checkpoint(files[0], study.config["dataset"])
    trial = study.trials / trial_id
    if not (trial / "config.json").exists():
        searched = {name: _plain(row[name]) for name in settings if not _missing(row[name])}
        write_json(trial / "config.json", {"trial_id": trial_id, "number": number, "seed": 0, "settings": searched})
    values = {name: float(row[name]) for name in metrics if not _missing(row[name]) and math.isfinite(row[name])}
    path = trial / f"{snapshot}.safetensors"
    save_state(path, {"family": study.family.name, "settings": config, "metrics": values, "weights": weights})
    write_json(path.with_suffix(".json"), {"metrics": values, "sha256": sha256(path)})
    best = {study.family.metric.name: values.get(study.family.metric.name)}
    write_json(
        trial / "result.json",
        {"status": FINISHED, "reason": "imported", "seconds": None, "best": best, "metrics": values},
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
        "data": family.imported_data(dataset),
        "fixed": {},
        "space": space,
        "seed": 0,
        "objective": family.metric.name,
        "fingerprint": None,
        "holdout": None,
        "init": None,
        "imported": True,
        "versions": versions(),
    }


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str) and len(value) > 1000:
        raise BadInput(f"a setting of {len(value)} characters")
    return int(value) if isinstance(value, float) and value.is_integer() else value
