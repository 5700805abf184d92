"""Structured files from outside against declared models, each declared beside what it describes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ground.errors import BadInput
from ground.limits import LARGEST_WHOLE, shown
from ground.names import plain

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Natural = Annotated[int, Field(ge=0, le=LARGEST_WHOLE, strict=True)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _plain(name: str) -> str:
    return plain(name, "anything")


def _json(value: Any) -> Any:
    """Values as JSON has them: what a YAML file says more (dates, binary, sets) cannot be kept."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            odd = next((key for key in item if not isinstance(key, str)), None)
            if odd is not None:
                raise ValueError(f"has the key {shown(odd, 40)}; keys are text")
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"holds {item}, which is no number")
        elif not (item is None or isinstance(item, (str, bool, int, float))):
            raise ValueError(f"holds {shown(item, 40)}: text, numbers, true, false, null, lists and mappings are taken")
    return value


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shares(value: Any) -> Any:
    """Of training, validation and test."""
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= 1 for v in value):
        raise ValueError(f"is {shown(value)}; it takes shares of training, validation and test: [0.7, 0.15, 0.15]")
    if abs(sum(value) - 1) > 1e-6 or value[0] <= 0 or value[1] <= 0:
        raise ValueError(f"is {shown(value)}; shares sum to 1, and training and validation are above 0")
    return tuple(float(v) for v in value)


Several = BeforeValidator(_several)
"""Before a tuple: a list is one, and anything else a tuple of itself."""
Whole = Annotated[int, BeforeValidator(_whole), Field(le=LARGEST_WHOLE)]
"""2.0 is one, too."""
Shares = Annotated[tuple[float, ...], BeforeValidator(_shares)]
BLOCK = ConfigDict(strict=True, allow_inf_nan=False)
"""Of a `pydantic.dataclasses.dataclass` for `block`."""

Json = Annotated[Any, AfterValidator(_json)]
Table = Annotated[dict[str, Any], AfterValidator(_json)]
Name = Annotated[str, AfterValidator(_plain)]
"""As `ground.names.plain`."""


class Schema(BaseModel):
    """What a file says. Keys that are not declared are left alone: later versions add some."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)
_LIMITS = {
    "literal_error": "takes {expected}",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}
_WORDS = {
    "missing": "is missing",
    "bool_type": "takes true or false",
    "int_type": "takes a whole number",
    "int_from_float": "takes a whole number",
    "float_type": "takes a number",
    "finite_number": "takes a finite number",
    "string_type": "takes text",
    "dict_type": "takes a mapping",
    "model_type": "takes a mapping",
    "list_type": "takes a list",
    "string_pattern_mismatch": "is not of its form",
    "string_too_short": "is empty",
    "too_short": "is too short",
}


def checked(model: type[Model], content: Any, where: str | Path, under: Sequence[str] = ()) -> Model:
    """The content of a file as a model of it.

    Args:
        where: the file, for the message.
        under: keys that lead to the content.

    Raises:
        BadInput: the first thing wrong, with its key and value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda e: e["type"] == "missing")
        raise BadInput(f"{where}: {told(first, under)}") from None


def nearest(word: str, known: Sequence[str]) -> str:
    """What to add to a line about an unknown key."""
    near = difflib.get_close_matches(word[:80], known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


Declared = TypeVar("Declared")


def block(kind: type[Declared], content: Any, under: Sequence[str] = ()) -> Declared:
    """A `data` block, or one within it, as the pydantic dataclass that declares its keys.

    Args:
        under: keys that lead to it.

    Raises:
        BadInput: no mapping, a key that is not declared (with the nearest that is), or the first value that is not as
            declared.
    """
    if not isinstance(content, Mapping):
        raise BadInput(f"data key {'.'.join(under)} is {shown(content)}; it takes a mapping")
    fields: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for name in content:
        if name not in fields:
            keys = ".".join((*under, shown(name).strip("'")))
            raise BadInput(f"unknown data key {keys}{nearest(str(name), sorted(fields))}")
    try:
        return kind(**content)
    except ValidationError as error:
        raise BadInput(f"data key {told(error.errors(include_url=False)[0], under)}") from None


def told(error: Any, under: Sequence[str] = ()) -> str:
    """One of pydantic's errors in words: key path, what is wrong, the value."""
    # union members and the like are named in capitals or brackets there: no keys of ours
    loc = [key for key in error["loc"] if key != "[key]"]
    keys = ".".join(shown(k, 40).strip("'") if isinstance(k, str) else str(k) for k in (*under, *loc))
    cause = (error.get("ctx") or {}).get("error")
    kind = error["type"]
    if kind == "missing":
        return f"has no {keys}"
    if kind == "literal_error":
        error["ctx"]["expected"] = error["ctx"]["expected"].removeprefix("'', ").removeprefix("'' or ")
    if kind in _LIMITS:
        return f"{keys} is {shown(error['input'])}; it {_LIMITS[kind].format(**error['ctx'])}"
    what = str(cause) if cause is not None else _WORDS.get(kind) or _lowered(error["msg"])
    if not keys:
        return what if cause is not None else f"{what}, not {shown(error['input'])}"
    return f"{keys}: {what}" if cause is not None else f"{keys} is {shown(error['input'])}; it {what}"


def _lowered(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
