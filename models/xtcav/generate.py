"""A generated XTCAV experiment in the layout of amo86815's files: beam images, waveforms and the labels found in them.

Every shot has three waveform peaks t0, t1, t2. The waveforms are drawn from them, and the label that is stored is the
one that a labeller finds in the waveforms, as in the experiment; the image shows two lobes of the streaked beam whose
energy loss grows with t1 and t2. Amplitudes are in units of the median of |waveform|.

Run 68 is dark, 70 and 71 are labelled (`amo86815_mlearn-*`), 72 is for prediction only (`amo86815_pred-*`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground.errors import BadInput, CommandFailed
from ground.files import atomic_path, write_json
from ground.locks import alone
from ground.machine import available_cpus
from ground.paths import made
from ground.processes import side_by_side
from ground.settings import mark, resolve
from models.xtcav.folders import folder
from models.xtcav.picture import render
from models.xtcav.waveforms import find_peaks, label_of, waveforms

OPTIONS: dict[str, tuple[int, int, int]] = {
    "files": (8, 1, 10**4),  # of labelled runs
    "rows": (500, 1, 10**6),  # shots a file
    "runs": (2, 1, 10**4),  # labelled runs: 70, 71, ...
    "dark": (50, 0, 10**6),  # shots of the dark run; 0: none
    "pred": (100, 0, 10**6),  # shots for prediction only; 0: none
    "scale": (1, 1, 16),  # pixels of 1/scale the resolution
    "seed": (0, 0, 2**31),
}
LABELLED = "amo86815_mlearn-*.h5"
DARK = "amo86815_dark-*.h5"
CLASSES = np.array([0.099, 0.062, 0.432, 0.407])
UNUSABLE = 0.43
_TOGETHER = 40  # shots drawn at once: some MB of waveforms
_WORTH_PROCESSES = 2e7  # pixels below which starting processes takes longer than they save


def checked(options: Mapping[str, Any]) -> dict[str, int]:
    """The complete options.

    Raises:
        BadInput: an unknown option or an impossible value.
    """
    found = resolve("xtcav", OPTIONS, options, "option")
    if found["runs"] > found["files"]:
        raise BadInput(f"xtcav option runs is {found['runs']}: more runs than files ({found['files']})")
    return found


def plan(options: Mapping[str, int]) -> list[tuple[str, str, int, int, int]]:
    """(file name, kind, run, number within the run, shots) of each file."""
    each = [len(part) for part in np.array_split(np.arange(options["files"]), options["runs"])]
    files = [
        (f"amo86815_mlearn-r{70 + r:03d}-c{c:04d}.h5", "mlearn", 70 + r, c, options["rows"])
        for r, count in enumerate(each)
        for c in range(count)
    ]
    if options["pred"]:
        run = 70 + options["runs"]
        files.append((f"amo86815_pred-r{run:03d}-c0000.h5", "pred", run, 0, options["pred"]))
    if options["dark"]:
        files.append(("amo86815_dark-r068-c0000.h5", "dark", 68, 0, options["dark"]))
    return files


def amplitudes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (count, 3) and the label that is meant, -1 for combinations that no label knows."""
    gamma = rng.gamma(2, 3, (count, 3))
    low, high = rng.uniform(0.5, 6, (count, 3)), rng.uniform(0.7, 1.3, count)
    meant = rng.choice(4, count, p=CLASSES / CLASSES.sum())
    t0 = np.where(meant == 0, rng.uniform(0.5, 4.5, count), 5.5 + gamma[:, 0])
    t1 = np.where(meant >= 2, 7.5 + gamma[:, 1], low[:, 1])
    t2 = np.where(meant == 3, np.maximum(7.5, t1 * high), low[:, 2])
    t1 = np.where(meant == 3, np.maximum(t1, t2 / 1.3), t1)
    why = np.where(rng.random(count) < UNUSABLE, rng.integers(0, 3, count), -1)
    # t1 and t2 both high but of ratio 2.2; t2 without t1; t1 without t0
    first = rng.random(count) < 0.5
    small, other = 8 + gamma[:, 1], 2.2 * (8 + gamma[:, 1])
    t1 = np.select([why == 0, why == 1, why == 2], [np.where(first, small, other), low[:, 1], 8 + gamma[:, 1]], t1)
    t2 = np.select([why == 0, why == 1, why == 2], [np.where(first, other, small), 8 + gamma[:, 2], low[:, 2]], t2)
    t0 = np.select([why == 0, why == 1, why == 2], [5.5 + gamma[:, 0], t0, rng.uniform(0.5, 4.5, count)], t0)
    return np.stack([t0, t1, t2], 1), np.where(why >= 0, -1, meant)


def energies(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
    """Beam energy at L3: a slow wave and jitter, in invented units about 3500."""
    return 3500 + 6 * np.sin((first + np.arange(count)) / 400) + rng.normal(0, 4, count)


def write_file(path: Path, kind: str, run: int, number: int, rows: int, options: Mapping[str, int]) -> None:
    """One file, whole or absent. Its content depends on the options' seed and its place, on nothing else."""
    rng = np.random.Generator(np.random.SFC64([options["seed"], run, number]))
    scale, first = options["scale"], number * options["rows"]
    height, width = 726 // scale, 568 // scale
    samples = 1000 if kind == "pred" else 250
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        images = file.create_dataset("xtcavimg", (rows, height, width), np.int16, chunks=(1, height, width))
        shape = (rows, 16, samples)
        waves = file.create_dataset("acq.waveforms", shape, np.float32, chunks=(min(rows, 25), 16, samples))
        found: list[dict[str, np.ndarray]] = []
        for start in range(0, rows, _TOGETHER):
            count = min(_TOGETHER, rows - start)
            peaks, _ = amplitudes(rng, count)
            energy = energies(rng, first + start, count)
            lasing = np.full(count, kind != "dark")
            wave = waveforms(rng, peaks if kind != "dark" else 0 * peaks, energy, samples)
            ampl, pos = find_peaks(wave, energy)
            waves[start : start + count] = wave
            images[start : start + count] = render(rng, peaks, energy, scale, dark=kind == "dark")
            found.append({"ampl": ampl, "pos": pos, "bld.L3energy": energy, "lasing": lasing.astype(np.int8)})
        table = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        if kind == "mlearn":
            file["acq.peaksLabel"] = label_of(table["ampl"]).astype(np.int32)
            for k in range(3):
                file[f"acq.t{k}.pos"], file[f"acq.t{k}.ampl"] = table["pos"][:, k], table["ampl"][:, k]
        file["bld.L3energy"], file["lasing"] = table["bld.L3energy"], table["lasing"]
        for name, column in _identity(run, first, rows).items():
            file[name] = column


def _identity(run: int, first: int, rows: int) -> dict[str, np.ndarray]:
    """When each shot was: 120 a second, fiducials counting 360 a second below 2^17."""
    shot = first + np.arange(rows)
    nanoseconds = shot % 120 * (10**9 // 120)
    return {
        "evt.seconds": (1_434_300_000 + 3600 * (run - 68) + shot // 120).astype(np.int64),
        "evt.nanoseconds": nanoseconds.astype(np.int64),
        "evt.fiducials": (3 * shot + 1000 * run) % 131_040,
        "run": np.full(rows, run),
        "run.index": shot,
    }


def place(options: Mapping[str, Any]) -> Path:
    """The folder of the collection of these options, there or not."""
    return folder() / f"generated_{mark(checked(options))}"


def ensure(options: Mapping[str, Any], processes: int | None = None) -> Path:
    """The folder of the collection; what it lacks is generated, file by file, so that a killed run goes on.

    Args:
        processes: how many to use; by default one a core.

    Raises:
        BadInput: wrong options.
        CommandFailed: a process that generates failed (its own message is on stderr).
    """
    complete, target = checked(options), place(options)
    if not _missing(target, complete):
        return target
    with alone(target) as lock:
        write_json(made(target) / "options.json", complete)
        missing = _missing(target, complete)
        for left in target.glob(".tmp-*"):
            left.unlink()
        shots = sum(missing.values())
        if shots:
            print(f"generating {shots} shots of an XTCAV experiment in {target}", file=sys.stderr)
        count = min(processes or available_cpus(), len(missing))
        if count <= 1 or shots * 726 * 568 // complete["scale"] ** 2 < _WORTH_PROCESSES:
            _generate(target, complete, 0, 1)
        else:
            _in_processes(target, complete, count, lock)
    return target


def _missing(target: Path, options: Mapping[str, int]) -> dict[str, int]:
    return {name: rows for name, _, _, _, rows in plan(options) if not (target / name).exists()}


def _in_processes(target: Path, options: Mapping[str, int], count: int, lock: int) -> None:
    """One process a core, each every `count`-th file."""
    program = f"from models.xtcav.generate import worker; worker({str(target)!r}, {json.dumps(options)!r}, %d, {count})"
    if not side_by_side(program, count, [lock]):
        raise CommandFailed(f"generating the XTCAV experiment in {target} failed; the same command goes on")


def worker(target: str, options: str, first: int, step: int) -> None:
    """What each process of `ensure` runs."""
    try:
        _generate(Path(target), json.loads(options), first, step)
    except KeyboardInterrupt:
        sys.exit(130)


def _generate(target: Path, options: Mapping[str, int], first: int, step: int) -> None:
    """Every `step`-th file that is missing, from `first`; a line on stderr for each."""
    parent, files = os.getppid(), plan(options)
    for name, kind, run, number, rows in files[first::step]:
        if (target / name).exists():
            continue
        if step > 1 and os.getppid() != parent:
            return  # who asked for this is gone
        begun = time.perf_counter()
        write_file(target / name, kind, run, number, rows, options)
        there = sum((target / other[0]).exists() for other in files)
        took = time.perf_counter() - begun
        print(f"  {name}: {rows} shots in {took:.1f} s, {there} of {len(files)} files", file=sys.stderr, flush=True)
