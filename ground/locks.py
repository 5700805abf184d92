"""One writer at a time of what several commands may want to make."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, say: Callable[[str], None] | None = None) -> Iterator[int]:
    """Held by one process until it, and all to whom it gives the descriptor, are done or dead; others wait.

    Args:
        path: the file or folder that is to be made; the lock lies beside it.
        say: is told that there is somebody to wait for.

    Yields:
        The lock's descriptor, for processes that work on the same (`ground.processes.side_by_side`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    while True:
        with open(name, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if say is not None:
                    say(f"  {path}: another process is at work there; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # who was first deleted what it had locked: a lock counts only by its name
            if not name.exists() or not os.path.samestat(os.stat(name), os.fstat(lock.fileno())):
                continue
            try:
                yield lock.fileno()
            finally:
                name.unlink(missing_ok=True)
            return
