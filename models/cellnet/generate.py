"""Generated events of a liquid-argon TPC: deposits, what the wires read of them, and the tiled events of that.

A folder of them holds `parsed/` (readout and truth as a simulation's) and `xy/` (what networks learn from). Each event
type has files 0, 1, ... of some events, so ranges of file numbers are parts for training, validation and test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.files import read_json, sha256, write_json
from ground.locks import alone
from ground.machine import available_cpus
from ground.paths import expanded, made
from ground.settings import mark, resolve
from models.cellnet import edepsim, names, parsed, process, xy
from models.cellnet.deposits import Deposits, electrons
from models.cellnet.folders import folder
from models.cellnet.geometry import Detector, load
from models.cellnet.particles import RECIPES, Event

OPTIONS: dict[str, tuple[Any, Any, Any]] = {
    "detector": ("mini", None, None),  # or protodune, or a file of one
    "tpc": (1, 0, 10**4),
    "deposits": ("", None, None),  # HDF5 of edep-sim's segments; empty: our own particles
    "types": ("Mu,Electron,BeamCosmic", None, None),
    "files": (8, 1, 10**4),  # of each type
    "events": (3, 1, 10**6),  # in each file
    "boxes": (1, 1, 10**4),  # events of the sample, or interactions, that are put into one event at random places
    "truth": ("depo", None, None),  # what Y is: depo or energy (MeV; energy counts 3 times), depoElectron (electrons)
    "downsample": ("8,4,4", None, None),
    "roi": (500.0, 0, 1e9),  # electrons a tick below which nothing is read
    "noise": (100.0, 0, 1e9),  # electrons a tick
    "dead": (0.01, 0, 0.99),  # share of channels that read nothing
    "seed": (0, 0, 2**31),
}
TRUE = {"depo": 0.17, "energy": 0.5, "depoElectron": 4500.0}
"""The value above which a voxel counts as true, of each kind of truth: .17 MeV, or what it stands for."""
EXPECTED = {"ghosts": (12.0, 23.0), "efficiency": (0.95, 1.0)}
"""Ghosts per true active voxel, and the share of true voxels that are active, of the simulated detector."""


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The complete options.

    Raises:
        BadInput: an unknown option or an impossible value.
    """
    found = resolve("lartpc", OPTIONS, options, "option")
    unknown = [word for word in _words(found["types"]) if word not in names.EVENT_TYPES]
    if unknown or not _words(found["types"]):
        raise BadInput(f"lartpc option types is {found['types']!r}; it takes some of {', '.join(names.EVENT_TYPES)}")
    if not found["deposits"] and (lacking := [word for word in _words(found["types"]) if word not in RECIPES]):
        raise BadInput(f"lartpc option types has {lacking[0]}; without deposits it takes {', '.join(RECIPES)}")
    if found["truth"] not in TRUE:
        raise BadInput(f"lartpc option truth is {found['truth']!r}; it takes one of {', '.join(TRUE)}")
    if found["deposits"]:
        found["deposits"] = str(expanded(found["deposits"]).absolute())
    _settings(found).checked().detector.tpc(found["tpc"])
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _settings(options: Mapping[str, Any]) -> process.Settings:
    return process.Settings(
        load(options["detector"]), downsample(options["downsample"]), None, "wire", (options["truth"],)
    )


def downsample(text: str) -> tuple[int, int, int]:
    """Three whole numbers, written 8,4,4.

    Raises:
        BadInput: it is something else.
    """
    try:
        x, y, z = (int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"downsample is {text!r}; it takes voxels along x,y,z such as 8,4,4") from None
    return x, y, z


def place(options: Mapping[str, Any]) -> Path:
    """The folder of the events of these options, there or not."""
    complete = checked(options)
    described = {**complete, "detector": process.mark(load(complete["detector"]))}
    if complete["deposits"]:
        source = Path(complete["deposits"])
        if not source.is_file():
            raise BadInput(f"{source}: no such file (lartpc option deposits)")
        described["deposits"] = sha256(source)
    return folder() / f"generated_{mark(described)}"


def demo(options: Mapping[str, Any], threads: int | None = None) -> Path:
    """The folder of xy files of these options; what it lacks is generated, file by file, so that a killed run goes on.

    Args:
        options: over OPTIONS.
        threads: for tiling; by default one a core.

    Raises:
        BadInput: wrong options, or a sample of deposits that cannot be used.
    """
    complete, target = checked(options), place(options)
    if (target / "summary.json").exists():
        return target / "xy"
    with alone(target):
        write_json(made(target) / "options.json", complete)
        if (target / "summary.json").exists():
            return target / "xy"
        for left in target.rglob(".tmp-*"):
            left.unlink()
        _say(f"generating events of a liquid-argon TPC in {target}")
        _simulate(target / "parsed", complete)
        _say("tiling them (the first time, the code is compiled: half a minute)")
        settings = _settings(complete)
        files = process.process(
            target / "parsed", target / "xy", complete["tpc"], settings, threads=threads or available_cpus()
        )
        if not files:
            raise BadInput(f"lartpc options {dict(options)}: no event has an active voxel (roi {complete['roi']:g})")
        write_json(target / "summary.json", summary(files, TRUE[complete["truth"]]))
    found = read_json(target / "summary.json") or {}
    for line in report(found):
        _say(line)
    return target / "xy"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _simulate(target: Path, options: Mapping[str, Any]) -> None:
    """Readout and truth of every event that is missing; a line for each file. The readout is written last."""
    from models.cellnet.simulate import readout

    detector, tpc = load(options["detector"]), options["tpc"]
    sample = edepsim.read(Path(options["deposits"])) if options["deposits"] else []
    if sample and len(sample) < options["files"]:
        raise BadInput(f"{options['deposits']}: holds {len(sample)} events for {options['files']} files (option files)")
    plan = [(kind, index) for kind in dict.fromkeys(_words(options["types"])) for index in range(options["files"])]
    for number, (kind, index) in enumerate(plan, 1):
        name = f"reco_{kind}_{index:03d}_wire-TPC{tpc}.npz"
        if (target / name).exists():
            continue
        begun = time.perf_counter()
        # a file's content depends on the seed and its name, on nothing else
        rng = np.random.default_rng([options["seed"], names.EVENT_TYPES.index(kind), index])
        # files of different numbers share no event of the sample: they may be training and test
        own = sample[index :: options["files"]]
        events = [_event(rng, kind, own, detector, tpc, options["boxes"]) for _ in range(options["events"])]
        for product, arrays in _truth(events, detector).items():
            parsed.write(target / names.renamed(name, product), arrays)
        quiet = {key: options[key] for key in ("roi", "noise", "dead")}
        parsed.write(target / name, [readout(event, detector, tpc, rng, **quiet) for event in events])
        took = time.perf_counter() - begun
        _say(f"  {name}: {len(events)} events in {took:.1f} s, {number} of {len(plan)} files")


def _event(
    rng: np.random.Generator, kind: str, sample: list[Deposits], detector: Detector, tpc: int, boxes: int
) -> Deposits:
    """The deposits of one event, local to the TPC."""
    box, parts = np.asarray(detector.box), []
    for _ in range(boxes):
        if sample:
            part = sample[rng.integers(len(sample))]
            extent = part.position.max(0, initial=0)
            flipped = np.where(rng.random(3) < 0.5, extent - part.position, part.position)
            parts.append(part.moved(flipped + rng.random(3) * np.maximum(box - extent, 0)))
        else:
            event = Event(rng, box)
            RECIPES[kind](event)
            parts.append(event.deposits())
    together = Deposits.together(parts)
    position, inside = detector.local(tpc, together.position + np.asarray(detector.tpc(tpc).corner))
    return together.moved(position).take(np.flatnonzero(inside))


def _truth(events: list[Deposits], detector: Detector) -> dict[str, list[np.ndarray]]:
    """The parsed truth: product -> an array an event. `energy` counts each deposit once a plane."""
    found: dict[str, list[np.ndarray]] = {product: [] for product in parsed.TRUTH}
    for event in events:
        identities = np.column_stack([event.track, event.pdg])
        depo = parsed.voxelise(event.position, detector.voxel, event.energy, identities)
        charge = parsed.voxelise(event.position, detector.voxel, electrons(event.energy, event.steepness))
        found["depo"].append(depo)
        found["depoElectron"].append(charge)
        found["energy"].append(depo[:, :4] * [1, 1, 1, 3])
    return found


def summary(files: list[Path], true: float) -> dict[str, dict[str, float]]:
    """What tiling made of the events, by event type and of all: means over events.

    Args:
        files: xy files with truth.
        true: the value above which a voxel is true.

    Returns:
        events, active voxels, true voxels, ghosts per true active voxel, and the share of true voxels that are active.
    """
    rows: dict[str, list[np.ndarray]] = {"all": []}
    for path in files:
        file = xy.read(path)
        assert file.y is not None
        here = np.bincount(file.events, weights=file.y[:, 0] > true, minlength=len(file.starts))
        everywhere = np.array([(truth[:, 3] > true).sum() for truth in file.truth])
        table = np.column_stack([file.counts, here, everywhere])
        for kind in ("all", names.parse(path).event_type):
            rows.setdefault(kind, []).append(table)
    found = {}
    for kind, tables in rows.items():
        table = np.concatenate(tables)
        active, here, everywhere = table.mean(0)
        ghosts, share = (active - here) / max(here, 1e-9), here / max(everywhere, 1e-9)
        found[kind] = {"events": len(table), "active": active, "true": everywhere, "ghosts": ghosts,
                       "efficiency": share}  # fmt: skip
    return found


def report(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each event type of a `summary`, and what is expected."""
    lines = [
        f"  {kind}: {row['events']:.0f} events of {row['active']:.0f} active voxels; {row['ghosts']:.1f} ghosts per "
        f"true one, tiling efficiency {row['efficiency']:.3f}"
        for kind, row in found.items()
    ]
    ghosts, share = EXPECTED["ghosts"], EXPECTED["efficiency"]
    large = f"of a full-size detector {ghosts[0]:.0f} to {ghosts[1]:.0f} ghosts and {share[0]} to {share[1]:.0f}"
    return [*lines, f"  expected: {large} are usual; a small TPC has 6 to 19 ghosts"]
