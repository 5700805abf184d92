"""What is wrong with the crops of a store, or (--project) with the project itself.

Of a store: crops that are missing (`missing_crops.csv`) and crops that are black or constant (`zero_crops.csv`), all of
them. Their rows leave sc-metadata.csv; the first one is kept as sc-metadata.original.csv, and no crop is deleted.

"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import atomic_path
from ground.machine import available_cpus
from models.cellprofiler import preflight
from models.cellprofiler.opening import add_project, minutes, opened, stderr
from models.cellprofiler.store import META, CropStore

__doc__ += preflight.__doc__ or ""
MISSING, ZERO, ORIGINAL = "missing_crops.csv", "zero_crops.csv", "sc-metadata.original.csv"
_TOGETHER = 64 << 20  # bytes that are looked at at once
_ROWS = 200_000  # of the table that are read at once
_SILENT = 10  # seconds without a word


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    parser.add_argument("--project", action="store_true", help="look at images, locations, labels and split alone")
    parser.add_argument(
        "--store", default="single-cells", metavar="NAME", help="folder in outputs (default: %(default)s)"
    )
    parser.add_argument(
        "--constant",
        choices=("all", "any"),
        default="all",
        help="a crop is constant where all of its channels are, or any one (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="write the lists, leave sc-metadata.csv as it is")


def main(given: argparse.Namespace) -> int:
    project = opened(given)
    if given.project:
        report = preflight.look(project, "sample", stderr)
        for problem in report.problems:
            print(f"{'stops' if problem.stops else 'note '}  {problem.line}")
        stops = any(problem.stops for problem in report.problems)
        cells = sum(len(at) for _, at in report.located)
        if not stops:
            print(f"{project.root}: {len(report.located)} sites, {cells} cells, {len(project.classes)} classes: ready")
        return 2 if stops else 0
    found = check(project.outputs / given.store, given.constant, given.dry_run, stderr)
    print(found)
    return 0


def check(folder: Path, constant: str, dry_run: bool, say: Callable[[str], None]) -> str:
    """Look at all crops of a store, write the two lists and, unless it is a dry run, the new table.

    Args:
        folder: of the store.
        constant: "all" or "any" channels of a constant crop are constant.

    Returns:
        What was found, a line.

    Raises:
        BadInput: it is no store, or nothing would be left of it.
    """
    first = ORIGINAL if (folder / ORIGINAL).exists() else META
    store = CropStore.open(folder, first)
    reasons = _reasons(store, constant, say)
    names = store.table["Image_Name"].to_numpy()
    missing = list(dict.fromkeys(names[reasons == "missing"]))
    zero = dict(zip(names[reasons != ""], reasons[reasons != ""], strict=True))
    zero = {name: reason for name, reason in zero.items() if reason != "missing"}
    _write_list(folder / MISSING, ["missing_crops"], [[name] for name in missing])
    _write_list(folder / ZERO, ["missing", "reason"], [[name, reason] for name, reason in zero.items()])
    before, after = _without(folder, {*missing, *zero}, dry_run)
    if not after:
        raise BadInput(f"{folder}: all {before} crops are missing, black or constant; sc-metadata.csv stays as it is")
    dropped = f"{before - after} rows {'would be ' if dry_run else ''}dropped"
    return f"{folder}: {len(store)} crops, {len(missing)} missing, {len(zero)} black or constant; {dropped}"


def _without(folder: Path, names: set[str], dry_run: bool) -> tuple[int, int]:
    """Take the rows of images out of the table; how many rows there were, and how many are left.

    The table stays where no row goes or none would be left, and in a dry run.
    """
    before = after = 0
    table = folder / META
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".tmp-", suffix=".csv", encoding="utf-8") as kept:
        for piece in pd.read_csv(table, dtype=str, keep_default_na=False, na_filter=False, chunksize=_ROWS):
            left = piece[~piece["Image_Name"].isin(names)]
            left.to_csv(kept, index=False, header=not before, lineterminator="\n")
            before, after = before + len(piece), after + len(left)
        kept.flush()
        if after < before and after and not dry_run:
            if not (folder / ORIGINAL).exists():
                with atomic_path(folder / ORIGINAL) as temporary:
                    shutil.copyfile(table, temporary)
            with atomic_path(table) as temporary:
                shutil.copyfile(kept.name, temporary)
    return before, after


def _write_list(path: Path, head: list[str], rows: list[list[str]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def _reasons(store: CropStore, constant: str, say: Callable[[str], None]) -> np.ndarray:
    """(cells,) why each is bad: "missing", "black", "constant", the constant channels' names, or ""."""
    reasons = np.full(len(store), "", object)
    began = spoke = time.monotonic()
    done = 0

    def look(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, _look(store, rows, constant)

    with ThreadPoolExecutor(available_cpus()) as pool:
        for rows, found in pool.map(look, _pieces(store)):
            reasons[rows] = found
            done += len(rows)
            if time.monotonic() - spoke > _SILENT:
                spoke = time.monotonic()
                left = (spoke - began) / done * (len(store) - done)
                say(f"  {done} of {len(store)} crops, {minutes(left)} left")
    return reasons


def _pieces(store: CropStore) -> Iterator[np.ndarray]:
    """Rows that are looked at together: of one shard, and of a bounded size."""
    size = max(1, int(_TOGETHER / (len(store.channels) * store.box**2 * store.dtype.itemsize)))
    for rows in store.by_shard():
        for begin in range(0, len(rows), size):
            yield rows[begin : begin + size]


def _look(store: CropStore, rows: np.ndarray, constant: str) -> np.ndarray:
    try:
        crops = store.read(rows)
    except (BadInput, OSError):
        if len(rows) == 1 or store.about.get("kind") == "hdf5":  # a shard is there or not, as a whole
            return np.full(len(rows), "missing", object)
        return np.concatenate([_look(store, row, constant) for row in rows[:, None]])
    flat = crops.reshape(*crops.shape[:2], -1)
    same = (flat == flat[:, :, :1]).all(2)
    reasons = np.full(len(rows), "", object)
    reasons[same.all(1)] = "constant"
    reasons[(same & (flat[:, :, 0] == 0)).all(1)] = "black"
    if constant == "any":
        for row in np.flatnonzero(same.any(1) & ~same.all(1)):
            names = [store.channels[channel] for channel in np.flatnonzero(same[row])]
            reasons[row] = f"constant {' '.join(names)}"
    return reasons
