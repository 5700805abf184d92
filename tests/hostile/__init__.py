"""Inputs that nobody should be able to do harm with, and how each is judged.

Each module makes the cases of a few classes: a command of Concert and what it is given. Whatever it is, the command
ends with code 2 and one line, soon, in little memory, and leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES, MOST_SECONDS = 2**30, 5.0


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        group: the class that it is of.
        name: which of the class.
        make: writes what is needed into an empty folder and gives the call of the command.
    """

    group: str
    name: str
    make: Callable[[Path], Callable[[], int]]


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What lies below a folder: kind and mode, size and time of each entry."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            about = os.lstat(os.path.join(root, name))
            size = 0 if stat.S_ISDIR(about.st_mode) else about.st_size
            when = 0 if stat.S_ISDIR(about.st_mode) else about.st_mtime_ns
            found[os.path.relpath(os.path.join(root, name), folder)] = (about.st_mode, size, when)
    return found


@contextlib.contextmanager
def little_memory() -> object:
    """A gigabyte of address space more than there is now, and no byte beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judge(case: Case, folder: Path) -> tuple[list[str], str]:
    """Run a case in a folder of its own.

    Returns:
        What is wrong with how it ended, and the line that it said.
    """
    call = case.make(folder)
    before = tree(folder)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    begun = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), little_memory(), contextlib.chdir(folder):
        try:
            code: object = call()
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            code = f"{type(error).__name__}: {str(error)[:200]}"
    took = time.process_time() - begun
    lines = []
    for stream in (err, out):
        stream.flush()
        lines.append(stream.buffer.getvalue().decode().splitlines())  # type: ignore[attr-defined]
    told, said = lines
    wrong = []
    if code != 2:
        wrong.append(f"ended with {code}")
    if len(told) != 1 or not told[0].strip() or len(told[0]) > 1000:
        wrong.append(f"said {len(told)} lines: {told[:3]}")
    if any("Traceback" in line for line in (*told, *said)):
        wrong.append("a traceback")
    after = tree(folder)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        wrong.append(f"changed {changed[:4]}")
    if took > MOST_SECONDS:
        wrong.append(f"took {took:.1f} s")
    return wrong, told[0] if told else ""
