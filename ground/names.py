"""What studies, trials, data sets and whatever becomes a file's name may be called."""

from __future__ import annotations

from ground.errors import BadInput
from ground.limits import shown

MOST = 100
_MOST_BYTES = 200  # a file system takes 255, and files get endings


def plain(name: object, what: str) -> str:
    """A name that is one folder's or file's and can be printed.

    Args:
        what: what it is of, for the message: "a study".

    Raises:
        BadInput: it is empty or too long, begins with - or ., or holds separators, control characters or bytes that
            are no text.
    """
    reason = _wrong(name)
    if reason:
        raise BadInput(f"{shown(name)} cannot name {what}: it {reason}")
    return str(name)


def is_plain(name: object) -> bool:
    """Whether `plain` takes it."""
    return not _wrong(name)


def _wrong(name: object) -> str:
    if not isinstance(name, str):
        return "is no text"
    if not name or name.isspace():
        return "is empty"
    if len(name) > MOST or len(name.encode("utf-8", "replace")) > _MOST_BYTES:
        return f"is longer than {MOST} characters"
    if name[0] in "-.":
        return f"begins with {name[0]}"
    if "/" in name or "\\" in name:
        return "holds a separator"
    if not name.isprintable() or name != name.strip():
        return "holds characters that are not printed"
    return ""
