"""A prediction file beside the truth of its data, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground import hdf5
from ground.documents import parse_json
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.listing import resolve_files
from models.cellspike.packs import SPLITS, Pack
from models.cellspike.statistics import Residuals, residuals
from models.cellspike.worlds import open_pack

_IDS = ("file", "split", "row", "cell")
_LISTS = ("names", "cells", "files", "units")
_SHOWN = 3


@dataclass(frozen=True)
class Scored:
    """A prediction beside its truth.

    Attributes:
        source: the prediction file.
        attributes: what it says of itself: study, members, names, cells, units, target ("ustar" or "u").
        pack: the file of the first row.
        traces: (n, bins, probes · stimuli) of some rows, as packed.
        prediction, truth: (N, P) in the learned space.
        spread: (N, P) standard deviation over the members; None of a single model.
        physical: predicted, true (N, P) in physical units; None where that is not known.
        cells: (N,) position of each row's cell in `attributes["cells"]`, -1 where unknown.
        ids: columns that name each row.
        found: statistics of all rows.
        practice, witness: of the rows of practice and of witness cells, where there are both.
        unseen: the witness cells among them.
    """

    source: Path
    attributes: Mapping[str, Any]
    pack: Pack
    traces: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    spread: np.ndarray | None
    physical: tuple[np.ndarray, np.ndarray] | None
    cells: np.ndarray
    ids: pd.DataFrame
    found: Residuals
    practice: Residuals | None
    witness: Residuals | None
    unseen: tuple[str, ...]

    @property
    def symbol(self) -> str:
        """The space: u* or u."""
        return "u*" if self.attributes["target"] == "ustar" else "u"

    @property
    def baseline(self) -> float:
        """The loss of a predictor that tells the mean of these rows."""
        return float(self.truth.var(0, dtype=np.float64).mean())

    @property
    def told(self) -> str:
        """The cell's name, or how many there are."""
        cells = self.ids["cell"].unique()
        return str(cells[0]) if len(cells) == 1 else f"{len(cells)} cells"


def score(prediction: Path, data: str, rows: int = 0, witness: Sequence[str] = ()) -> Scored:
    """Put a prediction file and the truth of its data together.

    Args:
        rows: how many, drawn at random (0: all).
        witness: cells to be told apart (none named: those that the data's meta keeps out of training).

    Raises:
        BadInput: unreadable; rows that the data do not have; no truth; a witness that is no cell.
    """
    arrays, attributes = read(prediction)
    packs = [open_pack(path) for path in resolve_files(data)[0]]
    number = len(arrays["file"])
    at = np.arange(number)
    if 0 < rows < number:
        at = np.sort(np.random.default_rng(0).choice(number, rows, replace=False))
    ids = {name: arrays[name][at] for name in (*_IDS, "stim") if name in arrays}
    _same_files(prediction, attributes["files"], ids["file"], packs, data)
    target = attributes["target"]
    told, truth = arrays[target][at], _truth(packs, ids, "star" if target == "ustar" else "unit", data)
    names, known = attributes["names"], attributes["cells"]
    if truth is None:
        raise BadInput(f"{data}: holds no parameters to compare with")
    if told.shape[1] != truth.shape[1] or len(names) != truth.shape[1]:
        raise BadInput(f"{prediction}: {told.shape[1]} conductances, {data} has {truth.shape[1]}")
    strangers = [name for name in witness if name not in known]
    if strangers:
        raise BadInput(f"--witness {strangers[0]}: the cells are {', '.join(known)}")
    cells, each = ids["cell"], np.array([*known, "unknown"])
    unseen = tuple(witness) or tuple(dict.fromkeys(name for pack in packs for name in pack.witness))
    apart = np.isin(each[cells], unseen)
    split = apart.any() and not apart.all()
    parts = [residuals(names, told[m], truth[m], cells[m]) for m in (~apart, apart)] if split else [None, None]
    true = _truth(packs, ids, "physical", data) if "physical" in arrays else None
    table = pd.DataFrame({**ids, "file": np.array([p.path.name for p in packs])[ids["file"]], "cell": each[cells]})
    table["split"] = np.array(SPLITS)[ids["split"]]
    spread = arrays[f"{target}_sd"][at] if f"{target}_sd" in arrays else None
    first, place = packs[int(ids["file"][0])], int(ids["row"][0])
    traces = first.frames(SPLITS[int(ids["split"][0])], slice(place, place + _SHOWN))
    return Scored(
        source=prediction,
        attributes=attributes,
        pack=first,
        traces=traces.reshape(*traces.shape[:2], -1),
        prediction=told,
        truth=truth,
        spread=spread if spread is not None and spread.any() else None,
        physical=None if true is None else (arrays["physical"][at], true),
        cells=cells,
        ids=table,
        found=residuals(names, told, truth, cells),
        practice=parts[0],
        witness=parts[1],
        unseen=unseen if split else (),
    )


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and attributes of a prediction file.

    Raises:
        BadInput: unreadable, or none of this family's.
    """
    with reading_hdf5(path) as file:
        arrays = hdf5.arrays(file, path)
        attributes = {name: value.item() if hasattr(value, "item") else value for name, value in file.attrs.items()}
    target = attributes.get("target")
    for name, there in (("target", attributes), *((n, attributes) for n in _LISTS), *((n, arrays) for n in _IDS)):
        if name not in there:
            raise BadInput(f"{path}: has no {name}: it is no prediction of conductances")
    if target not in ("ustar", "u") or target not in arrays or arrays[target].ndim != 2:
        raise BadInput(f"{path}: has no table {target}")
    if not len(arrays[target]) or any(len(array) != len(arrays[target]) for array in arrays.values()):
        raise BadInput(f"{path}: has no rows, or arrays of different lengths")
    try:
        return arrays, {**attributes, **{name: parse_json(attributes[name], name) for name in _LISTS}}
    except (BadInput, TypeError):
        raise BadInput(f"{path}: its attributes {', '.join(_LISTS)} are no JSON lists") from None


def _same_files(path: Path, told: Sequence[str], numbers: np.ndarray, packs: Sequence[Pack], data: str) -> None:
    """Refuse data whose files are not those that were predicted."""
    for number in np.unique(numbers).tolist():
        if not 0 <= number < len(packs) or packs[number].path.name not in told:
            raise BadInput(f"{data}: {path} was predicted for other files ({', '.join(told[:3])})")


def _truth(packs: Sequence[Pack], ids: Mapping[str, np.ndarray], what: str, data: str) -> np.ndarray | None:
    """(N, P) `star`, `unit` or `physical` of each row; None where a file has none.

    Raises:
        BadInput: a row that a file does not have.
    """
    out: np.ndarray | None = None
    for number in np.unique(ids["file"]).tolist():
        for part in np.unique(ids["split"][ids["file"] == number]).tolist():
            pack, split = packs[number], SPLITS[part]
            here = np.flatnonzero((ids["file"] == number) & (ids["split"] == part))
            rows = ids["row"][here]
            if rows.max() >= pack.rows(split):
                raise BadInput(f"{data}: {pack.path.name} has {pack.rows(split)} {split} rows, not a row {rows.max()}")
            values = None if pack.world == "experiment" else getattr(pack, what)(split)
            if values is None:
                return None
            if out is None:
                out = np.empty((len(ids["row"]), values.shape[1]), values.dtype)
            out[here] = values[rows]
    return out
