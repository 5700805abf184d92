"""How large a value from outside may be, and how one is shown in a line."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from ground.errors import BadInput

MOST_DEPTH = 40
MOST_VALUES = 500_000
MOST_BITS = 63
LARGEST_WHOLE = 2**MOST_BITS - 1
"""Whole numbers beyond this fit into no array, no file format and no seed."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 80, 80, 40


def shown(value: Any, most: int = 80) -> str:
    """A value as Python writes it, in at most so many characters, whatever it is."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def refuse_overgrown(value: Any, where: str, bits: int = MOST_BITS) -> None:
    """Refuse nested mappings and lists that nobody could have meant; shared parts count wherever they are.

    Args:
        value: of a file, before anything walks through it.
        where: for the message.
        bits: of the largest whole number.

    Raises:
        BadInput: nested deeper than 40 or in itself, more than half a million values, a larger whole number, or
            text with NUL or half a character.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if count + len(waiting) > MOST_VALUES:
            raise BadInput(f"{where}: more than {MOST_VALUES} values")
        if isinstance(item, str):
            _refuse_text(item, where)
        elif isinstance(item, int) and item.bit_length() > bits:
            raise BadInput(f"{where}: a whole number of {item.bit_length()} bits; {bits} are the most")
        elif isinstance(item, (Mapping, list, tuple, set, frozenset)):
            if depth >= MOST_DEPTH:
                raise BadInput(f"{where}: nested deeper than {MOST_DEPTH}")
            if count + len(waiting) + len(item) > MOST_VALUES:
                raise BadInput(f"{where}: more than {MOST_VALUES} values")
            if isinstance(item, Mapping):
                waiting += [(key, depth + 1) for key in item]
                waiting += [(inner, depth + 1) for inner in item.values()]
            else:
                waiting += [(inner, depth + 1) for inner in item]


def _refuse_text(text: str, where: str) -> None:
    if text.isascii() and "\0" not in text:
        return
    if "\0" in text:
        raise BadInput(f"{where}: text with a NUL ({shown(text, 60)})")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{where}: text that is no Unicode ({shown(text, 60)})") from None
