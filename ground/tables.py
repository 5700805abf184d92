"""CSV tables from outside, read so that what is wrong with one is said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ground.errors import BadInput


def read_table(path: Path, text: Sequence[str]) -> pd.DataFrame:
    """A table whose first column is an index.

    Args:
        path: the CSV file.
        text: columns that must be there and stay text (an id may be all digits).

    Raises:
        BadInput: no such file, or not such a table.
    """
    try:
        frame = pd.read_csv(
            path, index_col=0, dtype=dict.fromkeys(text, str), keep_default_na=True, float_precision="round_trip"
        )
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a table ({str(error).splitlines()[0]})") from None
    if not set(text) <= set(frame.columns):
        raise BadInput(f"{path}: has no {' and '.join(text)} columns")
    return frame
