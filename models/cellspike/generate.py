"""Simulated cells in the Blue Brain layout, and packs of them: data to try everything on, made in a minute or two.

Cells are of several types (shapes) with several clones each, whose typical conductances differ; in every simulation
each conductance is base · 10^u with u uniform in [−1, 1]. The last clones of the first types are witnesses: never
trained on, they tell how well a network does on cells it has not seen.

    CELLSPIKE_DATA/generated_<digest of the options>/
        raw/<cell>/...                     the simulated cell; its shards are deleted once packed (option keep)
        demo.conf.yaml                     what u* means, and the chosen probes
        <cell>_excite.cellSpike_4prB8kHz.{data.h5,meta.yaml}
        meta.cellSpike_4prB8kHz.yaml       which cells are for practice; written last
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput, CommandFailed
from ground.files import write_json
from ground.locks import alone
from ground.machine import available_cpus
from ground.paths import made
from ground.processes import side_by_side
from ground.settings import mark, resolve
from models.cellspike import population
from models.cellspike.aggregate import packs_of, write_training_meta
from models.cellspike.calibrate import Conf, calibrate
from models.cellspike.cells import META, Cell, write_meta, write_shard, write_stim
from models.cellspike.folders import folder
from models.cellspike.pack import pack
from models.cellspike.units import bases

OPTIONS: dict[str, tuple[int, int, int]] = {
    "types": (4, 1, 99),  # of cells, each of its own shape
    "clones": (2, 1, 9),  # of each type, told by one digit
    "witness": (2, 0, 99),  # cells not to train on: the last clone of the first types
    "samples": (800, 10, 10**9),  # simulations a cell
    "shard": (400, 1, 10**9),  # of them in a file
    "bins": (8000, 200, 10**9),  # of 25 µs; a multiple of 200
    "seed": (0, 0, 2**31),
    "keep": (0, 0, 1),  # 1: keep the raw shards, 150 MB a cell
}
CONF = "demo.conf.yaml"
_WORTH_PROCESSES = 1e6  # bins of all simulations below which starting processes takes longer than they save


def checked(options: Mapping[str, Any]) -> dict[str, int]:
    """The complete options.

    Raises:
        BadInput: an unknown option or an impossible value.
    """
    found = resolve("neurons", OPTIONS, options, "option")
    if found["bins"] % 200:
        raise BadInput(f"neurons option bins is {found['bins']}; it takes a multiple of 200 (8000: 200 ms)")
    if found["witness"] > found["types"] or found["witness"] >= found["types"] * found["clones"]:
        raise BadInput(f"neurons option witness is {found['witness']}: one a type at most, and not every cell")
    return found


def shards(options: Mapping[str, int]) -> list[int]:
    """Simulations in each shard of a cell."""
    full, rest = divmod(options["samples"], options["shard"])
    return [options["shard"]] * full + [rest] * bool(rest)


def witnesses(options: Mapping[str, int]) -> list[str]:
    """The cells not to train on."""
    cells = population.population(options["types"], options["clones"], options["seed"])
    last = [cell.name for cell in cells if cell.clone == options["clones"]]
    return last[: options["witness"]]


def write_cells(options: Mapping[str, Any], raw: Path, processes: int | None = None) -> list[Cell]:
    """Simulate cells into a folder; what it lacks is simulated, shard by shard, so that a killed run goes on.

    Args:
        processes: how many to use; by default one a core.

    Raises:
        BadInput: wrong options, or the folder holds cells of other options.
        CommandFailed: a process that simulates failed (its own message is on stderr).
    """
    complete = {**checked(options), "keep": 1}
    begin(complete, raw)
    with alone(raw / "cells") as lock:
        _share(raw, None, complete, processes, lock)
    return [Cell.of(raw / spec.name) for spec in _population(complete)]


def place(options: Mapping[str, Any]) -> Path:
    """The folder of the packs of these options, there or not."""
    return folder() / f"generated_{mark(checked(options))}"


def demo(options: Mapping[str, Any], processes: int | None = None) -> Path:
    """The folder with packs of simulated cells and their training meta file; what it lacks is made.

    Args:
        options: over OPTIONS.
        processes: how many to use; by default one a core.

    Raises:
        BadInput: wrong options.
        CommandFailed: a process that simulates failed (its own message is on stderr).
    """
    complete, target = checked(options), place(options)
    if any(target.glob("meta.cellSpike_*.yaml")):
        return target
    made(target)
    with alone(target / "packs") as lock:
        if any(target.glob("meta.cellSpike_*.yaml")):
            return target
        begin(complete, target / "raw")
        if not (target / CONF).exists():
            cells = [Cell.of(target / "raw" / spec.name) for spec in _population(complete)]
            calibrate(cells, target / CONF, target)
        count = complete["types"] * complete["clones"]
        print(f"simulating {count} cells, {complete['samples']} times each, in {target}", file=sys.stderr)
        _share(target / "raw", target / CONF, complete, processes, lock)
        for left in [*target.glob(".*.h5.lock"), *target.glob(".tmp-*")]:
            left.unlink()  # of processes that were killed
        write_training_meta(packs_of([target]), target, witnesses(complete), "demo")
    return target


def _population(options: Mapping[str, int]) -> list[population.Spec]:
    return population.population(options["types"], options["clones"], options["seed"])


def begin(options: Mapping[str, int], raw: Path) -> None:
    """What is known of the cells before they are simulated: meta files and the stimulus.

    Raises:
        BadInput: the folder holds cells of other options.
    """
    path, text = raw / "options.json", json.dumps(options)
    if path.exists() and json.loads(path.read_text()) != json.loads(text):
        raise BadInput(f"{raw} holds cells that were generated with other options; give another folder")
    write_json(path, options)
    current = population.stimulus(options["bins"])
    for spec in _population(options):
        if (raw / spec.name / META).exists():
            continue
        write_stim(made(raw / spec.name), population.STIM, population.STEP, current)
        write_meta(
            raw / spec.name,
            kind=spec.kind,
            clone=spec.clone,
            ranges=spec.ranges(),
            probes=spec.probes,
            stim=population.STIM,
            step=population.STEP,
            bins=options["bins"],
            rows=shards(options),
            about={"seed": options["seed"], "mV_per_count": population.COUNT},
        )


def write_simulations(spec: population.Spec, raw: Path, number: int, options: Mapping[str, int]) -> None:
    """One shard, whole or absent. Its content depends on the options' seed and its place, on nothing else."""
    rows = shards(options)[number]
    kind, clone = int(spec.kind.removeprefix("demo")), spec.clone
    rng = np.random.default_rng([options["seed"], kind, clone, number])
    unit = rng.uniform(-1, 1, (rows, len(population.VARIED))).astype(np.float32)
    frames = population.record(spec, unit, population.stimulus(options["bins"]))
    names = list(population.PARAMETERS)
    varied = [names.index(name) for name in population.VARIED]
    every, physical = (
        np.zeros((rows, len(names))),
        np.tile([population.HELD.get(name, 0.0) for name in names], (rows, 1)),
    )
    every[:, varied] = unit
    ranges = np.array([row[1:] for row in spec.ranges()])[varied]
    physical[:, varied] = bases(population.VARIED, ranges) * 10.0**unit
    write_shard(Cell.of(raw / spec.name).path(number), frames, every, physical, population.COUNT)


def _share(raw: Path, conf: Path | None, options: Mapping[str, int], processes: int | None, lock: int) -> None:
    """All cells, by as many processes."""
    for left in raw.glob("*/.tmp-*"):
        left.unlink()
    cells = len(_population(options))
    count = min(processes or available_cpus(), cells)
    if count <= 1 or cells * options["samples"] * options["bins"] < _WORTH_PROCESSES:
        _work(raw, conf, options, 0, 1)
        return
    given = f"{str(raw)!r}, {None if conf is None else str(conf)!r}, {json.dumps(options)!r}"
    program = f"from models.cellspike.generate import worker; worker({given}, %d, {count})"
    if not side_by_side(program, count, [lock]):
        raise CommandFailed(f"simulating cells in {raw} failed; the same command goes on")


def worker(raw: str, conf: str | None, options: str, first: int, step: int) -> None:
    """What each process of `_share` runs."""
    try:
        _work(Path(raw), Path(conf) if conf else None, json.loads(options), first, step)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(raw: Path, conf: Path | None, options: Mapping[str, int], first: int, step: int) -> None:
    """Every `step`-th cell from `first`: simulated, and packed where there is a conf; a line on stderr for each."""
    parent, transform = os.getppid(), None if conf is None else Conf.of(conf)
    for spec in _population(options)[first::step]:
        cell = Cell.of(raw / spec.name)
        if transform is None or not any(transform.out.glob(f"{spec.name}_*.data.h5")):
            for number, rows in enumerate(shards(options)):
                if step > 1 and os.getppid() != parent:
                    return  # who asked for this is gone
                if cell.path(number).exists():
                    continue
                begun = time.perf_counter()
                write_simulations(spec, raw, number, options)
                took = time.perf_counter() - begun
                print(f"  {cell.path(number).name}: {rows} simulations in {took:.1f} s", file=sys.stderr, flush=True)
            if transform is not None:
                pack(cell, transform)
        if not options["keep"]:
            for number in range(cell.shards):
                cell.path(number).unlink(missing_ok=True)
