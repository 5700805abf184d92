"""Commands as a person can type them, here and now: the interpreter in use, words quoted, the folder they run in."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def interpreter() -> str:
    """`python` where that is the one in use (its environment is active), else its path, seen from Concert's folder."""
    if not sys.executable:
        return "python"
    mine = Path(sys.executable).absolute()
    found = shutil.which("python")
    # links are not followed: every environment's python leads to the same file
    if found and Path(found).absolute().parent == mine.parent:
        return "python"
    return shlex.quote(str(mine.relative_to(ROOT) if mine.is_relative_to(ROOT) else mine))


def command(*words: object) -> str:
    """A command of Concert: `command("-m", "ensembles", "show", name)`."""
    return " ".join([interpreter(), *(shlex.quote(str(word)) for word in words)])


def way() -> str | None:
    """What must be typed first because commands are found in Concert's folder only; None if this is that folder."""
    return None if os.path.samefile(Path.cwd(), ROOT) else f"cd {shlex.quote(str(ROOT))}"
