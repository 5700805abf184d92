"""The Ray under a search: started on this machine or joined at an address, and cleaned up after."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from filelock import FileLock, Timeout

from ground.errors import BadInput, CommandFailed
from ground.exits import BAD_INPUT
from ground.machine import available_cpus
from models.base import Family
from tuner.options import Options
from tuner.resources import plan_nodes

_ROOT = Path(__file__).resolve().parent.parent
PREFIX, _PROBE, _LOCK = "concert-ray-", ".concert-probe-", ".lock"
JOIN_SECONDS = 15.0


def start(family: Family, options: Options, folder: Path) -> None:
    """A Ray on this machine for this search alone, whatever else runs here, with its files below `folder`.

    It is protected by a token of its own, so nobody's home is touched. Traffic stays on the loopback interface.

    Raises:
        CommandFailed: it could not start.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_MODE", None)  # Ray's own default for what it starts is to want a token
    # without this Ray takes the address below for the machine's outer one
    ray._private.ray_constants.ENABLE_RAY_CLUSTER, several = False, ray._private.ray_constants.ENABLE_RAY_CLUSTER
    try:
        with contextlib.nullcontext() if options.verbose else _hushed():
            ray.init(
                address="local",
                num_cpus=available_cpus(),
                object_store_memory=200 * 2**20,
                include_dashboard=False,
                _temp_dir=str(folder / "r"),
                _node_ip_address="127.0.0.1",
                **_common(family, options),
            )
    except Exception as error:  # Ray raises plain ones, too
        raise CommandFailed(f"Ray could not start ({_line(error)})") from None
    finally:
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = several


def join(family: Family, options: Options, folder: Path) -> None:
    """Join the running Ray at `options.address`, whose nodes must all see `folder` (or what there is above it).

    Raises:
        BadInput: there is none, or a node does not share the files. Where nothing answers at all, the process ends
            with that line.
    """
    address = str(options.address)
    if address.startswith("ray://"):
        raise BadInput(f"--address {address}: join as a node does, with auto or HOST:PORT (6379), not as a Ray client")
    where = f"no Ray cluster at {address}"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise BadInput(f"--address {address}: expected auto or HOST:PORT")
        try:
            socket.create_connection((host, int(port)), timeout=JOIN_SECONDS / 3).close()
        except (OSError, OverflowError) as error:
            raise BadInput(f"{where} ({_line(error)})") from None
    with _hushed() as stderr, _deadline(JOIN_SECONDS, f"{where}: no answer within {JOIN_SECONDS:g} s", stderr):
        try:
            ray.init(address=address, **_common(family, options))
        except (OSError, RuntimeError, ValueError) as error:
            raise BadInput(f"{where} ({_line(error)})") from None
    _check_shared(folder)


def room(options: Options, ranks: int) -> int:
    """How many trials the Ray that runs takes at once.

    Raises:
        BadInput: none, or not as many as asked for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    return plan_nodes(there, options.workers, options.cpus_per_trial, options.gpus_per_trial, ranks)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _common(family: Family, options: Options) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    if not options.verbose:
        # what Ray says of a worker or of itself that died is said in one line, by the trial or by `watched`
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        # its errors also come past the logger, with pages of a dead raylet's log; Ray has no switch for them
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    quiet = {} if options.verbose else {"logging_level": "CRITICAL", "log_to_driver": False}
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path, **_passed(family)}}, "configure_logging": True, **quiet}


def _passed(family: Family) -> dict[str, str]:
    """Variables that decide what a trial finds; a running cluster's workers do not inherit them."""
    named = {*family.folders, *family.environment}
    return {k: v for k, v in os.environ.items() if k in named or k.startswith("CONCERT_")}


def _check_shared(folder: Path) -> None:
    """Every node sees what is written where the study is to be."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    mine = f"{_PROBE}{socket.gethostname()}-"
    _remove_dead(there, mine)
    handle, probe = tempfile.mkstemp(prefix=f"{mine}{os.getpid()}-", dir=there)
    os.close(handle)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        sees = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
        asked = [
            sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe)
            for node in nodes
        ]
        for node, answer in zip(nodes, asked, strict=True):
            name = node["NodeManagerHostname"]
            try:
                if not ray.get(answer, timeout=60):
                    raise BadInput(f"{there} is not shared: node {name} does not see what is written there")
            except (ray.exceptions.RayError, TimeoutError) as error:
                if not any(other["NodeID"] == node["NodeID"] and other["Alive"] for other in ray.nodes()):
                    continue  # it has died since
                raise BadInput(f"node {name} of the cluster runs nothing ({_line(error)})") from None
    finally:
        os.unlink(probe)


@contextlib.contextmanager
def _hushed() -> Iterator[int]:
    """Without what Ray's core writes on stderr past Python. Yields stderr as it was."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield stderr
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)


@contextlib.contextmanager
def _deadline(seconds: float, line: str, stderr: int) -> Iterator[None]:
    """The process ends with that line where the block takes longer: Ray's own waiting hears no signal."""

    def end() -> None:
        os.write(stderr, f"run_hyperopt: {line}\n".encode())
        os._exit(BAD_INPUT)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def scratch(options: Options, study: Path) -> Iterator[Path]:
    """A folder of this user's alone for what nothing reads again: Ray's own account of the trials, and where Ray is
    started here, its sockets and logs. On a cluster all nodes must see it, so it lies in the study.

    What processes that were killed left of theirs goes first.
    """
    if options.address is not None:
        folder = (study / ".ray").resolve()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    # Ray's sockets lie in it: their paths may not be long
    root = Path(tempfile.gettempdir())
    root = root if len(str(root)) < 20 else Path("/tmp")
    _remove_dead(root, PREFIX)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=root))
    try:
        with FileLock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead(place: Path, prefix: str) -> None:
    """Remove what this user's processes that live no more left in `place`, named by `prefix` and their number."""
    for leftover in place.glob(f"{prefix}*"):
        owner = leftover.name.removeprefix(prefix).partition("-")[0]
        with contextlib.suppress(OSError, Timeout):
            if not owner.isdecimal() or leftover.stat().st_uid != os.getuid():
                continue
            if (leftover / _LOCK).exists():  # another process, or a thread, may have that number by now
                FileLock(leftover / _LOCK).acquire(timeout=0).lock.release()
            elif psutil.pid_exists(int(owner)):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
