"""Whatever the ranks report reaches the trial's own process, in order, before the end of the training does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from models import registry
from tuner import cluster
from tuner.options import Options
from tuner.relay import Relay, relayed


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    options = Options(samples=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        patch.setattr(tempfile, "tempdir", "/tmp")  # paths of sockets are short
        with cluster.scratch(options, Path("/tmp/study")) as folder:
            cluster.start(registry.get("ndt"), options, folder)
            yield
            ray.shutdown()


@dataclass
class Trainer:
    """Takes its time, then reports without a pause, faster than it is heard, and ends."""

    relay: Relay
    count: int
    error: Exception | None = None

    def fit(self) -> None:
        time.sleep(1.5)
        for number in range(self.count):
            self.relay.after_report(None, [{"step": number}, {"step": -1}], None)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("count", [0, 1, 60])
def test_nothing_is_lost_and_nobody_waits(local: None, count: int) -> None:
    told: list[dict[str, Any]] = []
    relayed(lambda relay: Trainer(relay, count), told.append)  # type: ignore[arg-type, return-value]
    assert told == [{"step": number} for number in range(count)]


def test_an_error_comes_after_the_reports(local: None) -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(ValueError, match="as told"):
        relayed(lambda relay: Trainer(relay, 5, ValueError("as told")), told.append)  # type: ignore[arg-type, return-value]
    assert len(told) == 5
