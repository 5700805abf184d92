"""A killed and resumed study proposes the very points of an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.models.test_registry import ENV

# not in alphabetical order: a resumed study once had its dimensions sorted
SPACE = (
    "family: mean\nspace:\n  rate: {loguniform: [0.001, 0.9]}\n  epochs: {randint: [20, 60]}\nbudget: {samples: 11}\n"
)


def start(space: Path, values: Path, study: Path, searcher: str) -> subprocess.Popen[str]:
    command = ["run_hyperopt.py", space, "--data", values, "--study", study, "--workers", 1, "--no-ensemble",
               "--searcher", searcher]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **ENV}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def proposals(study: Path) -> list[dict[str, object]]:
    configs = [json.loads(path.read_text()) for path in study.glob("trials/*/config.json")]
    return [c["settings"] for c in sorted(configs, key=lambda c: c["number"])]


@pytest.mark.slow
@pytest.mark.parametrize(("searcher", "kills"), [("skopt", 12), ("optuna", 1), ("random", 1)])
def test_killed_and_uninterrupted_studies_propose_the_same(searcher: str, kills: int, tmp_path: Path) -> None:
    space, values = tmp_path / "mine.yaml", tmp_path / "values.txt"
    space.write_text(SPACE)
    np.savetxt(values, np.random.default_rng(0).normal(4.0, 1.0, 40))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    output, _ = (process := start(space, values, whole, searcher)).communicate(timeout=240)
    assert process.returncode == 0, output
    rng = random.Random(searcher)
    for _ in range(kills):
        process = start(space, values, cut, searcher)
        had = len(proposals(cut))
        end = time.monotonic() + 60
        # at least one proposal further, so that the search is cut at many places
        while process.poll() is None and len(proposals(cut)) <= had and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
    output, _ = (process := start(space, values, cut, searcher)).communicate(timeout=240)
    assert process.returncode == 0, output
    assert proposals(cut) == proposals(whole)
    # both had the same to learn from: whatever was cut ended in the same numbers
    results = [
        {p.parent.name: json.loads(p.read_text())["best"] for p in s.glob("trials/*/result.json")} for s in (whole, cut)
    ]
    assert sorted(r["mse"] for r in results[0].values()) == sorted(r["mse"] for r in results[1].values())
