"""Class probabilities of every well of a project, or of every cell, cropped straight from the images.

A row a well: Metadata_Plate, Metadata_Well, the label, cells, told (the most probable class), and p_CLASS of each class
that the model knows, the mean over the well's cells. With --cells a row a cell in place of that, with its location.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from models.cellprofiler import names, preflight
from models.cellprofiler import snapshot as snapshots
from models.cellprofiler.opening import add_project, minutes, opened, stderr
from models.cellprofiler.profile import only
from models.cellprofiler.project import LOCATION_COLUMNS, SITE_COLUMNS, Project
from models.cellprofiler.sites import CLASS, SiteCells
from models.cellprofiler.snapshot import Snapshot, add_model
from models.cellprofiler.tables import META, check_ending, write_table

_SILENT = 10  # seconds without a word


def predict(
    project: Project, model: Snapshot, cells: bool = False, say: Callable[[str], None] = stderr
) -> pd.DataFrame:
    """The table of wells, or of cells, as above.

    Raises:
        BadInput: what `preflight.check` finds, or a model that does not fit the crops.
    """
    model.fit(project)
    located = preflight.check(project, "profile", say).located
    there = SiteCells(project, [site for site, at in located if len(at)], model.crop)
    table = there.table
    found = np.empty((len(table), len(model.member.extractor.about["classes"])), np.float32)
    done, began, spoke = 0, time.monotonic(), time.monotonic()
    layers = [names.PROBABILITIES]
    for rows, seen in model.member.extractor.cells(there, np.arange(len(table)), layers, model.member.batch):
        found[rows] = seen[names.PROBABILITIES]
        done += len(rows)
        if time.monotonic() - spoke > _SILENT:
            spoke = time.monotonic()
            left = (spoke - began) / done * (len(table) - done)
            say(f"  {done} of {len(table)} cells, {minutes(left)} left")
    return _told(table, found, project, model, cells)


def _told(table: pd.DataFrame, found: np.ndarray, project: Project, model: Snapshot, cells: bool) -> pd.DataFrame:
    classes = [str(name) for name in model.member.extractor.about["classes"]]
    label = project.label_field if project.label_field.startswith(META) else META + project.label_field
    keys = [*SITE_COLUMNS, *LOCATION_COLUMNS] if cells else list(SITE_COLUMNS[:2])
    out = table[keys].copy()
    out[label] = table[CLASS]
    names_ = [f"p_{name}" for name in classes]
    if not cells:
        out["cells"] = 1
        groups = pd.concat([out, pd.DataFrame(found.astype(np.float64), columns=names_)], axis=1).groupby(
            keys, sort=True
        )
        out = groups.agg({label: "first", "cells": "sum"} | dict.fromkeys(names_, "mean")).reset_index()
        found = out[names_].to_numpy(np.float32)
        out = out.drop(columns=names_)
    out["told"] = np.array(classes, dtype=object)[found.argmax(1)]
    return pd.concat([out, pd.DataFrame(found, columns=names_, index=out.index)], axis=1)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    add_model(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help=".parquet, .csv or .csv.gz")
    parser.add_argument("--cells", action="store_true", help="a row a cell in place of one a well")
    parser.add_argument("--plates", nargs="+", default=[], metavar="PLATE", help="only these")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it is there")


def main(given: argparse.Namespace) -> None:
    check_ending(given.out)
    if given.out.exists() and not given.overwrite:
        raise BadInput(f"{given.out} exists; give --overwrite to replace it")
    project = only(opened(given), given.plates)
    table = predict(project, snapshots.opened(given), given.cells)
    write_table(given.out, table)
    print(f"{given.out}: {len(table)} {'cells' if given.cells else 'wells'}, {table['told'].nunique()} classes told")
