"""Predictions for a user: u*, u and conductances with the spread of the ensemble's members, as HDF5 or CSV."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import atomic_path
from models.base import Family, Prediction
from models.cellspike.data import CellData, NewTraces
from models.cellspike.metrics import TARGET
from models.cellspike.predictor import SQUARE
from models.cellspike.units import Units

ARRAYS = ("ustar", "u", "physical")


def opened(data: CellData | NewTraces) -> CellData:
    return data.data if isinstance(data, NewTraces) else data


def spread(prediction: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, P) standard deviation of the members, weighted as they are combined; 0 of a single model."""
    mean = prediction[TARGET].astype(np.float64)
    return np.sqrt(np.maximum(prediction[SQUARE] - mean**2, 0)).astype(np.float32)


def tables(data: CellData, prediction: Mapping[str, np.ndarray]) -> Prediction:
    """All that is written of a prediction.

    Returns:
        Of `ustar` (where the data has a u*), `u` and `physical` (where their meaning is known), float (N, P) each: the
        value, `_sd` of those two, `physical_low` and `physical_high`, the values a deviation below and above; and the
        ids of the samples.
    """
    predicted, deviation = prediction[TARGET].astype(np.float64), spread(prediction).astype(np.float64)
    starred = data.reading.starred
    out: Prediction = {}
    if starred:
        out |= {"ustar": predicted, "ustar_sd": deviation}
    else:
        out |= {"u": predicted, "u_sd": deviation}
    each = _units(data, prediction["file"])
    if starred and each and all(whole for _, _, whole in each):
        out["u"], out["u_sd"] = np.empty_like(predicted), np.empty_like(predicted)
        for rows, units, _ in each:
            out["u"][rows], out["u_sd"][rows] = units.unit(predicted[rows]), deviation[rows] * np.abs(units.scale)
    if each:
        for name, sign in (("physical", 0), ("physical_low", -1), ("physical_high", 1)):
            out[name] = np.empty_like(predicted)
            for rows, units, _ in each:
                target = predicted[rows] + sign * deviation[rows]
                out[name][rows] = units.physical(units.unit(target) if starred else target)
    single = {name: array.astype(np.float32) if name != "physical" else array for name, array in out.items()}
    return {**single, **{k: v for k, v in prediction.items() if k not in (TARGET, SQUARE)}}


def _units(data: CellData, file: np.ndarray) -> list[tuple[np.ndarray, Units, bool]]:
    """(rows, what unit parameters mean there, whether that is the cell's own u) of each file; [] where one says
    nothing and the models know no meaning that holds for all."""
    found = []
    for number, pack in {s.file: s.pack for s in data.eval.segments}.items():
        rows = np.flatnonzero(file == number)
        units = pack.units if pack.units is not None else data.units
        if units is None:
            return []
        found.append((rows, units, pack.units is not None and pack.whole_units))
    return found


def write(family: Family, predicted: Iterable[tuple[Any, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
    """Write predictions; a CSV where `out` ends so, else HDF5.

    Raises:
        BadInput: there is nothing to write.
    """
    coming = iter(predicted)
    first = next(coming, None)
    if first is None:
        raise BadInput("no predictions to write")
    data = opened(first[0])
    all_parts = itertools.chain([first], coming)
    if out.suffix.lower() == ".csv":
        return _csv(all_parts, out)
    told = {
        **about,
        "names": json.dumps(list(data.names)),
        "cells": json.dumps(list(data.cells)),
        "files": json.dumps([str(p) for p in dict.fromkeys(s.pack.path.name for s in data.eval.segments)]),
        "units": json.dumps(list(data.units.units) if data.units is not None else []),
        "target": "ustar" if data.reading.starred else "u",
    }
    parts = ((part, tables(opened(part), prediction)) for part, prediction in all_parts)
    return Family.export(family, parts, out, told)


def _csv(parts: Iterable[tuple[Any, Prediction]], out: Path) -> str:
    rows = 0
    with atomic_path(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for frame in _frames(parts):
            frame.to_csv(file, index=False, header=not rows)
            rows += len(frame)
            columns = len(frame.columns)
    return f"{out}: {rows} rows, {columns} columns"


def _frames(parts: Iterable[tuple[Any, Prediction]]) -> Iterator[pd.DataFrame]:
    for part, prediction in parts:
        data = opened(part)
        found = tables(data, prediction)
        files = {s.file: s.pack.path.name for s in data.eval.segments}
        columns: dict[str, Any] = {
            name: array for name, array in found.items() if array.ndim == 1 and name not in ("file", "cell")
        }
        cells = np.array([*data.cells, ""], object)  # the last where the cell is not known
        ids = {"file": [files[int(i)] for i in found["file"]], "cell": cells[found["cell"]]}
        for name, array in found.items():
            if array.ndim == 2:
                columns |= {f"{parameter} {name}": array[:, i] for i, parameter in enumerate(data.names)}
        yield pd.DataFrame({**ids, **columns})
