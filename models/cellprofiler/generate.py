"""Generated Cell Painting plates, as a DeepProfiler project: images, locations, index.csv and config.

Compounds come in pairs of one mechanism (Metadata_moa), at three doses; each changes some traits of the cells
(`picture.TRAITS`). Wells, plates and the microscope change them too, all other things being equal, and on each plate a
compound lies in other wells. The last plate is for the test, the one before it for validation, the rest for training.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput, CommandFailed
from ground.files import atomic_path, write_json, write_text
from ground.locks import alone
from ground.machine import available_cpus
from ground.paths import made
from ground.processes import side_by_side
from ground.settings import assignments, mark, resolve
from models.cellprofiler import picture
from models.cellprofiler.draw import Options as Draw
from models.cellprofiler.folders import folder
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample
from models.cellprofiler.store import STORE

OPTIONS: dict[str, tuple[Any, Any, Any]] = {
    "plates": (6, 3, 99),
    "compounds": (20, 2, 300),
    "replicates": (4, 2, 96),  # wells of a compound on a plate
    "controls": (16, 1, 384),  # wells of DMSO on a plate
    "sites": (1, 1, 9),  # images a well
    "cells": (16, 1, 200),  # a site, about
    "side": (288, 128, 2160),  # pixels of an image
    "box": (48, 16, 128),  # pixels of a crop
    "strength": (1.0, 0.0, 10.0),  # of what compounds do
    "nuisance": (1.0, 0.0, 10.0),  # of what wells and plates do
    "seed": (0, 0, 2**31),
}
CONTROL = "DMSO"
DOSES = (1.0, 3.0, 10.0)
LABEL = "Compound"
_WORTH_PROCESSES = 60  # sites below which starting processes takes longer than they save


@dataclass(frozen=True)
class Well:
    """What was put into a well. `number` is its place on the plate, row by row."""

    plate: int
    number: int
    compound: int  # -1: nothing but the solvent
    dose: float

    @property
    def label(self) -> str:
        return f"compound-{self.compound + 1:02d}" if self.compound >= 0 else CONTROL

    @property
    def name(self) -> str:
        return f"{chr(ord('A') + self.number // 24)}{self.number % 24 + 1:02d}"

    @property
    def plate_name(self) -> str:
        return f"DEMO-{self.plate + 1:02d}"


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The complete options.

    Raises:
        BadInput: an unknown option or an impossible value.
    """
    found = resolve("cells", OPTIONS, options, "option")
    wells = found["compounds"] * found["replicates"] + found["controls"]
    if wells > 384:
        raise BadInput(f"cells options make {wells} wells a plate; a plate has 384")
    return found


def layout(options: Mapping[str, Any]) -> list[Well]:
    """The wells of all plates, in order; where a compound lies is drawn anew for each plate."""
    wells = []
    each = options["replicates"]
    for plate in range(options["plates"]):
        rng = np.random.default_rng([options["seed"], 1, plate])
        what = np.repeat(np.arange(-1, options["compounds"]), [options["controls"]] + [each] * options["compounds"])
        doses = [0.0] * options["controls"] + [DOSES[-1 - k % 3] for k in range(each)] * options["compounds"]
        order = rng.permutation(len(what))
        wells += [Well(plate, number, int(what[k]), doses[k]) for number, k in enumerate(order)]
    return wells


def effects(options: Mapping[str, Any]) -> np.ndarray:
    """(compounds, traits): what the highest dose of each compound does, in standard deviations of untreated cells."""
    rng = np.random.default_rng([options["seed"], 2])
    pairs = (options["compounds"] + 1) // 2
    count = len(picture.TRAITS)

    def some(rows: int, wanted: int) -> np.ndarray:
        chosen = rng.permuted(np.tile(np.arange(count) < wanted, (rows, 1)), axis=1)
        return chosen * rng.choice([-1, 1], (rows, count)) * rng.uniform(0.9, 1.8, (rows, count))

    mechanism = np.repeat(some(pairs, 4), 2, axis=0)[: options["compounds"]]
    return options["strength"] * (mechanism + 0.75 * some(options["compounds"], 3))


def _traits(rng: np.random.Generator, well: Well, count: int, options: Mapping[str, Any]) -> np.ndarray:
    """(count, traits) of the cells of a site."""
    width = len(picture.TRAITS)
    of_plate = np.random.default_rng([options["seed"], 3, well.plate])
    of_well = np.random.default_rng([options["seed"], 4, well.plate, well.number])
    nuisance = options["nuisance"] * (of_plate.normal(0, 0.5, width) + of_well.normal(0, 0.3, width))
    middle = nuisance
    if well.compound >= 0:
        middle = middle + effects(options)[well.compound] * well.dose / (well.dose + 1.0)
    return middle + rng.normal(0, 1, (count, width))


def _optics(well: Well, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    stains, strength = len(picture.CHANNELS), options["nuisance"]
    of_plate = np.random.default_rng([options["seed"], 5, well.plate])
    of_well = np.random.default_rng([options["seed"], 6, well.plate, well.number])
    return {
        "gain": np.exp(strength * (of_plate.normal(0, 0.2, stains) + of_well.normal(0, 0.1, stains))),
        "background": 0.12 * np.exp(strength * of_plate.normal(0, 0.4, stains)),
        "blur": 0.6 + 0.3 * strength * of_plate.uniform(0, 1, stains),
        "lamp": strength * of_plate.uniform(-0.15, 0.15, (stains, 2)),
    }


def _centres(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """(up to count, 2) x, y at least 30 pixels from each other; some cells touch the image's border."""
    found = np.empty((0, 2))
    for point in rng.uniform(6, side - 6, (40 * count, 2)):
        if len(found) == count:
            break
        if not len(found) or np.hypot(*(found - point).T).min() > 30:
            found = np.vstack([found, point])
    return np.round(found, 1)


def _site(root: Path, well: Well, site: int, options: Mapping[str, Any]) -> None:
    """Images and locations of one site; the locations come last and say that it is whole."""
    from PIL import Image

    rng = np.random.default_rng([options["seed"], 7, well.plate, well.number, site])
    centres = _centres(rng, int(rng.poisson(options["cells"])), options["side"])
    image = picture.scene(rng, _traits(rng, well, len(centres), options), centres, options["side"],
                          _optics(well, options))  # fmt: skip
    for channel, plane in zip(picture.CHANNELS, image, strict=True):
        with atomic_path(root / "inputs" / "images" / _image(well, site, channel)) as temporary:
            Image.fromarray(plane).save(temporary, format="PNG", compress_level=1)
    rows = [("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"), *centres.tolist()]
    write_text(_locations(root, well, site), _csv(rows))


def _image(well: Well, site: int, channel: str) -> str:
    return f"{well.plate_name}/{well.name}-{site + 1}-{channel}.png"


def _locations(root: Path, well: Well, site: int) -> Path:
    return root / "inputs" / "locations" / well.plate_name / f"{well.name}-{site + 1}-Nuclei.csv"


def _csv(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _index(options: Mapping[str, Any]) -> str:
    head = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", *picture.CHANNELS, LABEL, "Metadata_moa",
            "Metadata_dose", "Split")  # fmt: skip
    rows: list[tuple[Any, ...]] = [head]
    for well in layout(options):
        last = options["plates"] - 1
        split = {last: "Test", last - 1: "Validation"}.get(well.plate, "Training")
        moa = f"mechanism-{well.compound // 2 + 1:02d}" if well.compound >= 0 else ""
        for site in range(options["sites"]):
            images = (_image(well, site, channel) for channel in picture.CHANNELS)
            rows.append((well.plate_name, well.name, site + 1, *images, well.label, moa, f"{well.dose:g}", split))
    return _csv(rows)


def _config(options: Mapping[str, Any]) -> dict[str, Any]:
    side = options["side"]
    return {
        "dataset": {
            "metadata": {"label_field": LABEL, "control_value": CONTROL},
            "images": {"channels": list(picture.CHANNELS), "file_format": "png", "bits": 8, "width": side,
                       "height": side},
            "locations": {"mode": "single_cells", "box_size": options["box"], "mask_objects": False},
        },
        "prepare": {
            "illumination_correction": {"down_scale_factor": 4, "median_filter_size": 24},
            "compression": {"implement": False, "scaling_factor": 1.0},
        },
        "train": {
            "partition": {"targets": [LABEL], "split_field": "Split", "training_values": ["Training"],
                          "validation_values": ["Validation"]},
        },
    }  # fmt: skip


def place(options: Mapping[str, Any]) -> Path:
    """The project of these options, there or not."""
    return folder() / f"plates_{mark(checked(options))}"


def demo(options: Mapping[str, Any], processes: int | None = None) -> Path:
    """A generated project with all its cells in a store; what it lacks is made, so that a killed run goes on.

    Args:
        options: over OPTIONS.
        processes: how many to use; by default one a core.

    Raises:
        BadInput: wrong options.
        CommandFailed: a process failed.
    """
    root = place(options)
    if not (root / "outputs" / "single-cells" / STORE).exists():
        write(root, options, processes)
        sample(Project.open(root), options=Draw(everything=True), processes=processes, say=_say)
    return root


def write(root: Path, options: Mapping[str, Any], processes: int | None = None) -> None:
    """Write what a project lacks, site by site, so that a killed run goes on.

    Args:
        root: the project's folder.
        options: over OPTIONS.
        processes: how many to use; by default one a core.

    Raises:
        BadInput: wrong options, or another project is there.
        CommandFailed: a process that generates failed (its own message is on stderr).
    """
    complete = checked(options)
    written = root / "options.json"
    if (root / "inputs").exists() and (not written.exists() or json.loads(written.read_text()) != complete):
        raise BadInput(f"{root}: holds another project")
    with alone(root, _say) as lock:
        write_json(made(root) / "options.json", complete)
        for left in root.rglob(".tmp-*"):
            left.unlink()
        write_json(root / "inputs" / "config" / "config.json", _config(complete))
        write_text(root / "inputs" / "metadata" / "index.csv", _index(complete))
        missing = _missing(root, complete)
        if missing:
            _say(f"generating {len(missing)} sites of {complete['plates']} plates in {root}")
        count = min(processes or available_cpus(), len(missing))
        if count <= 1 or len(missing) < _WORTH_PROCESSES:
            _generate(root, complete, 0, 1)
            return
        program = f"from models.cellprofiler.generate import worker; worker({str(root)!r}, %d, {count})"
        if not side_by_side(program, count, [lock]):
            raise CommandFailed(f"generating plates in {root} failed; the same command goes on")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def worker(root: str, first: int, step: int) -> None:
    """What each process of `write` runs."""
    try:
        _generate(Path(root), json.loads((Path(root) / "options.json").read_text()), first, step)
    except KeyboardInterrupt:
        sys.exit(130)


def _missing(root: Path, options: Mapping[str, Any]) -> list[tuple[Well, int]]:
    every = [(well, site) for well in layout(options) for site in range(options["sites"])]
    return [(well, site) for well, site in every if not _locations(root, well, site).exists()]


def _generate(root: Path, options: Mapping[str, Any], first: int, step: int) -> None:
    """Every `step`-th site that is missing, from `first`; a line on stderr for each plate."""
    parent, plates = os.getppid(), set()
    every = [(well, site) for well in layout(options) for site in range(options["sites"])]
    for well, site in every[first::step]:
        if _locations(root, well, site).exists():
            continue
        if step > 1 and os.getppid() != parent:
            return  # who wanted them is gone
        if well.plate_name not in plates and not first:
            _say(f"  plate {well.plate_name}")
        plates.add(well.plate_name)
        _site(root, well, site, options)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, nargs="?", help="a new folder (default: one below CELLS_DATA, with a store)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=NUMBER", help=f"of {', '.join(OPTIONS)}; may be repeated"
    )
    parser.add_argument("--processes", type=int, help="(default: the cores)")


def main(given: argparse.Namespace) -> None:
    options = assignments(given.set)
    if given.root is None:
        print(demo(options, given.processes))
        return
    write(given.root, options, given.processes)
    print(given.root)
