"""Eight rounds of `python -m tests.kills`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import kills


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rounds_of_kill_9_lose_nothing(tmp_path: Path, record_property: Callable[[str, str], None]) -> None:
    said: list[str] = []
    counts = kills.play(8, 1, tmp_path / "kills", kills.KINDS, said.append)
    record_property("shows", str(counts))
    print(*said, sep="\n")
    assert counts.bad == 0
    assert counts.kills.total() == 8
    assert set(counts.kills) == set(kills.KINDS)
