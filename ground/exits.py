"""How every command ends: one clear line on stderr and a code that scripts can read."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from ground.errors import BadInput, CommandFailed

FAILED, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
_OF_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)
"""What the system says of a path that somebody named, not of its own state."""
_LONGEST = 1000
DEBUG = "CONCERT_DEBUG"
"""Environment variable: let unexpected errors through, for a debugger."""


def run_command(program: str, call: Callable[[], int]) -> int:
    """The exit code of `call`: 2 for bad input, 1 for what failed on the way, 130 for Ctrl-C, 141 where nobody reads
    what is printed any more. What nobody expected is one line, too; its traceback goes into a file that the line names.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(getattr(sys, name), "reconfigure"):  # a name that cannot be printed is shown with escapes
            getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        code = call()
        sys.stdout.flush()
        return code
    except BadInput as error:
        return _say(f"{program}: {error}", BAD_INPUT)
    except CommandFailed as error:
        return _say(f"{program}: {error}", FAILED)
    except BrokenPipeError:
        _silence()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _say(f"{program}: interrupted; the same command goes on", INTERRUPTED)
    except OSError as error:
        if error.errno is None:
            return _unexpected(program, error)
        if error.errno in _OF_NAMES:
            return _say(f"{program}: {error.strerror}: {error.filename or ''}".rstrip(": "), BAD_INPUT)
        return _say(f"{program}: {error.strerror}: {error.filename or ''}".rstrip(": "), FAILED)
    except Exception as error:
        return _unexpected(program, error)


def _say(line: str, code: int) -> int:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.rstrip())
    try:
        print(shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…", file=sys.stderr, flush=True)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    return code


def _silence() -> None:
    """Python writes what is left when it ends: to nowhere, as nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _unexpected(program: str, error: Exception) -> int:
    if os.environ.get(DEBUG):
        raise error
    what = (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:200]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="concert-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(error, file=file)
        where = f"details in {file.name}"
    except OSError:
        where = f"{DEBUG}=1 shows where"
    return _say(f"{program}: internal error ({what}); {where}", FAILED)
