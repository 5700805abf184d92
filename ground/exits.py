"""How every command ends: one clear line on stderr and a code that scripts can read."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ground.errors import BadInput, CommandFailed

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def run_command(program: str, call: Callable[[], int]) -> int:
    """The exit code of `call`: 2 for bad input, 1 for what failed on the way, 130 for Ctrl-C."""
    try:
        return call()
    except BadInput as error:
        print(f"{program}: {error}", file=sys.stderr)
        return BAD_INPUT
    except CommandFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno is None:
            raise
        print(f"{program}: {error.strerror}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
