"""A Ray cluster on this machine: a head and further nodes, started as a user starts them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

READY = "Ray runtime started"
DEAD_SECONDS = 60.0


class Cluster:
    """Nodes of one cluster; the first is its head. They answer to a token of their own."""

    def __init__(self) -> None:
        # sockets lie in it: their paths may not be long
        self.folder = Path(tempfile.mkdtemp(prefix="concert-nodes-", dir="/tmp"))
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_health_check_period_ms": "1000",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"127.0.0.1:{server.getsockname()[1]}"
        self.nodes: list[subprocess.Popen[str]] = []

    def add(self, cpus: int, gpus: int = 0, own: Path | None = None) -> subprocess.Popen[str]:
        """Another node with so many cores and GPUs, by name: there need be none. It has joined when this returns.

        Args:
            own: a folder of which the node sees an empty one of its own, as a local disk would be (needs root).
        """
        if self.nodes:
            role = [f"--address={self.address}"]
        else:
            role = ["--head", f"--port={self.address.partition(':')[2]}", f"--temp-dir={self.folder}"]
            role += ["--include-dashboard=false", "--disable-usage-stats"]
        role += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={100 * 2**20}"]
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(own)] if own else []
        node = subprocess.Popen(
            [*hidden, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role],
            env={**os.environ, **self.env, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.nodes.append(node)
        assert node.stdout is not None
        said = []
        for line in node.stdout:
            said.append(line)
            if READY in line:
                break
        else:
            raise RuntimeError("".join(said))
        threading.Thread(target=node.stdout.read, daemon=True).start()  # it must not wait for a reader
        return node

    def kill(self, node: subprocess.Popen[str]) -> None:
        """kill -9 of all that the node runs, its raylet first: as if the machine had gone."""
        family = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
        for process in sorted(family, key=lambda process: _name(process) != "raylet"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.kill()
        node.wait()
        psutil.wait_procs(family, timeout=DEAD_SECONDS)
        self.nodes.remove(node)

    def close(self) -> None:
        for node in reversed(list(self.nodes)):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
