"""Ray that dies, that belongs to somebody else, or that is not there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from filelock import FileLock, Timeout

from models import registry
from tests.conftest import ROOT, run
from tests.models.test_registry import HERE
from tests.tuner.test_study import wait_for
from tuner import cluster
from tuner.options import Options

LONG = ("--set", "epochs=100000")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "spaces").mkdir()
    np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 40))
    (tmp_path / "spaces/small.yaml").write_text(
        "family: mean\ndata: {path: " + str(tmp_path / "values.txt") + "}\n"
        "space:\n  rate: {loguniform: [0.01, 0.9]}\nbudget: {samples: 2}\n"
    )
    return {registry.EXTRA_FOLDERS: str(HERE), "CONCERT_SPACES": str(tmp_path / "spaces")}


def launch(study: Path, env: dict[str, str], *more: object) -> subprocess.Popen[str]:
    """A search whose trials do not end by themselves."""
    command = [sys.executable, "run_hyperopt.py", "small", "--study", study, *LONG, *more]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start(study: Path, env: dict[str, str], *more: object) -> subprocess.Popen[str]:
    """Such a search, once a trial of this run has begun."""
    begun = time.time()
    process = launch(study, env, *more)
    wait_for(lambda: any(p.stat().st_mtime > begun for p in study.glob("trials/*/metrics.csv")), process)
    assert process.poll() is None, process.communicate()
    return process


def scratch_of(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"concert-ray-{process.pid}-*"))


@pytest.mark.slow
def test_a_plain_search_minds_nobody_elses_ray_and_no_home(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    done = run(
        *("run_hyperopt.py", "small", "--study", tmp_path / "one"),
        env={**env, "RAY_ADDRESS": "192.0.2.77:6379", "HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not list((tmp_path / "home").iterdir())


def test_an_address_that_leads_nowhere_is_one_line_soon(env: dict[str, str], tmp_path: Path) -> None:
    for address, words in (
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1 ("),
        ("nowhere", "expected auto or HOST:PORT"),
        ("ray://127.0.0.1:10001", "not as a Ray client"),
    ):
        begun = time.monotonic()
        done = run("run_hyperopt.py", "small", "--study", tmp_path / "one", "--address", address, env=env)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert time.monotonic() - begun < 60
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
def test_a_listener_that_is_no_ray_is_one_line_soon(env: dict[str, str], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = run("run_hyperopt.py", "small", "--study", tmp_path / "one", "--address", address, env=env, timeout=120)
    assert done.returncode == 2
    assert f"no Ray cluster at {address}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_ray_that_died_is_one_line_soon_and_nothing_stays(victim: str, env: dict[str, str], tmp_path: Path) -> None:
    study = tmp_path / "one"
    process = start(study, env)
    (scratch,) = scratch_of(process)
    family = psutil.Process(process.pid).children(recursive=True)
    (killed,) = [child for child in family if child.name() == victim]
    killed.kill()
    begun = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60  # half of it on a quiet machine
    assert process.returncode == 1
    assert err.strip().splitlines() == ["run_hyperopt: Ray has died; the same command goes on from here"]
    assert not scratch.exists()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    # the same command goes on; the trial can be ended like any other
    process = start(study, env)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "resuming study one" in out


@pytest.mark.alone
@pytest.mark.slow
def test_an_end_is_heard_where_ray_hears_nothing(env: dict[str, str], tmp_path: Path) -> None:
    process = start(tmp_path / "one", env)
    stopped = [c for c in psutil.Process(process.pid).children(recursive=True) if c.name() in ("raylet", "gcs_server")]
    for child in stopped:
        child.suspend()
    try:
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert time.monotonic() - begun < 10
        assert process.returncode == 130
    finally:
        for child in stopped:
            child.kill()


@pytest.mark.slow
def test_a_study_that_is_deleted_while_searched_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    study = tmp_path / "one"
    process = start(study, env, "--set", "pace=0.1")  # no trial comes to its end
    study.rename(tmp_path / "gone")  # at once, so that no trial fails while it is deleted
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert err.strip().splitlines() == [f"run_hyperopt: {study} was deleted while it was searched"]
    assert not study.exists()


def test_what_dead_processes_left_goes_and_what_lives_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, own, other = (
        Path(f"/tmp/concert-ray-{p}-{os.urandom(4).hex()}") for p in (gone.pid, os.getpid(), os.getpid())
    )
    for folder in (dead, own, other):
        (folder / "r/session").mkdir(parents=True)
    (other / ".lock").touch()  # whose process had this one's number, and is gone
    try:
        with cluster.scratch(Options(samples=1), tmp_path) as folder:
            assert not dead.exists()
            assert not other.exists()
            assert own.exists()
            assert folder.stat().st_mode & 0o077 == 0
            with pytest.raises(Timeout):
                FileLock(folder / ".lock").acquire(timeout=0)
            with cluster.scratch(Options(samples=1), tmp_path):
                assert folder.exists()
        assert not folder.exists()
    finally:
        shutil.rmtree(own)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "delay"), [("raylet", 0.3), ("gcs_server", 0.8)])
def test_a_ray_that_dies_as_it_starts_is_one_line_soon(
    victim: str, delay: float, env: dict[str, str], tmp_path: Path
) -> None:
    study = tmp_path / "one"
    process = launch(study, env)
    family = psutil.Process(process.pid)

    def there() -> list[psutil.Process]:
        return [child for child in family.children() if child.name() == victim]

    wait_for(there, process)
    time.sleep(delay)
    for child in there():
        child.kill()
    begun = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert process.returncode == 1
    (line,) = err.strip().splitlines()
    assert re.fullmatch(r"run_hyperopt: Ray (has died|did not start); the same command goes on from here", line)
    assert not scratch_of(process)


@pytest.mark.parametrize("end", ["ctypes.PyDLL(None).sleep(60)", "os._exit(1)"])
def test_a_core_that_lets_nobody_speak_is_one_line_soon(end: str, tmp_path: Path) -> None:
    """As Ray's does where its parts die while it starts: PyDLL does not let other threads run."""
    scratch = tmp_path / "concert-ray-0"
    scratch.mkdir()
    program = (
        "import ctypes, os, pathlib; from tuner import watch; watch._STUCK_SECONDS = 1.0\n"
        f"with watch.starting(pathlib.Path({str(scratch)!r})):\n"
        f"    import time; time.sleep(2.5); print('moved', flush=True); {end}"
    )
    begun = time.monotonic()
    done = run("-c", program, timeout=120)
    assert time.monotonic() - begun < 40
    assert (done.returncode, done.stdout) == (1, "moved\n")
    while scratch.exists() and time.monotonic() - begun < 50:
        time.sleep(0.1)
    assert not scratch.exists()
    assert done.stderr == "run_hyperopt: Ray did not start; the same command goes on from here\n"


@pytest.mark.slow
def test_a_local_search_listens_on_loopback_alone_and_to_its_token(env: dict[str, str], tmp_path: Path) -> None:
    process = start(tmp_path / "one", {**env, "RAY_AUTH_MODE": "disabled"})  # as somebody needs for a cluster
    try:
        heard = {}
        for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            for socket in child.net_connections():
                if socket.status == psutil.CONN_LISTEN and socket.laddr:
                    heard[socket.laddr.port] = socket.laddr.ip.removeprefix("::ffff:"), child.name()
        assert {"gcs_server", "raylet"} <= {name for _, name in heard.values()}
        assert {address for address, _ in heard.values()} == {"127.0.0.1"}
        (head,) = [port for port, (_, name) in heard.items() if name == "gcs_server"]
        for token in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
            here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **token}  # else Ray asks at the machine's outer address
            stranger = run("-c", f"import ray; ray.init('127.0.0.1:{head}'); print('joined')", env=here, timeout=120)
            assert stranger.returncode
            assert "joined" not in stranger.stdout
            assert "nauthenticated" in stranger.stderr, stranger.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
