"""Work shared by several fresh processes: a fork would inherit the threads and locks of torch and HDF5."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def side_by_side(program: str, count: int, keep: Sequence[int] = ()) -> bool:
    """Run a Python program in `count` processes of one thread each, and wait for all; none outlives the wait.

    Args:
        program: its text; `%d` in it becomes the process's number.
        keep: open files, a lock say, that the processes hold, too.

    Returns:
        Whether all of them ended well; what went wrong is on stderr.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", program % number], cwd=_ROOT, env=environment, pass_fds=keep)
        for number in range(count)
    ]
    try:
        return not max(process.wait() != 0 for process in running)
    finally:
        for process in running:
            process.kill()
            process.wait()
