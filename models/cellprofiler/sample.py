"""Crops of the cells of a project, drawn and written into a store; a killed run goes on.

Each training site gives the factor times the median number of cells of a training site, drawn without repeats, or all
where it has fewer; sites of the validation and test values give all cells. The project is looked at first, as by
`check --project`.

The plan (which cells, in which part) is on disk before the first part. Parts are whole or absent, so the same command
writes what is missing, and nothing twice. Processes share the parts; each depends on the plan alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput, CommandFailed
from ground.files import atomic_path, read_json, write_json, write_text
from ground.locks import alone
from ground.machine import available_cpus
from ground.processes import side_by_side
from models.cellprofiler import preflight
from models.cellprofiler.crops import MODES
from models.cellprofiler.draw import Drawn, Options, draw
from models.cellprofiler.opening import add_project, minutes, opened, positive, stderr
from models.cellprofiler.project import Project, Site
from models.cellprofiler.store import META, STORE, CropStore, description
from models.cellprofiler.writing import part_path, read_part, write_part

PLAN, ARRAYS, FAILED = "plan.json", "plan.npz", "failed.txt"
_WORTH_PROCESSES = 2e9  # bytes of images below which starting processes takes longer than they save


def sample(
    project: Project,
    name: str = "single-cells",
    options: Options | None = None,
    kind: str = "hdf5",
    mode: str = "integer",
    shard_mb: float = 64.0,
    processes: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Draw cells and write their crops.

    Args:
        project: whose.
        name: of the store, a folder below the project's outputs.
        options: what is drawn.
        kind: "hdf5", or "png" for DeepProfiler's tiled PNGs.
        mode: of the crops, "integer" or "bilinear".
        shard_mb: the least size of a part in MiB (its last site makes it larger).
        processes: that work side by side (None: as many as there are cores, one where there is little to do).
        overwrite: a store of that name that was made in another way is deleted first.
        say: is told what happens (default: stderr).

    Returns:
        The store's folder.

    Raises:
        BadInput: nothing to draw, an image that cannot be read, or the store is there already, made in another way.
        CommandFailed: a process ended badly.
    """
    say = say or stderr
    folder = project.outputs / name
    if Path(name).name != name or name in ("", ".", ".."):
        raise BadInput(f"--store {name}: is no name of a folder")
    options = options or Options()
    report = preflight.check(project, "profile" if options.everything else "sample", say)
    drawn = draw(project, report.located, options)
    for note in drawn.notes:
        say(f"  {note}")
    with alone(folder, say) as lock:
        key = _key(project, drawn, kind, mode, shard_mb)
        if not _begin(folder, key, overwrite, say):
            return folder
        parts = _plan(project, drawn, shard_mb)
        if not (folder / PLAN).exists():
            _write_plan(folder, project, drawn, parts, {"key": key, "kind": kind, "mode": mode})
        for leftover in (path for part in (".", "shards", "parts") for path in (folder / part).glob(".tmp-*")):
            leftover.unlink()
        if processes is None:
            processes = min(available_cpus(), len(parts) - 1) if _image_bytes(drawn) > _WORTH_PROCESSES else 1
        _write_parts(folder, min(processes, len(parts) - 1), lock, say)
        rows = _finish(folder, project, key, kind, mode, len(parts) - 1)
    say(f"  {folder}: {rows} cells of {len(drawn.sites)} sites")
    return folder


def _key(project: Project, drawn: Drawn, kind: str, mode: str, shard_mb: float) -> str:
    """A digest of all that the store is made from; images by their sizes and times."""
    config = project.config
    about = [config.dataset.model_dump(), project.scale, project.compressed, config.train.partition.model_dump()]
    of = hashlib.sha256(json.dumps([*about, kind, mode, shard_mb, project.classes]).encode())
    kept = project.index.iloc[[site.row for site in drawn.sites]]
    of.update(kept.to_csv(index=False).encode())
    for site, centres, repeats in zip(drawn.sites, drawn.centres, drawn.repeats, strict=True):
        of.update(centres.tobytes() + repeats.tobytes())
        for path in site.paths:
            try:
                stat = path.stat()
            except FileNotFoundError:
                raise BadInput(f"{path}: no such image (of {site.key})") from None
            of.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    return of.hexdigest()[:32]


def _begin(folder: Path, key: str, overwrite: bool, say: Callable[[str], None]) -> bool:
    """Whether there is something to do in a store's folder; what is in the way goes, where that is wanted."""
    trash = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(trash, ignore_errors=True)
    done, begun = read_json(folder / STORE), read_json(folder / PLAN)
    known = (done or begun or {}).get("key")
    if known == key:
        if done:
            _forget_plan(folder)
            say(f"  {folder}: there already")
        return not done
    if not folder.exists() or not any(folder.iterdir()):
        return True
    if known is None:
        raise BadInput(f"{folder} is there already, and no store of this command; give another name with --store")
    if not overwrite:
        raise BadInput(
            f"{folder} is there already, made from other data or with other options; give another name with --store, "
            "or --overwrite"
        )
    say(f"  {folder}: deleted, made anew")
    folder.rename(trash)  # killed on the way, it must not look like somebody's folder
    shutil.rmtree(trash)
    return True


def _plan(project: Project, drawn: Drawn, shard_mb: float) -> list[int]:
    """Sites of each part: the first is parts[k], the last before parts[k + 1]."""
    # 16 bits are taken for granted, so that parts do not depend on what images are
    size = len(project.channels) * project.box**2 * 2
    edges, held = [0], 0
    for number, centres in enumerate(drawn.centres, 1):
        held += len(centres) * size
        if held >= shard_mb * 2**20 or number == len(drawn.centres):
            edges.append(number)
            held = 0
    return edges


def _write_plan(folder: Path, project: Project, drawn: Drawn, parts: list[int], about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).unlink(missing_ok=True)
    with atomic_path(folder / ARRAYS) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            rows=np.array([site.row for site in drawn.sites]),
            starts=np.cumsum([0, *map(len, drawn.centres)]),
            centres=np.concatenate(drawn.centres),
            repeats=np.concatenate(drawn.repeats),
            parts=np.array(parts),
        )
    where = {"root": str(project.root.resolve()), "config": str(project.config_path.resolve())}
    write_json(folder / PLAN, {**about, **where, "metadata": str(project.index_path.resolve())})


def _write_parts(folder: Path, processes: int, lock: int, say: Callable[[str], None]) -> None:
    if processes <= 1:
        work(folder, 0, 1, say)
        return
    place = str(folder).replace("%", "%%")
    program = f"from models.cellprofiler.sample import process; process({place!r}, %d, {processes}, {os.getpid()})"
    ended_well = side_by_side(program, processes, keep=(lock,))
    failed = folder / FAILED
    if failed.exists():
        text = failed.read_text(encoding="utf-8")
        failed.unlink()
        raise BadInput(text)
    if not ended_well:
        raise CommandFailed(f"{folder}: a process ended badly; the same command goes on")


def process(folder: str, number: int, count: int, parent: int) -> None:
    """What one of several processes does."""

    def alive() -> bool:
        return os.getppid() == parent

    try:
        work(Path(folder), number, count, stderr, alive)
    except BadInput as error:
        write_text(Path(folder) / FAILED, str(error))
        raise SystemExit(2) from None


def work(
    folder: Path,
    number: int,
    count: int,
    say: Callable[[str], None],
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Write every `count`-th part that is not there yet, and say a line for each."""
    about = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS) as file:
        rows, starts, centres, repeats, parts = (file[n] for n in ("rows", "starts", "centres", "repeats", "parts"))
    project = Project.open(Path(about["root"]), about["config"], about["metadata"])
    by_row = {site.row: site for site in project.sites()}
    total, began, at_first = len(parts) - 1, time.monotonic(), None
    for part in range(number, total, count):
        path = part_path(folder, part, about["kind"])
        if path.exists():
            continue
        if not alive():
            return
        here = range(parts[part], parts[part + 1])
        slices = [slice(starts[site], starts[site + 1]) for site in here]
        sites: Sequence[Site] = [by_row[int(rows[site])] for site in here]
        at, times = [centres[s] for s in slices], [repeats[s] for s in slices]
        cells = write_part(folder, part, about["kind"], project, sites, at, times, about["mode"])
        there = len(list(path.parent.glob("cells-*")))
        at_first = there - 1 if at_first is None else at_first
        left = (time.monotonic() - began) / (there - at_first) * (total - there)
        say(f"  {path.name}: {cells} cells of {len(sites)} sites, {there} of {total} parts, {minutes(left)} left")


def _finish(folder: Path, project: Project, key: str, kind: str, mode: str, parts: int) -> int:
    """The table, and the file that says that the store is whole; how many rows the table has."""
    of, shards, kinds, rows = hashlib.sha256(), [], set(), 0
    with atomic_path(folder / META) as temporary, open(temporary, "w", encoding="utf-8", newline="") as table:
        for part in range(parts):
            about, text = read_part(folder, part, kind)
            table.write(text if part == 0 else text[text.index("\n") + 1 :])
            of.update(str(about["crc"]).encode())
            shards.append(about["crops"])
            kinds.add(about["dtype"])
            rows += about["rows"]
    if len(kinds) > 1:
        raise BadInput(f"{project.images_folder}: some images are of 8, others of 16 bits")
    about = {
        "key": key,
        "kind": kind,
        "channels": list(project.channels),
        "box": project.box,
        "dtype": kinds.pop() if kind == "hdf5" else "uint8",
        "classes": list(project.classes),
        "label_field": project.label_field,
        "control": project.control,
        "crop": mode,
        "shards": shards,
        "pixels": of.hexdigest(),
    }
    write_json(folder / STORE, description(about))
    _forget_plan(folder)
    return rows


def _forget_plan(folder: Path) -> None:
    for name in (PLAN, ARRAYS, FAILED):
        (folder / name).unlink(missing_ok=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    parser.add_argument(
        "--store", default="single-cells", metavar="NAME", help="folder in outputs (default: %(default)s)"
    )
    parser.add_argument(
        "--factor", type=positive, help="of the median cells of a site, drawn from each (default: the config's)"
    )
    parser.add_argument("--all", action="store_true", help="every cell of every site, whatever its split")
    parser.add_argument(
        "--held-out", default="all", metavar="N|all", help="cells of each validation and test site (default: all)"
    )
    parser.add_argument("--original-draw", action="store_true", help="draw sites as the original, with replacement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", action="store_true", help="DeepProfiler's tiled PNGs in place of HDF5")
    parser.add_argument("--crop", choices=MODES, default="integer", help="whole pixels, or the published interpolation")
    parser.add_argument("--shard-mb", type=positive, default=64.0, help="size of a part (default: %(default)s)")
    parser.add_argument("--processes", type=int, help="(default: the cores, or 1 where there is little to do)")
    parser.add_argument("--overwrite", action="store_true", help="delete a store of that name made otherwise")


def main(given: argparse.Namespace) -> None:
    project = opened(given)
    if given.held_out != "all" and not given.held_out.isdecimal():
        raise BadInput(f"--held-out {given.held_out}: a number of cells, or all")
    held_out = None if given.held_out == "all" else int(given.held_out)
    options = Options(given.factor, given.all, held_out, given.original_draw, given.seed)
    kind = "png" if given.png else "hdf5"
    folder = sample(project, given.store, options, kind, given.crop, given.shard_mb, given.processes, given.overwrite)
    store = CropStore.open(folder)
    print(f"{folder}: {len(store)} cells, {len(store.channels)} channels of {store.box} x {store.box}, {store.dtype}")


def _image_bytes(drawn: Drawn) -> float:
    return float(sum(path.stat().st_size for site in drawn.sites for path in site.paths))
