"""One writer of a folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Who comes second waits until the first, and all to whom it gave the descriptor, are done or dead."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = folder.parent / f".{folder.name}.lock"
    while True:
        with open(name, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"  {folder}: another process is at work there; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # who was first deleted what it had locked: a lock counts only by its name
            if not name.exists() or not os.path.samestat(os.stat(name), os.fstat(lock.fileno())):
                continue
            try:
                yield lock.fileno()
            finally:
                name.unlink(missing_ok=True)
            return
