"""A model family's settings as one table, with one check for all of them."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ground.documents import parse_yaml
from ground.errors import BadInput
from ground.limits import shown

Table = Mapping[str, tuple[Any, Any, Any]]
"""name -> (default, smallest, largest), None for no bound; a tuple of words in place of the smallest lists the choices.
The default's type is the setting's: bool, int, float or str."""
_LONGEST = 1000
_LARGEST = 2**31 - 1  # of a whole number that has no bound of its own


def resolve(family: str, table: Table, settings: Mapping[str, Any], word: str = "setting") -> dict[str, Any]:
    """The complete settings: defaults overlaid by `settings`, checked.

    Args:
        family: whose they are, for messages.
        word: what one of them is called there.

    Raises:
        BadInput: an unknown name or choice (with the nearest known one) or a value of the wrong kind or range.
    """
    config = {name: default for name, (default, _, _) in table.items()}
    for name, value in settings.items():
        if name not in table:
            raise BadInput(f"unknown {family} {word} {shown(name).strip(chr(39))}{_near(str(name)[:80], table)}")
        config[name] = _checked(name, value, *table[name])
    return config


def mark(options: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that change with any option: a part of the name of what is made from them."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _checked(name: str, value: Any, default: Any, low: Any, high: Any) -> Any:
    if isinstance(low, tuple):
        word = str(value).lower() if isinstance(value, (str, bool, int, float)) else ""
        if word not in low:
            raise BadInput(f"{name} is {shown(value)}" + (_near(word, low) or f"; it takes one of {', '.join(low)}"))
        return word
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadInput(f"{name} is {shown(value)}; it takes true or false")
        return value
    if isinstance(default, str):
        # YAML reads a list of numbers where people leave out the quotation marks
        text = ",".join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)
        if value is None or isinstance(value, Mapping) or len(text) > _LONGEST or not text.isprintable():
            raise BadInput(f"{name} is {shown(value)}; it takes a text of at most {_LONGEST} characters")
        return text
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise BadInput(f"{name} is {shown(value)}; it takes a number")
    if isinstance(default, int) and value != int(value):
        raise BadInput(f"{name} is {shown(value)}; it takes a whole number")
    if isinstance(default, int) and abs(value) > _LARGEST:
        raise BadInput(f"{name} is {shown(value)}; it must be at most {_LARGEST if high is None else high}")
    value = type(default)(value)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise BadInput(f"{name} is {value}; it must be {' and '.join(bounds)}")
    return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def assignments(words: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """NAME=VALUE of a command line; values as in YAML, and numbers as people write them (1e-3).

    Raises:
        BadInput: a word is none.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise BadInput(f"{option} {shown(word).strip(chr(39))}: expected NAME=VALUE")
        found[name] = _number(parse_yaml(text, f"{option} {word[:80]}"))
    return found


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
