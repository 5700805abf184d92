"""A part of a store in the making: the crops of some sites, and their rows of the table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

from ground.files import atomic_path, read_json, write_json
from ground.hdf5 import reading_hdf5
from models.cellprofiler.project import LOCATION_COLUMNS, SITE_COLUMNS, Project, Site
from models.cellprofiler.store import FIRST, PLACE, shard_name

_EPSILON = 1e-6


def part_path(folder: Path, number: int, kind: str) -> Path:
    """The file whose being there says that a part is whole."""
    return folder / (shard_name(number) if kind == "hdf5" else f"parts/cells-{number:05d}.json")


def write_part(
    folder: Path,
    number: int,
    kind: str,
    project: Project,
    sites: Sequence[Site],
    centres: Sequence[np.ndarray],
    repeats: Sequence[np.ndarray],
    mode: str,
) -> int:
    """Cut and write the crops of some sites.

    Args:
        folder: of the store.
        number: of the part.
        kind: "hdf5" or "png".
        project, sites: whose cells.
        centres: (n, 2) of each site's.
        repeats: (n,) how often each stands in the table.
        mode: of the crops.

    Returns:
        How many were written.

    Raises:
        BadInput: an image cannot be read.
    """
    count = sum(map(len, centres))
    crops, done = np.empty(0), 0
    for site, at in zip(sites, centres, strict=True):
        image = project.read(site)
        if not done:
            crops = np.empty((count, len(image), project.box, project.box), image.dtype)
        crops[done : done + len(at)] = project.crops(site, image, at, mode)
        done += len(at)
    rows = _rows(project, sites, centres, number)
    repeated = rows.loc[rows.index.repeat(np.concatenate(repeats))]
    if kind == "png":
        repeated = repeated.drop(columns=list(PLACE))
    text = repeated.to_csv(index=False, lineterminator="\n")
    about = {"rows": len(repeated), "crops": count, "dtype": str(crops.dtype), "crc": zlib.crc32(crops.data)}
    path = part_path(folder, number, kind)
    if kind == "png":
        _write_pngs(folder, rows["Image_Name"].tolist(), crops)
        write_json(path, {**about, "metadata": text})
        return count
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["crops"] = crops
        file["metadata"] = text
        file.attrs.update(about)
    return count


def read_part(folder: Path, number: int, kind: str) -> tuple[dict[str, Any], str]:
    """What a part holds, and its rows of the table as CSV."""
    path = part_path(folder, number, kind)
    if kind == "png":
        about = read_json(path) or {}
        return about, about.pop("metadata")
    with reading_hdf5(path) as file:
        about = {name: value if isinstance(value, str) else int(value) for name, value in file.attrs.items()}
        return about, file["metadata"][()].decode()


def _rows(project: Project, sites: Sequence[Site], centres: Sequence[np.ndarray], number: int) -> pd.DataFrame:
    """The table of a part, a row a crop."""
    counts = [len(at) for at in centres]
    of = np.repeat(np.arange(len(sites)), counts)
    table = pd.DataFrame({"Key": np.array([site.key for site in sites], object)[of]})
    for name, values in zip(SITE_COLUMNS, zip(*((s.plate, s.well, s.site) for s in sites), strict=True), strict=True):
        table[name] = np.array(values, object)[of]
    xy = [[short(value) for value in np.concatenate(centres)[:, axis]] for axis in (0, 1)]
    table[LOCATION_COLUMNS[0]], table[LOCATION_COLUMNS[1]] = xy
    target = {name: code for code, name in enumerate(project.classes)}
    table["Target"] = np.array([target[site.label] for site in sites])[of]
    table["Class_Name"] = np.array([site.label for site in sites], object)[of]
    table["Split"] = np.array([site.split for site in sites], object)[of]
    table["Image_Name"] = _unique(
        f"{key}/{code}@{x}x{y}" for key, code, x, y in zip(table["Key"], table["Target"], *xy, strict=True)
    )
    table["Shard"], table["Row"] = number, np.arange(len(of))
    for name in project.index.columns:
        if name not in (*FIRST, *PLACE, *project.channels):
            table[name] = project.index[name].to_numpy()[[site.row for site in sites]][of]
    return table


def short(value: float) -> str:
    """A coordinate as people write it."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _unique(names: Iterable[str]) -> list[str]:
    """Names of files; those of cells at one place are numbered."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name}.png" if seen[name] == 1 else f"{name}_{seen[name]}.png")
    return found


def _write_pngs(folder: Path, names: Sequence[str], crops: np.ndarray) -> None:
    """A killed run's rest is written again, so that a file which is half there does no harm."""
    for parent in {str(Path(name).parent) for name in names}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for name, crop in zip(names, crops, strict=True):
        Image.fromarray(strip(crop)).save(folder / name, format="PNG", compress_level=1)


def strip(crop: np.ndarray) -> np.ndarray:
    """(box, box C) uint8 one cell's channels side by side: each (x − min)/(max − min + ε), then stretched jointly.

    Args:
        crop: (C, box, box).
    """
    values = crop.astype(np.float64)
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    values = (values - low) / (high - low + _EPSILON)
    top = values.max()
    return np.floor(np.hstack(list(values)) * (255 / top if top > 0 else 0)).astype(np.uint8)
