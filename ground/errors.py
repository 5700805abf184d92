"""The two ways in which a command ends badly without anything being wrong with Concert."""

from __future__ import annotations


class BadInput(ValueError):
    """What the user gave cannot be used. The message is one line that says what and, if known, how to mend it."""


class CommandFailed(RuntimeError):
    """The command was right but could not be carried out; the message is one line."""
