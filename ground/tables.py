"""CSV tables from outside, read so that what is wrong with one is said in one line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground.documents import regular
from ground.errors import BadInput
from ground.limits import shown

MOST_BYTES = 64 * 2**20
_MOST_CELLS, _MOST_COLUMNS, _LONGEST_LINE = 10_000_000, 2_000, 2**20


def read_table(
    path: Path, text: Sequence[str] = (), numbers: Sequence[str] = (), index: bool = True, separator: str = ","
) -> pd.DataFrame:
    """A table with a line of names, checked before and after it is read.

    Args:
        path: the CSV file.
        text: columns that must be there, filled, and stay text (an id may be all digits).
        numbers: columns that must be there and hold finite numbers where they hold anything.
        index: whether its first column is an index.
        separator: of the columns; a space stands for any number of spaces.

    Raises:
        BadInput: no such file, or not such a table.
    """
    measure(path, separator)
    spaces: dict[str, Any] = {"sep": r"\s+"} if separator == " " else {"sep": separator}
    try:
        frame = pd.read_csv(
            path,
            index_col=0 if index else None,
            dtype=dict.fromkeys(text, str),
            float_precision="round_trip",
            **spaces,
        )
    except (ValueError, UnicodeDecodeError, OverflowError, RecursionError, IndexError, TypeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise BadInput(f"{path}: not a table ({line})") from None
    wanted = [*text, *numbers]
    if not set(wanted) <= set(frame.columns):
        raise BadInput(f"{path}: has no {' and '.join(wanted)} columns")
    for name in text:
        if frame[name].isna().any() and len(frame.columns):
            frame[name] = frame[name].fillna("")
    for name in numbers:
        frame[name] = _numbers(frame[name], path, name)
    return frame


def measure(path: Path, separator: str = ",") -> None:
    """Refuse what is no text table, or takes more memory than it says.

    Raises:
        BadInput: that.
    """
    try:
        size = regular(path).st_size
        if size > MOST_BYTES:
            raise BadInput(f"{path}: {size} bytes; {MOST_BYTES} are the most")
        with open(path, "rb") as file:
            content = file.read(size)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if b"\0" in content:
        raise BadInput(f"{path}: not a table (it holds NUL bytes)")
    head = content.split(b"\n", 1)[0]
    if len(head) > _LONGEST_LINE:
        raise BadInput(f"{path}: not a table (its first line has {len(head)} bytes)")
    try:
        names = head.decode("utf-8").rstrip("\r")
        columns = names.split() if separator == " " else next(csv.reader([names]), [])
    except (UnicodeDecodeError, csv.Error):
        raise BadInput(f"{path}: not a table (its first line is no UTF-8 text)") from None
    rows, named = content.count(b"\n") + content.count(b"\r"), [name for name in columns if name]
    cells = content.count(separator.encode()) + rows
    if len(columns) > _MOST_COLUMNS or cells > _MOST_CELLS or rows * len(columns) > 2 * _MOST_CELLS:
        raise BadInput(f"{path}: {len(columns)} columns and {rows} lines are more than any table of results has")
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise BadInput(f"{path}: has two columns {shown(twice)}")


def _numbers(column: pd.Series[Any], path: Path, name: str) -> pd.Series[Any]:
    found = pd.to_numeric(column, errors="coerce").astype(float)
    bad = (found.isna() & column.notna()) | np.isinf(found)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(f"{path}: {name} of row {row} is {shown(column.iloc[row])}; it takes a finite number")
    return found
