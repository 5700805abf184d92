"""While a search runs: whether its Ray lives, and whether the user wants an end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import ray

from ground.exits import FAILED, INTERRUPTED
from tuner.cluster import PREFIX

_LOOK_SECONDS, _ANSWER_SECONDS, _STUCK_SECONDS = 0.5, 15.0, 20.0
_PARTS = ("gcs_server", "raylet")
_DIED, _NOT_STARTED, _RESUME = "Ray has died", "Ray did not start", "the same command goes on from here"
_shells: list[IO[bytes]] = []


@contextlib.contextmanager
def watched(folder: Path, interrupted: threading.Event) -> Iterator[None]:
    """While Ray starts and lives. When its head or this machine's part of it has died, the process ends in one line
    with exit code 1: what waits for Ray would wait for ever, and all that counts is in the study's folder.

    Args:
        folder: Ray's scratch here, which goes, too.
        interrupted: the user wants an end (and may have told Ray's processes the same): exit code 130.
    """
    left = threading.Event()
    started: dict[int, psutil.Process] = {}
    stderr = os.dup(2)  # while Ray starts, its own is elsewhere

    def look() -> None:
        while not left.wait(_LOOK_SECONDS):
            if (_lost(started) or not _alive()) and not left.is_set():
                _die(folder, interrupted.is_set(), stderr)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()


def _lost(started: dict[int, psutil.Process]) -> bool:
    """Whether a part of the Ray that this process has started is gone; those that it finds join `started`."""
    try:
        for child in psutil.Process().children() if len(started) < len(_PARTS) else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() in _PARTS:
                    started[child.pid] = child
        return any(part.status() == psutil.STATUS_ZOMBIE for part in started.values())
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """While Ray starts: a process that cannot say any more why it ends, has it said by a shell.

    If its node dies then, Ray's core ends the process at once; if its head does, it keeps the interpreter waiting for a
    minute, in which no thread of it comes to run, only the C of `faulthandler`: that ends it.
    """
    script = 'read -r end; [ "$end" = well ] && exit; echo "$1" >&2; sleep 1; rm -rf -- "$2"'
    command = ["sh", "-c", script, "sh", f"run_hyperopt: {_NOT_STARTED}; {_RESUME}", str(folder)]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert shell.stdin is not None
    said = shell.stdin
    _shells.append(said)
    left = threading.Event()

    def move() -> None:
        while not left.wait(_LOOK_SECONDS):
            faulthandler.dump_traceback_later(_STUCK_SECONDS, exit=True, file=said)
        faulthandler.cancel_dump_traceback_later()

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        _hush_shell()
        shell.wait()


def _hush_shell() -> None:
    """What `starting` would have said need not be said."""
    while _shells:
        with contextlib.suppress(OSError), _shells.pop() as said:
            said.write(b"well\n")


def _alive() -> bool:
    """Whether Ray, where it has started, answers and says that this node is part of it."""
    if not ray.is_initialized():
        return True
    answers: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            node = ray.get_runtime_context().get_node_id()
            answers.append(any(n["NodeID"] == node and n["Alive"] for n in ray.nodes()))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return answers == [True]


def _die(folder: Path, interrupted: bool, stderr: int) -> None:
    _hush_shell()
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)  # a live table hides the cursor
    with contextlib.suppress(OSError):
        os.write(stderr, f"run_hyperopt: {'interrupted' if interrupted else _DIED}; {_RESUME}\n".encode())
    left = psutil.Process().children(recursive=True)  # they would hold the trials' files
    left += [
        p for p in psutil.process_iter(["cmdline"]) if any(str(folder) in word for word in p.info["cmdline"] or ())
    ]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(INTERRUPTED if interrupted else FAILED)


@contextlib.contextmanager
def signals(interrupted: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search in order; a second one ends it at once. A thread of its own hears them, even
    where the main thread waits inside of Ray."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    watch = (signal.SIGINT, signal.SIGTERM)

    def listen() -> None:
        while number := heard.recv(1):
            if number[0] not in watch:
                continue
            if interrupted.is_set():
                _hush_shell()
                os._exit(128 + number[0])
            interrupted.set()
            say("interrupted: running trials are stopped; once more to end at once")

    threading.Thread(target=listen, daemon=True).start()
    old = {number: signal.signal(number, lambda *_: None) for number in watch}
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in old.items():
            signal.signal(number, handler)
        told.close()
