"""What the tests share: small data, studies, and a home of their own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from studies.places import HOME

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SLOW = os.environ.get("CONCERT_SLOW") == "1"
LORENZ = {"conditions": 6, "train_trials": 24, "eval_trials": 12, "bins": 20, "forward_bins": 4, "heldin_units": 9,
          "heldout_units": 4}  # fmt: skip
TINY = {"MODEL.NUM_LAYERS": 1, "MODEL.HIDDEN_SIZE": 16, "TRAIN.BATCH_SIZE": 12, "TRAIN.LR.WARMUP": 0,
        "TRAIN.VAL_INTERVAL": 2, "TRAIN.NUM_UPDATES": 6, "TRAIN.EARLY_STOP": "off"}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SLOW:
        skip = pytest.mark.skip(reason="slow: set CONCERT_SLOW=1")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Two processes run tests; one that is marked `alone` waits until the other has ended its own, and holds it up."""
    place = Path(tempfile.gettempdir()) / f"concert-tests-{os.getuid()}"
    with open(f"{place}.gate", "a") as gate, open(f"{place}.lock", "a") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)  # who waits here comes before who comes later
        fcntl.flock(lock, fcntl.LOCK_EX if "alone" in item.keywords else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have to show (`record_property("shows", text)`), whichever process ran them."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "shows" and getattr(report, "when", "") == "call":
                    terminalreporter.write_line(text)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every folder of Concert below the test's own, and nothing remembered of another test's."""
    from models import registry
    from studies import data

    for cached in (data._load, data._load_part, data._fingerprint):
        cached.cache_clear()

    for name in {HOME, *(name for family in registry.every() for name in family.folders)}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NLB_HOME", str(tmp_path / "nlb"))
    return tmp_path / "nlb"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside a development checkout."""
    if not SHARED.is_dir():
        pytest.skip("the reference data (../shared) is not here")
    return SHARED


@pytest.fixture(scope="session")
def spikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small NDT file with known true rates."""
    import h5py

    from models.ndt.lorenz import generate

    path = tmp_path_factory.mktemp("spikes") / "tiny.h5"
    with h5py.File(path, "w") as file:
        for name, array in generate(LORENZ).items():
            file[name] = array
    return path


@pytest.fixture(scope="session")
def tiny_space(tmp_path_factory: pytest.TempPathFactory, spikes: Path) -> Path:
    """A search space whose trials take a second."""
    import yaml

    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    content = {
        "family": "ndt",
        "data": {"path": str(spikes)},
        "fixed": TINY,
        "space": {"MODEL.DROPOUT": {"uniform": [0.1, 0.5]}, "TRAIN.LR.INIT": {"loguniform": [1e-3, 1e-2]}},
        "budget": {"samples": 4},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def run(
    *arguments: object, env: dict[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """A command of Concert, as a user runs it."""
    command = [sys.executable, *(str(a) for a in arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout
    )
