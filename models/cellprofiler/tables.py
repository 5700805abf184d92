"""Tables of cells or wells in the field's form: Metadata_* columns, locations, and numbers that are features."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import atomic_path

META = "Metadata_"
PLATE, WELL, SITE = KEYS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
LOCATION = ("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y")
ENDINGS = (".parquet", ".csv", ".csv.gz")
_NO_FEATURE = ("Metadata_*", "Image_*", "Nuclei_Location_Center_?", "*ImageNumber", "*ObjectNumber", "*Object_Number")
_TWIN = ("", "_x", "_y")  # what a merge of two tables adds to a name
_EMPTY = ["", "nan", "NaN"]
_MISSING = [*_EMPTY, "NA", "N/A", "NULL", "None", "null"]
_MOST_MISSING = 0.05


def read_table(path: Path) -> pd.DataFrame:
    """A table in CSV (plain or gzip) or Parquet. Metadata become text; an empty cell of them stays missing.

    Raises:
        BadInput: no such file, no table, another kind of file, or one without rows.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if not path.name.endswith(ENDINGS):
        raise BadInput(f"{path}: a table ends in {', '.join(ENDINGS)}")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            names = pd.read_csv(path, nrows=0).columns
            text = dict.fromkeys((name for name in names if is_metadata(name)), str)
            # NA is a name that a compound or a gene may have
            missing = {name: _EMPTY if name in text else _MISSING for name in names}
            frame = pd.read_csv(path, dtype=text, low_memory=False, keep_default_na=False, na_values=missing)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a table ({' '.join(str(error).split())[:100]})") from None
    frame.columns = frame.columns.astype(str)
    if not len(frame):
        raise BadInput(f"{path}: has no rows")
    text = {name: _text(frame[name]) for name in frame.columns if is_metadata(name)}
    return frame.assign(**text).reset_index(drop=True).copy()


def _text(column: pd.Series[Any]) -> pd.Series[Any]:
    known = column.notna() & ~column.isin(_EMPTY)
    return column.astype(object).where(~known, column.astype(str)).where(known, None)


def is_metadata(name: str) -> bool:
    return name.startswith((META, f"Image_{META}"))


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """By the ending of its name; whole or absent.

    Raises:
        BadInput: another ending.
    """
    check_ending(path)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            compression = "gzip" if path.suffix == ".gz" else None
            frame.to_csv(temporary, index=False, float_format="%.9g", compression=compression)


def check_ending(path: Path) -> None:
    """Raises BadInput where a table cannot be written by that name."""
    if not path.name.endswith(ENDINGS):
        raise BadInput(f"{path}: a table ends in {', '.join(ENDINGS)}")


def features_of(frame: pd.DataFrame, wanted: Sequence[str] = ()) -> list[str]:
    """Its features: numbers that are neither metadata, places, nor counters of objects and images.

    Args:
        wanted: patterns such as deep_*; only features that fit one.

    Raises:
        BadInput: there is none.
    """
    numbers = frame.select_dtypes("number").columns
    found = [name for name in numbers if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _NO_FEATURE)]
    if wanted:
        found = [name for name in found if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]
    if not found:
        raise BadInput(f"no features among {len(frame.columns)} columns" + (f" by {', '.join(wanted)}" * bool(wanted)))
    return found


def column(frame: pd.DataFrame, name: str, where: object = "the table") -> str:
    """The column that a user means, with or without Metadata_ before it.

    Raises:
        BadInput: there is no such column.
    """
    for found in (name, META + name):
        if found in frame:
            return found
    known = ", ".join(c for c in frame.columns if is_metadata(c))
    raise BadInput(f"{where}: has no column {name}; its metadata are {known or 'none'}")


def key_column(frame: pd.DataFrame, key: str) -> str | None:
    """The column that says the plate, well or site, in any of the names that CellProfiler's tables have for it."""
    names = [f"{prefix}{key}{twin}" for prefix in ("", "Image_") for twin in _TWIN]
    return next((name for name in names if name in frame), None)


def clean(frame: pd.DataFrame, features: Sequence[str]) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table without what is missing: features that lack more than a twentieth of their values, then such rows.

    Returns:
        Rows that have every feature left; those features; a line for each kind of thing left out.

    Raises:
        BadInput: nothing is left.
    """
    values = frame[list(features)].to_numpy(np.float64)
    there = np.isfinite(values)
    empty = ~there.any(1)
    kept = (~there[~empty]).mean(0) <= _MOST_MISSING if (~empty).any() else np.zeros(len(features), bool)
    whole = there[:, kept].all(1) & ~empty
    if not kept.any() or not whole.any():
        raise BadInput("no row has finite features")
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (int(empty.sum()), "rows without any finite feature left out"),
            (int((~kept).sum()), f"of {len(features):,} features left out: over {_MOST_MISSING:.0%} not finite"),
            (int((~whole & ~empty).sum()), "rows left out: a feature is not finite"),
        )
        if count
    ]
    names = [name for name, good in zip(features, kept, strict=True) if good]
    return frame[whole].reset_index(drop=True), names, notes


def well_name(name: str) -> str:
    """A1, a01 and A001 are one well."""
    head = name.strip().rstrip("0123456789")
    digits = name.strip()[len(head) :]
    return head.upper() + (digits.lstrip("0") or "0" if digits else "")
