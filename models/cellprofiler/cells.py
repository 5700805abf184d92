"""The features of single cells as `profile` writes them, or DeepProfiler wrote them: a table a plate."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.errors import BadInput
from models.cellprofiler.project import Project
from models.cellprofiler.tables import KEYS, LOCATION, META, PLATE, features_of, key_column, read_table

PREFIX = "deep_"


@dataclass
class CellFeatures:
    """Where features of cells lie.

    Attributes:
        folder: of Parquet files, a plate each, or of PLATE/WELL/SITE.npz; or one table.
        project: whose, where it is known.
        label: the column of labels, where the project says it.
        control: the label of controls, "" where it is not known.
        lines: what was counted on the way, for people.
    """

    folder: Path
    project: Project | None = None
    label: str = ""
    control: str = ""
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, place: Path, exp: str = "results", config: str | None = None) -> CellFeatures:
        """Of a project's experiment, a folder of features, or a table of cells.

        Raises:
            BadInput: there is none.
        """
        if (place / "inputs").is_dir():
            project = Project.open(place, config)
            folder = project.outputs / exp / "features"
            if not folder.is_dir():
                raise BadInput(f"{folder}: no such folder; `profile` writes it (--exp names another)")
            label = project.label_field
            return cls(folder, project, label if label.startswith(META) else META + label, project.control)
        if not place.exists():
            raise BadInput(f"{place}: no such folder or file")
        return cls(place)

    def plates(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The table of each plate: Metadata_*, the two columns of locations, features.

        Raises:
            BadInput: nothing there, or a file that is no such table.
        """
        if self.folder.is_file():
            yield from _by_plate(self.folder)
            return
        found = sorted(self.folder.glob("*.parquet"))
        if found:
            whole = {path.stem for path in found}
            for path in self.folder.glob("*/*/*.npz"):
                if (plate := path.parent.parent.name) not in whole:
                    raise BadInput(
                        f"{self.folder}: plate {plate} has features but no {plate}.parquet: `profile` has not ended; "
                        "the same command goes on"
                    )
            for path in found:
                yield from _by_plate(path)
            return
        sites = sorted(
            path for path in self.folder.rglob("*.npz") if not path.name.startswith(".")
        )  # killed in mid-write
        if not sites:
            raise BadInput(f"{self.folder}: neither Parquet files nor PLATE/WELL/SITE.npz in it")
        known = self._metadata()
        plates: dict[str, list[tuple[tuple[str, str, str], Path]]] = {}
        for path in sites:
            key = _site_of(path.relative_to(self.folder))
            plates.setdefault(key[0], []).append((key, path))
        for plate, members in plates.items():
            tables = [table for key, path in members if len(table := _read_site(path, key, known))]
            if tables:
                yield plate, pd.concat(tables, ignore_index=True)

    def _metadata(self) -> pd.DataFrame | None:
        """The project's index, a row a site, every column called Metadata_*, channels left out."""
        if self.project is None:
            return None
        index = self.project.index.drop(columns=list(self.project.channels))
        index.columns = pd.Index([name if name.startswith(META) else META + name for name in index.columns])
        return index.drop_duplicates(list(KEYS)).set_index(list(KEYS))

    def without_cells(self, seen: set[tuple[str, str, str]]) -> int | None:
        """How many of the project's sites are not among those that have cells; None without a project."""
        if self.project is None:
            return None
        return sum((site.plate, site.well, site.site) not in seen for site in self.project.sites())


def _by_plate(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    frame = read_table(path)
    for key in KEYS:
        name = key_column(frame, key)
        if name is None and key != KEYS[2]:
            raise BadInput(f"{path}: has no column {key}")
        if name is not None and name != key:
            frame[key] = frame[name]
    features_of(frame)
    if frame[list(KEYS[:2])].isna().any(axis=None):
        raise BadInput(f"{path}: a row has no plate or no well")
    for plate, part in frame.groupby(PLATE, sort=True):
        yield str(plate), part.reset_index(drop=True)


def _site_of(path: Path) -> tuple[str, str, str]:
    """Plate, well and site of PLATE/WELL/SITE.npz, or of PLATE/WELL_SITE.npz as older versions had it."""
    parts = path.with_suffix("").parts
    if len(parts) >= 3:
        return parts[-3], parts[-2], parts[-1]
    well, under, site = parts[-1].rpartition("_")
    if len(parts) == 2 and under:
        return parts[0], well, site
    raise BadInput(f"{path}: neither PLATE/WELL/SITE.npz nor PLATE/WELL_SITE.npz")


def _own_metadata(file: Any) -> dict[str, str]:
    """What our own files say of their site, as JSON."""
    try:
        text = str(file["metadata"])
    except (KeyError, ValueError):  # there is none, or a pickled object
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name if name.startswith(META) else META + name: str(value) for name, value in found.items()}


def _read_site(path: Path, key: tuple[str, str, str], known: pd.DataFrame | None) -> pd.DataFrame:
    """The plain arrays of a site. Pickled `metadata` of the original program stays unread: it could run anything."""
    try:
        with np.load(path, allow_pickle=False) as file:
            features = np.asarray(file["features"], np.float32)
            places = np.asarray(file["locations"], np.float64) if "locations" in file else np.empty((0, 2))
            own = _own_metadata(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: no file of features ({' '.join(str(error).split())[:80]})") from None
    if features.ndim != 2:
        raise BadInput(f"{path}: features have the shape {features.shape}, expected (cells, features)")
    if places.shape != (len(features), 2):
        places = np.full((len(features), 2), np.nan)
    columns: dict[str, object] = {**own, **dict(zip(KEYS, key, strict=True))}
    if known is not None and key in known.index:
        columns |= {str(name): value for name, value in known.loc[key].items()}
    numbers = pd.DataFrame(features, columns=[f"{PREFIX}{column}" for column in range(features.shape[1])])
    where = pd.DataFrame(places, columns=list(LOCATION))
    return pd.concat([pd.DataFrame(columns, index=numbers.index), where, numbers], axis=1)
