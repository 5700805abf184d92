"""A folder of parsed files into a folder of xy files. Files that are there stay, so a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.files import atomic_path, read_json, write_json
from ground.paths import made
from models.cellnet import names, npz, parsed, xy
from models.cellnet.geometry import Detector

MANIFEST = "tile.json"
"""The file in a folder of xy files that says how they were made."""
_SILENT = 20  # seconds without a word


@dataclass(frozen=True)
class Settings:
    """How events are tiled.

    Attributes:
        detector: whose wires were read.
        downsample: common voxels along x, y and z that become one.
        batch_size: events an xy file; None: all of a parsed file.
        x: the product that is tiled.
        y: products that may be the truth: the first that there is; empty: no truth.
    """

    detector: Detector
    downsample: tuple[int, int, int] = (8, 4, 4)
    batch_size: int | None = None
    x: str = "wire"
    y: tuple[str, ...] = tuple(parsed.TRUTH)

    def checked(self) -> Settings:
        """Itself.

        Raises:
            BadInput: a value that cannot be.
        """
        if min(self.downsample) < 1 or self.detector.ticks % self.downsample[0]:
            raise BadInput(
                f"--downsample is {','.join(map(str, self.downsample))}; the {self.detector.ticks} ticks of "
                f"{self.detector.name} divide by the first, and all are at least 1"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise BadInput(f"--batch-size is {self.batch_size}; it takes at least 1 event")
        if self.x not in parsed.READOUT:
            raise BadInput(f"--x is {self.x!r}; it takes {' or '.join(parsed.READOUT)}")
        for product in self.y:
            if product not in parsed.TRUTH:
                raise BadInput(f"--y is {product!r}; it takes {', '.join(parsed.TRUTH)} or none")
        return self

    def manifest(self) -> dict[str, Any]:
        """What the files of one folder have in common."""
        return {
            "detector": mark(self.detector),
            "downsample": list(self.downsample),
            "batch_size": self.batch_size,
            "x": self.x,
            "y": list(self.y),
        }


def mark(detector: Detector) -> str:
    """A detector's name and a digest of all that its file says."""
    digest = hashlib.sha256(json.dumps(asdict(detector), sort_keys=True).encode()).hexdigest()
    return f"{detector.name} ({digest[:12]})"


def process(
    source: Path,
    target: Path,
    tpc: int,
    settings: Settings,
    save_pix: bool = False,
    threads: int = 1,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Tile every parsed file of a TPC.

    Args:
        source: the folder of parsed files.
        target: the folder of xy files.
        tpc: whose.
        settings: how.
        save_pix: also write the active squares at every tick (`pix`, `starts`), as product pixel, beside the input.
        threads: that work at the same time.
        say: told what was done (default: stderr).

    Returns:
        The xy files, in order; those of which no event has an active voxel are not written.

    Raises:
        BadInput: a parsed file cannot be used, or the folder's files were made with other settings.
    """
    settings.checked().detector.tpc(tpc)
    say = say or _complain
    inputs = parsed.files(source, settings.x, tpc)
    claim(target, settings.manifest(), say)
    outputs = []
    for number, path in enumerate(inputs, 1):
        with npz.opened(path) as file:
            count = parsed.events(file)
            size = settings.batch_size or count
            if count % size:
                raise BadInput(f"{path}: holds {count} events, which do not divide into files of {size} (--batch-size)")
            if save_pix:
                _pixels(file, count, tpc, settings, threads)
            for batch in range(count // size):
                name = names.xy(path, tpc, None if settings.batch_size is None else batch)
                output = target / name
                if not output.exists():
                    begun = time.perf_counter()
                    said = _write(file, range(batch * size, (batch + 1) * size), output, tpc, settings, threads, say)
                    took = time.perf_counter() - begun
                    say(f"  {name}: {said} in {took:.1f} s, {number} of {len(inputs)} parsed files")
                if output.exists():
                    outputs.append(output)
    return outputs


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def claim(target: Path, manifest: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write down how the files of a folder are made.

    Raises:
        BadInput: those that it has were made in another way.
    """
    known, there = read_json(target / MANIFEST), len(list(target.glob("*.npz")))
    if known is None or not there:
        if there:
            say(f"{target}: has {there} files and no {MANIFEST}; those of the wanted names stay as they are")
        write_json(made(target) / MANIFEST, manifest)
        return
    for name, value in manifest.items():
        if known.get(name) != value:
            raise BadInput(
                f"{target}: its files were made with {name} {known.get(name)}, not {value}; name another folder"
            )


def _write(
    file: npz.Npz,
    events: range,
    output: Path,
    tpc: int,
    settings: Settings,
    threads: int,
    say: Callable[[str], None],
) -> str:
    """One xy file; what it holds, in words."""
    from models.cellnet.tile import tile

    x, starts, pieces, y, truths, lost = [], [], 0, [], [], 0
    sources = _truth_file(file.path, tpc, settings.y)
    spoke = time.perf_counter()
    for number, event in enumerate(events):
        if time.perf_counter() - spoke > _SILENT:
            spoke = time.perf_counter()
            say(f"  {output.name}: {number} of {len(events)} events")
        values = parsed.readout(file, event, settings.detector)
        voxels, charge = tile(values, settings.detector, tpc, settings.downsample, threads)
        starts.append(pieces)
        pieces += len(voxels)
        x.append(np.column_stack([voxels, np.full(len(voxels), number), charge]).astype(np.float32))
        if sources:
            fine = _truth(*sources, event, len(file.names))
            inside = np.all(fine[:, :3] < settings.detector.grid, axis=1)
            lost += int((~inside).sum())
            fine = fine[inside]
            truth = parsed.voxelise(fine[:, :3], settings.downsample, fine[:, 3], fine[:, 4:])
            y.append(_at(voxels, truth, settings.detector.grid))
            truths.append(truth.astype(np.float32))
    if not pieces:
        return "no active voxel, nothing to write"
    rows = np.concatenate(x)
    xy.write(output, rows, np.array(starts), np.concatenate(y) if sources else None, truths)
    outside = f", {lost} true voxels outside the readout left out" if lost else ""
    return f"{len(events)} events, {pieces} active voxels" + outside


def _truth_file(path: Path, tpc: int, products: Sequence[str]) -> tuple[Path, str] | None:
    """The truth of a parsed file, and its product.

    Raises:
        BadInput: truth is wanted and there is none.
    """
    meant = names.parse(path)
    for product in products:
        for found in sorted(path.parent.glob(f"*{product}*.npz")):
            other = names.parse(found)
            same = other.event_type == meant.event_type and other.index == meant.index
            if same and other.product == product and other.tpc in (None, tpc):
                return found, product
    if products:
        raise BadInput(f"{path}: there is no {' or '.join(products)} file beside it (--y none: without truth)")
    return None


def _truth(path: Path, product: str, event: int, count: int) -> np.ndarray:
    with npz.opened(path) as file:
        if parsed.events(file) != count:
            raise BadInput(f"{path}: holds {len(file.names)} events, the readout beside it {count}")
        return parsed.truth(file, event, product)


def _at(voxels: np.ndarray, truth: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(N, 1) the true value in each active voxel."""
    values = np.zeros((len(voxels), 1), np.float32)
    active, true = (np.ravel_multi_index(tuple(rows[:, :3].astype(np.int64).T), grid) for rows in (voxels, truth))
    _, here, there = np.intersect1d(active, true, assume_unique=True, return_indices=True)
    values[here, 0] = truth[there, 3]
    return values


def _pixels(file: npz.Npz, count: int, tpc: int, settings: Settings, threads: int) -> None:
    """The active squares at every tick, beside the parsed file."""
    from models.cellnet.tile import tile

    output = file.path.parent / names.renamed(file.path, "pixel", tpc)
    if output.exists():
        return
    starts, count_rows = [], 0
    # the rows of all events would not always fit into memory, and a header says how many there are
    with atomic_path(output) as temporary, tempfile.TemporaryFile(dir=output.parent) as rows:
        for event in range(count):
            values = parsed.readout(file, event, settings.detector)
            voxels, charge = tile(values, settings.detector, tpc, threads=threads)
            starts.append(count_rows)
            count_rows += len(voxels)
            rows.write(np.column_stack([voxels, np.full(len(voxels), event), charge]).astype("<f4").tobytes())
        rows.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (count_rows, 7)}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("pix.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                shutil.copyfileobj(rows, member, 1 << 20)
            with archive.open("starts.npy", "w") as member:
                np.lib.format.write_array(member, np.array(starts))
