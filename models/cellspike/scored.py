"""A prediction file beside the truth of its data, row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.cellspike.data import CellData, NewTraces
from models.cellspike.statistics import Residuals, residuals

IDS = ("file", "split", "row", "stim")
"""What a row is found by; `stim` where each stimulus is a sample."""
ABOUT = "data"
"""The attribute of a prediction file that says how its traces were read (JSON of `CellData.about`)."""


@dataclass(frozen=True)
class Scored:
    """A prediction beside its truth.

    Attributes:
        source: the prediction file.
        attributes: what it says of itself.
        data: the rows.
        prediction, truth: (N, P) in the learned space.
        physical: predicted, true (N, P) in physical units; None where that is not known.
        spread: (N, P) standard deviation over the members, where the file has it.
        cells: (N,) position of each row's cell in `data.cells`, -1 where unknown.
        ids: columns that name each row.
        found: statistics of all rows.
        practice, witness: of the rows of practice and of witness cells, where there are both.
        unseen: the witness cells among them.
    """

    source: Path
    attributes: Mapping[str, Any]
    data: CellData
    prediction: np.ndarray
    truth: np.ndarray
    physical: tuple[np.ndarray, np.ndarray] | None
    spread: np.ndarray | None
    cells: np.ndarray
    ids: pd.DataFrame
    found: Residuals
    practice: Residuals | None
    witness: Residuals | None
    unseen: tuple[str, ...]

    @property
    def baseline(self) -> float:
        """The loss of a predictor that tells the mean of these rows."""
        return float(self.truth.var(0, dtype=np.float64).mean())

    @property
    def cells_told(self) -> str:
        """How many cells, in words."""
        cells = self.ids["cell"].unique()
        return str(cells[0]) if len(cells) == 1 else f"{len(cells)} cells"


def score(prediction: Path, data: str, rows: int = 0, witness: Sequence[str] = ()) -> Scored:
    """Put a prediction file and its truth together, row by row.

    Args:
        rows: how many, drawn at random (0: all).
        witness: cells to be told apart.

    Raises:
        BadInput: unreadable; rows that are not in the file; no truth; a witness that is no cell.
    """
    arrays, attributes, about = read(prediction)
    opened = NewTraces(data).opened(about)
    truth = opened.eval.targets()
    if truth is None:
        raise BadInput(f"{data}: holds no parameters to compare with (recordings have none)")
    ids = opened.eval.ids()
    at = _places(prediction, arrays, ids)
    chosen = np.arange(len(truth))
    if 0 < rows < len(truth):
        chosen = np.sort(np.random.default_rng(0).choice(len(truth), rows, replace=False))
    at, truth, cells = at[chosen], truth[chosen], ids["cell"][chosen]
    told = arrays["ustar"][at]
    if told.shape[1] != truth.shape[1]:
        raise BadInput(f"{prediction}: {told.shape[1]} conductances, {data} has {truth.shape[1]}")
    names = np.array([*opened.cells, "unknown"])
    table = pd.DataFrame({name: array[chosen] for name, array in ids.items()})
    table["cell"] = names[cells]
    unseen = tuple(witness) or tuple(dict.fromkeys(n for s in opened.eval.segments for n in s.pack.witness))
    unknown = [name for name in witness if name not in opened.cells]
    if unknown:
        raise BadInput(f"--witness {unknown[0]}: the data's cells are {', '.join(opened.cells)}")
    apart = np.isin(names[cells], unseen)
    both = [residuals(opened.names, told[m], truth[m], cells[m]) if m.any() else None for m in (~apart, apart)]
    practice, beyond = both if None not in both else (None, None)
    physical = None
    true = opened.eval.of_rows("physical")
    if "physical" in arrays and true is not None:
        physical = (arrays["physical"][at], true[chosen])
    spread = arrays["spread"][at] if "spread" in arrays else None
    return Scored(
        prediction, attributes, opened, told, truth, physical, spread, cells, table,
        residuals(opened.names, told, truth, cells), practice, beyond, unseen if beyond is not None else (),
    )  # fmt: skip


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Arrays, attributes and how the traces were read, of a prediction file.

    Raises:
        BadInput: unreadable, or none of this family's.
    """
    with reading_hdf5(path) as file:
        arrays = {name: np.asarray(file[name]) for name in file}
        attributes = {name: value.item() if hasattr(value, "item") else value for name, value in file.attrs.items()}
    lacking = [name for name in ("ustar", *IDS[:3]) if name not in arrays]
    if lacking or ABOUT not in attributes:
        raise BadInput(f"{path}: has no {(lacking or [ABOUT])[0]}: it is no prediction of conductances")
    try:
        about = json.loads(attributes.pop(ABOUT))
    except (json.JSONDecodeError, TypeError):
        raise BadInput(f"{path}: its attribute {ABOUT} is no JSON") from None
    return arrays, attributes, about


def _places(path: Path, arrays: Mapping[str, np.ndarray], ids: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where each row of the data lies in the file.

    Raises:
        BadInput: one does not.
    """
    names = [name for name in IDS if name in ids and name in arrays]
    place = pd.MultiIndex.from_arrays([arrays[name] for name in names])
    if not place.is_unique:
        raise BadInput(f"{path}: holds a row twice")
    found = place.get_indexer(pd.MultiIndex.from_arrays([ids[name] for name in names]))
    if (found < 0).any():
        row = int(np.flatnonzero(found < 0)[0])
        told = ", ".join(f"{name} {ids[name][row]}" for name in names)
        raise BadInput(f"{path}: has no prediction for {told} of the data")
    return found
