"""What a trial's folder says: `config.json`, what it was told to be; `result.json`, how it ended; a card beside each
snapshot; `metrics.csv`, a row a validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from ground.documents import read_json
from ground.errors import BadInput
from ground.schemas import Digest, Name, Natural, Number, Schema, Table, checked
from ground.tables import read_table

FINISHED, STOPPED, DIVERGED, OOM, FAILED = "finished", "stopped", "diverged", "oom", "failed"
USABLE = (FINISHED, STOPPED)
RUNNING = "interrupted"
_Values = dict[str, Number | None]


class _Config(Schema):
    """config.json."""

    trial_id: Name
    number: Natural
    seed: Natural = 0
    settings: Table


class _Result(Schema):
    """result.json."""

    status: Literal["finished", "stopped", "diverged", "oom", "failed"]
    reason: str
    seconds: Annotated[Number, Field(ge=0)] | None
    best: _Values = {}
    metrics: dict[str, Number | str | bool | None] = {}


class _Card(Schema):
    """The JSON beside a snapshot."""

    metrics: _Values
    sha256: Digest | Literal[""] | None = None


def read_config(file: Path) -> dict[str, Any]:
    """What a trial was told to be.

    Raises:
        BadInput: the file is damaged, or is of another trial than its folder.
    """
    found = read_json(file)
    checked(_Config, found, file)
    if found["trial_id"] != file.parent.name:
        raise BadInput(f"{file}: trial_id is {found['trial_id']}, but the folder is {file.parent.name}")
    return found


def read_result(folder: Path) -> dict[str, Any] | None:
    """How a trial ended, or None while it has not.

    Raises:
        BadInput: the file is damaged.
    """
    return _read(folder / "result.json", _Result)


def read_card(file: Path) -> dict[str, Any] | None:
    """What is known of a snapshot, or None where there is none.

    Raises:
        BadInput: the file is damaged.
    """
    return _read(file, _Card)


def _read(file: Path, model: type[Schema]) -> dict[str, Any] | None:
    if not file.exists():
        return None
    found = read_json(file)
    checked(model, found, file)
    return found


def read_metrics(folder: Path, metric: str) -> pd.DataFrame:
    """A trial's validations, in order: `step`, the metric and what else was measured.

    Raises:
        BadInput: there are none, or no such table.
    """
    return read_table(folder / "metrics.csv", numbers=("step", metric), index=False)
