"""Cells of a project as a data set: training cells, and wells with the cells that they are judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import sha256
from models.cellprofiler.options import Objective, Options, resolve
from models.cellprofiler.project import PLATE, WELL, Project
from models.cellprofiler.sites import CLASS, KEY, SPLIT, TARGET, SiteCells
from models.cellprofiler.store import CropStore
from models.cellprofiler.stream import Cells
from models.cellprofiler.wells import Wells


@dataclass(frozen=True)
class CellData:
    """A lazy handle: crops are read as they are asked for.

    Attributes:
        store: where crops are; rows are of its table.
        classes: names of the labels, by class.
        targets: (cells of the store,) int64 class of each.
        train: training cells, rows of the store's table, ascending.
        eval: cells that wells are judged by, rows of the table, ascending.
        wells: every well that has such cells, controls among them, sorted by plate and well.
        well_of: (len(eval),) the row of `wells` of each.
        samples: rows of `wells` that are scored, ascending: treated ones where the objective is "map", else all.
        gallery: rows of `wells` that queries rank, ascending: `samples` as they were before any `subset`.
        objective, control, pairs: as the block has them; `control` is the label of control wells, "" for none.
        crop: how crops were cut, "integer" or "bilinear".
        source: for messages.
        report: what was found and left out, counted.
        model_classes: of the models that predicted these wells last; a project's own classes may be others.
    """

    store: Cells
    classes: tuple[str, ...]
    targets: np.ndarray
    train: np.ndarray
    eval: np.ndarray
    wells: Wells
    well_of: np.ndarray
    samples: np.ndarray
    gallery: np.ndarray
    objective: Objective
    control: str
    pairs: str
    crop: str
    source: str
    report: dict[str, int]
    model_classes: list[str] = field(default_factory=list, compare=False)

    def subset(self, samples: np.ndarray) -> CellData:
        """The same data with only some of the samples (ascending places in `samples`) to be scored; all other wells
        stay as what they are compared with."""
        return replace(self, samples=self.samples[np.asarray(samples)])

    @property
    def queries(self) -> np.ndarray:
        """(samples,) the place of each sample in the gallery."""
        return np.searchsorted(self.gallery, self.samples)


def own_block(path: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What `--data path` means: the block with the project of that folder.

    Raises:
        BadInput: there is no such folder.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    kept = {k: v for k, v in block.items() if k not in ("generator", "options")}
    return {**kept, "project": str(root.absolute())}


def fingerprint(block: Mapping[str, Any]) -> str:
    """A digest of the stored crops, the index and the configuration.

    Raises:
        BadInput: missing or unreadable data.
    """
    options = resolve(block)
    project, store = _opened(options)
    parts = [store.digest(), sha256(project.index_path), sha256(project.config_path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load(block: Mapping[str, Any], phase: str) -> CellData:
    """The cells that `sample` stored, split as the block says.

    Args:
        block: see `options.Options`.
        phase: "val" (wells of the validation values are judged) or "test" (those of the test values).

    Raises:
        BadInput: no store, a part of the split without cells, or fewer than two classes to learn.
    """
    options = resolve(block)
    project, store = _opened(options)
    table, source = store.table, f"{project.root} ({options.store})"
    values = _values(project, options)
    split = _split(project, table, options)
    train = np.flatnonzero(np.isin(split, values["training"]))
    part = "test" if phase == "test" else "validation"
    judged = np.flatnonzero(np.isin(split, values[part]))
    for name, rows in (("training", train), (part, judged)):
        if not len(rows):
            there = ", ".join(sorted(set(split.tolist()))[:8])
            raise BadInput(
                f"{source}: no cell is for {name} (split values {', '.join(values[name]) or 'none'}; there are {there})"
            )
    targets = table[TARGET].to_numpy(np.int64)
    learned = np.unique(targets[train])
    if len(learned) < 2:
        raise BadInput(
            f"{source}: the training cells are all of one class ({store.classes[learned[0]]}); two are needed"
        )
    data = _judged(store, table, targets, train, judged, options, _control(project, options), source)
    if not len(data.samples):
        raise BadInput(f"{source}: not one of {len(data.wells)} {part} wells has a label other than the controls'")
    told = {
        "cells": len(table),
        "without use": int(len(table) - len(train) - len(judged)),
        "classes without training cells": len(store.classes) - len(learned),
        f"classes without {part} wells": len(set(range(len(store.classes))) - set(data.wells.target.tolist())),
        f"{part} wells with training cells": _shared(table, train, data.wells),
    }
    return replace(data, report=told, crop=str(store.about.get("crop", "integer")))


def open_project(path: Path) -> CellData:
    """All wells of a project that a user hands over for prediction, cropped from its images; labels need not be known.

    Args:
        path: the project's folder.

    Raises:
        BadInput: no project, or no cell in it.
    """
    project = Project.open(path)
    cells = SiteCells(project)
    table = cells.table
    if not len(table):
        raise BadInput(f"{path}: its locations hold no cell")
    rows = np.arange(len(table))
    options = Options(project=str(path), objective="balanced_accuracy")
    targets = table[TARGET].to_numpy(np.int64)
    data = _judged(cells, table, targets, rows[:0], rows, options, project.control, str(path))
    every = np.arange(len(data.wells))
    return replace(data, samples=every, gallery=every)


def _opened(options: Options) -> tuple[Project, CropStore]:
    project = Project.open(options.root(), options.config, options.metadata)
    folder = project.outputs / options.store
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder; cells are stored by: python -m models.cellprofiler sample {project.root}"
        )
    store = CropStore.open(folder)
    if not len(store.table):
        raise BadInput(f"{folder}: holds no cell")
    if not store.about:  # DeepProfiler's, which does not say what its channels are called
        if len(store.channels) != len(project.channels):
            raise BadInput(
                f"{folder}: crops of {len(store.channels)} channels; {project.config_path} has "
                f"{', '.join(project.channels)}"
            )
        store.channels = project.channels
    return project, store


def _values(project: Project, options: Options) -> dict[str, tuple[str, ...]]:
    """The values of the split's column, by part."""
    partition = project.config.train.partition
    given = {
        "training": partition.training_values,
        "validation": partition.validation_values,
        "test": partition.test_values,
    }
    values = {name: tuple(options.split.get(name, found)) for name, found in given.items()}
    for name in ("validation", "test"):
        both = set(values["training"]) & set(values[name])
        if both:
            raise BadInput(f"data key split: {min(both)} is a value for training and for {name}")
    return values


def _split(project: Project, table: pd.DataFrame, options: Options) -> np.ndarray:
    """(cells,) the split's value: the store's own where it has one, as single cells may be set apart there, else that
    of the cell's site in the index. Where the block names an index, that one's."""
    own = project.config.train.partition.split_field
    name = str(options.split.get("field", own))
    column = SPLIT if name == own and SPLIT in table else name
    named = options.metadata != "index.csv" and name in project.index
    if column in table and not named:
        return table[column].astype(str).to_numpy()
    if name not in project.index:
        raise BadInput(f"{project.index_path}: has no column {name} to split by (data key split: field)")
    of_site = {site.key: project.index[name].iloc[site.row] for site in project.sites()}
    return np.array([of_site.get(key, "") for key in table[KEY]], dtype=object).astype(str)


def _control(project: Project, options: Options) -> str:
    """The label of controls.

    Raises:
        BadInput: the block names one that no site has.
    """
    if options.control is None:
        return project.control
    if options.control and options.control not in project.classes:
        raise BadInput(f"data key control is {options.control!r}, which no site of {project.index_path} is labelled")
    return options.control


def _judged(
    store: Cells,
    table: pd.DataFrame,
    targets: np.ndarray,
    train: np.ndarray,
    judged: np.ndarray,
    options: Options,
    control: str,
    source: str,
) -> CellData:
    """The data with the wells of the judged cells."""
    parts = [pd.factorize(table[name].to_numpy(object)[judged], sort=True) for name in (PLATE, WELL, CLASS)]
    (plate, plates), (well, names), (label, labels) = parts
    _, first, well_of, cells = np.unique(
        plate * len(names) + well, return_index=True, return_inverse=True, return_counts=True
    )
    mixed = np.flatnonzero(label != label[first][well_of])
    if len(mixed):
        row, other = int(mixed[0]), int(first[well_of[mixed[0]]])
        raise BadInput(
            f"{source}: well {plates[plate[row]]}/{names[well[row]]} is labelled {labels[label[other]]} and "
            f"{labels[label[row]]}; a well has one label"
        )
    text = np.array(labels, dtype=str)[label[first]]
    is_control = (text == control) & bool(control)
    wells = Wells(
        plate=np.array(plates, dtype=str)[plate[first]],
        well=np.array(names, dtype=str)[well[first]],
        label=text,
        target=targets[judged][first],
        control=is_control,
        cells=cells.astype(np.int64),
    )
    scored = wells.target >= 0
    if options.objective == "map":
        scored &= ~is_control
    samples = np.flatnonzero(scored)
    return CellData(
        store=store,
        classes=tuple(store.classes),
        targets=targets,
        train=train,
        eval=judged,
        wells=wells,
        well_of=well_of,
        samples=samples,
        gallery=samples,
        objective=options.objective,
        control=control,
        pairs=options.pairs,
        crop="integer",
        source=source,
        report={},
    )


def _shared(table: pd.DataFrame, train: np.ndarray, wells: Wells) -> int:
    """How many judged wells have training cells, too."""
    trained = set(zip(table[PLATE].to_numpy()[train], table[WELL].to_numpy()[train], strict=True))
    return sum((plate, well) in trained for plate, well in zip(wells.plate, wells.well, strict=True))
