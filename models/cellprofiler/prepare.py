"""Correct the illumination of each plate and channel, and compress the images to PNGs of 8 bits; a killed run goes on.

    outputs/intensities/PLATE/CHANNEL.npz       the illumination function f, the mean image and the histogram
    outputs/compressed/images/PLATE/...png      the images, where prepare.compression.implement is true

From then on the project's images are the compressed ones, for sampling and for profiles.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ground.errors import BadInput, CommandFailed
from ground.files import atomic_path, write_text
from ground.locks import alone
from ground.machine import available_cpus
from ground.processes import side_by_side
from models.cellprofiler import illumination, images, preflight
from models.cellprofiler.opening import add_project, minutes, opened, stderr
from models.cellprofiler.project import PLATE, Project

FAILED = ".prepare-failed.txt"
_WORTH_PROCESSES = 1e9  # bytes of images below which starting processes takes longer than they save
_SILENT = 20  # seconds without a word


@dataclass(frozen=True)
class Task:
    """A plate and channel.

    Attributes:
        images: where each image is, and where it goes.
        key: a digest of the settings, the images' names, sizes and times.
    """

    plate: str
    channel: str
    images: tuple[tuple[Path, Path], ...]
    key: str

    @property
    def words(self) -> str:
        return f"plate {self.plate}, {self.channel}"


def tasks(project: Project) -> list[Task]:
    """What there is to do, in the index's order.

    Raises:
        BadInput: an image is missing, or two would be written to one place, or over an original.
    """
    settings = json.dumps([project.config.prepare.illumination_correction.model_dump(), project.scale])
    originals, plates = project.originals(), project.index[PLATE].tolist()
    goes: dict[Path, Path] = {}
    found: dict[tuple[str, str], dict[Path, Path]] = {}
    for row, plate in enumerate(plates):
        if row in project.duplicates:
            continue
        targets = project.compressed_names(row, project.compressed_folder)
        for channel, source, target in zip(project.channels, originals[row], targets, strict=True):
            if goes.setdefault(target, source) != source:
                raise BadInput(f"{source} and {goes[target]} would both become {target}; rename one")
            found.setdefault((plate, channel), {})[source] = target
    sources = {os.path.realpath(source) for source in goes.values()}
    clash = next((target for target in goes if os.path.realpath(target) in sources), None)
    if clash is not None:
        raise BadInput(f"{clash}: is an original image, which would be written over (paths.compressed_images)")
    return [
        Task(plate, channel, tuple(pairs.items()), _key(settings, pairs)) for (plate, channel), pairs in found.items()
    ]


def _key(settings: str, pairs: dict[Path, Path]) -> str:
    of = hashlib.sha256(settings.encode())
    for source in pairs:
        try:
            stat = source.stat()
        except FileNotFoundError:
            raise BadInput(f"{source}: no such image") from None
        of.update(f"{source} {stat.st_size} {stat.st_mtime_ns}".encode())
    return of.hexdigest()[:32]


def intensities(project: Project, task: Task) -> Path:
    """Where a plate and channel's statistics are."""
    return project.folder("intensities", "outputs/intensities") / task.plate / f"{task.channel}.npz"


def prepare(
    project: Project, processes: int | None = None, overwrite: bool = False, say: Callable[[str], None] = stderr
) -> list[Task]:
    """Do what is not done yet.

    Args:
        processes: that work side by side (None: as many as there are cores, one where there is little to do).
        overwrite: what was made from other images or with other settings is made anew.

    Raises:
        BadInput: as `tasks`; an image cannot be read, or there are results of other images or settings.
        CommandFailed: a process ended badly.
    """
    found = tasks(project)
    folder = project.folder("intensities", "outputs/intensities")
    with alone(folder, say) as lock:
        for task in found:
            if not intensities(project, task).exists() or _made_from(intensities(project, task)) == task.key:
                continue
            if not overwrite:
                raise BadInput(
                    f"{intensities(project, task)} was made from other images or with other settings; "
                    "--overwrite makes it anew"
                )
            for _, target in task.images:
                target.unlink(missing_ok=True)
            intensities(project, task).unlink()
        for place in {target.parent for task in found for _, target in task.images}:
            for leftover in place.glob(".tmp-*"):
                leftover.unlink()
        if processes is None:
            size = sum(source.stat().st_size for task in found for source, _ in task.images)
            processes = available_cpus() if size > _WORTH_PROCESSES else 1
        if min(processes, len(found)) <= 1:
            work(project, 0, 1, say)
            return found
        (folder / FAILED).unlink(missing_ok=True)
        where = tuple(str(path.resolve()) for path in (project.root, project.config_path, project.index_path, folder))
        program = (
            f"from models.cellprofiler.prepare import process; process({where!r}".replace("%", "%%")
            + f", %d, {min(processes, len(found))}, {os.getpid()})"
        )
        ended_well = side_by_side(program, min(processes, len(found)), keep=(lock,))
        if (folder / FAILED).exists():
            text = (folder / FAILED).read_text(encoding="utf-8")
            (folder / FAILED).unlink()
            raise BadInput(text)
        if not ended_well:
            raise CommandFailed(f"{folder}: a process ended badly; the same command goes on")
    return found


def process(where: tuple[str, str, str, str], number: int, count: int, parent: int) -> None:
    """What one of several processes does."""
    root, config, index, folder = where
    try:
        work(Project.open(Path(root), config, index), number, count, stderr, lambda: os.getppid() == parent)
    except BadInput as error:
        write_text(Path(folder) / FAILED, str(error))
        raise SystemExit(2) from None


def _made_from(path: Path) -> str:
    try:
        with np.load(path) as file:
            return str(file["key"])
    except (OSError, ValueError, KeyError):
        return ""


def work(
    project: Project,
    number: int,
    count: int,
    say: Callable[[str], None],
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Every `count`-th plate and channel."""
    for task in tasks(project)[number::count]:
        if not alive():
            return
        began = time.monotonic()
        path = intensities(project, task)
        if not path.exists():
            _measure(project, task, path, say)
        written = _compress(project, task, path, say, alive) if project.config.prepare.compression.implement else 0
        say(f"  {task.words}: {len(task.images)} images, {written} compressed, {minutes(time.monotonic() - began)}")


def _measure(project: Project, task: Task, path: Path, say: Callable[[str], None]) -> None:
    about = project.config.prepare.illumination_correction
    plate = illumination.Plate(about.down_scale_factor, images.header(task.images[0][0]).bits)
    spoke = time.monotonic()
    for done, (source, _) in enumerate(task.images):
        pixels = images.read(source)
        try:
            plate.add(pixels)
        except BadInput as error:
            raise BadInput(f"{source}: {error}") from None
        spoke = _tell(spoke, say, f"  {task.words}: {done + 1} of {len(task.images)} images looked at")
    try:
        function = plate.function(about.median_filter_size)
    except BadInput as error:
        raise BadInput(f"{task.words}: {error}") from None
    assert plate.total is not None
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            key=task.key,
            illumination=function.astype(np.float32),
            mean=plate.total / plate.count,
            histogram=plate.histogram,
            high=plate.high,
        )


def _compress(project: Project, task: Task, path: Path, say: Callable[[str], None], alive: Callable[[], bool]) -> int:
    with np.load(path) as file:
        function, high = file["illumination"].astype(np.float64), float(file["high"])
    spoke, written = time.monotonic(), 0
    for done, (source, target) in enumerate(task.images):
        if target.exists():
            continue
        if not alive():
            break
        images.write_png(target, illumination.compressed(images.read(source), function, high, project.scale))
        written += 1
        spoke = _tell(spoke, say, f"  {task.words}: {done + 1} of {len(task.images)} images compressed")
    return written


def _tell(spoke: float, say: Callable[[str], None], line: str) -> float:
    """Say the line where it has been silent for long; when it was last said."""
    now = time.monotonic()
    if now - spoke < _SILENT:
        return spoke
    say(line)
    return now


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    parser.add_argument("--processes", type=int, help="(default: the cores, or 1 where there is little to do)")
    parser.add_argument("--overwrite", action="store_true", help="make anew what was made with other settings")


def main(given: argparse.Namespace) -> None:
    project = opened(given)
    preflight.check(project, "prepare", stderr)
    implement = project.config.prepare.compression.implement
    need = sum(path.stat().st_size for row in project.originals() for path in row) if implement else 0
    project.outputs.mkdir(parents=True, exist_ok=True)
    if need / 2 > shutil.disk_usage(project.outputs).free:
        raise BadInput(f"{project.outputs}: {need / 2e9:.1f} GB may be needed, and there is less space")
    found = prepare(project, given.processes, given.overwrite)
    plates = len({task.plate for task in found})
    print(f"{project.folder('intensities', 'outputs/intensities')}: {plates} plates, {len(project.channels)} channels")
    if implement:
        print(f"{project.compressed_folder}: {len({t for task in found for _, t in task.images})} images")
    else:
        print("prepare.compression.implement is false: images stay as they are, and are read as they are")
