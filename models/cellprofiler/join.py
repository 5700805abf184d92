"""Two tables of the same cells, joined on where the cells are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ground.errors import BadInput
from models.cellprofiler.tables import KEYS, LOCATION, SITE, WELL, key_column, well_name

TOLERANCE = 10.0
"""Pixels that two programs' centres of one cell may be apart."""
_APART = 1e7  # pixels between sites, laid side by side for one search


@dataclass(frozen=True)
class Joined:
    """What was joined.

    Attributes:
        table: the first table's rows that found a partner, with the partner's columns (a name that both have: the
            first's).
        distance: (rows,) pixels between the two.
        left, right: rows of each table that found none.
    """

    table: pd.DataFrame
    distance: np.ndarray
    left: int
    right: int

    def line(self) -> str:
        far = f", at most {self.distance.max():.1f} pixels apart" if len(self.distance) else ""
        return f"{len(self.table):,} cells joined{far}; without a partner: {self.left:,} and {self.right:,}"


def join(
    cells: pd.DataFrame, other: pd.DataFrame, tolerance: float = TOLERANCE, plates: Mapping[str, str] | None = None
) -> Joined:
    """Each cell with the other table's nearest of the same plate, well and site, where each is the other's nearest.

    Args:
        cells: with Metadata_Plate, Metadata_Well, Metadata_Site and the two columns of locations.
        other: the same columns, or CellProfiler's names of them (Image_Metadata_Well_x, say).
        tolerance: pixels, that one included.
        plates: what the other table calls a plate, where its name there is another.

    Raises:
        BadInput: a column is missing, or nothing is near anything.
    """
    from scipy.spatial import cKDTree

    names = pd.concat([_sites(cells, "the cells", plates or {}), _sites(other, "the table to join", {})])
    sites = pd.factorize(names)[0]
    here = np.column_stack([_places(cells, "the cells"), sites[: len(cells)] * _APART])
    there = np.column_stack([_places(other, "the table to join"), sites[len(cells) :] * _APART])
    usable = np.flatnonzero(np.isfinite(here).all(1)), np.flatnonzero(np.isfinite(there).all(1))
    if not len(usable[0]) or not len(usable[1]):
        raise BadInput("no cell has a location to join on")
    distance, nearest = cKDTree(there[usable[1]]).query(here[usable[0]])
    back = cKDTree(here[usable[0]]).query(there[usable[1]])[1]
    mutual = (back[nearest] == np.arange(len(nearest))) & (distance <= tolerance)
    if not mutual.any():
        raise BadInput(
            f"no cell of one table is within {tolerance:g} pixels of one of the other's; nearest: {distance.min():.1f}"
            if distance.min() < _APART / 2
            else f"no plate, well and site in common: {_some(cells)} here, {_some(other)} there"
        )
    rows, partners = usable[0][mutual], usable[1][nearest[mutual]]
    added = [name for name in other.columns if name not in cells.columns]
    table = pd.concat(
        [cells.iloc[rows].reset_index(drop=True), other[added].iloc[partners].reset_index(drop=True)], axis=1
    )
    return Joined(table, distance[mutual], len(cells) - len(rows), len(other) - len(rows))


def _some(frame: pd.DataFrame) -> str:
    """The first row's plate, well and site."""
    return "/".join(str(frame[name].iloc[0]) for key in KEYS if (name := key_column(frame, key)))


def _sites(frame: pd.DataFrame, what: str, plates: Mapping[str, str]) -> pd.Series[str]:
    """One text a row: plate, well and site; wells by name, whatever their zeros."""
    parts = []
    for key in KEYS:
        name = key_column(frame, key)
        if name is None:
            raise BadInput(f"{what}: no column {key}")
        text = frame[name].astype(str)
        change = well_name if key == WELL else _number if key == SITE else lambda plate: plates.get(plate, plate)
        parts.append(text.map(change))
    return parts[0] + "\t" + parts[1] + "\t" + parts[2]


def _number(site: str) -> str:
    """3, 03 and 3.0 are one site."""
    try:
        return f"{float(site):g}"
    except ValueError:
        return site


def _places(frame: pd.DataFrame, what: str) -> np.ndarray:
    missing = [name for name in LOCATION if name not in frame]
    if missing:
        raise BadInput(f"{what}: no column {missing[0]}")
    return np.column_stack([pd.to_numeric(frame[name], errors="coerce") for name in LOCATION]).astype(np.float64)
