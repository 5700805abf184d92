"""Generated plates: a project like any other, the same from the same seed, whose compounds can be told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ground.errors import BadInput
from models.cellprofiler import generate, picture
from models.cellprofiler.__main__ import main
from models.cellprofiler.project import Project
from models.cellprofiler.store import CropStore
from tests.conftest import ROOT

SMALL = {"plates": 3, "compounds": 2, "replicates": 2, "controls": 2, "cells": 4, "side": 128, "box": 32}


def _files(root: Path) -> dict[str, bytes]:
    inputs = root / "inputs"
    return {str(path.relative_to(inputs)): path.read_bytes() for path in sorted(inputs.rglob("*")) if path.is_file()}


def test_a_generated_project_is_read_as_any_other(home: Path) -> None:
    root = generate.demo(SMALL)
    project = Project.open(root)
    assert project.channels == picture.CHANNELS and project.control == generate.CONTROL
    sites = project.sites()
    assert len(sites) == 3 * 6 and {site.split for site in sites} == {"Training", "Validation", "Test"}
    store = CropStore.open(root / "outputs" / "single-cells")
    assert len(store) == sum(len(project.locations(site)) for site in sites) > 0
    assert store.read(np.array([0])).shape == (1, 5, 32, 32)
    # each plate has its own places for what each has
    wells = generate.layout(generate.checked(SMALL))
    assert sorted(w.label for w in wells[:6]) == sorted(w.label for w in wells[6:12])
    assert [w.label for w in wells[:6]] != [w.label for w in wells[6:12]]


def test_the_seed_fixes_every_pixel_and_processes_change_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate.write(tmp_path / "one", SMALL, 1)
    monkeypatch.setattr(generate, "_WORTH_PROCESSES", 0)
    generate.write(tmp_path / "two", SMALL, 2)
    generate.write(tmp_path / "other", {**SMALL, "seed": 1}, 1)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    images = [name for name in one if name.endswith(".png")]
    assert len(images) == 5 * 18 and all(one[name] != other.get(name) for name in images)


def test_a_killed_generation_goes_on(tmp_path: Path) -> None:
    program = f"from pathlib import Path; from models.cellprofiler import generate as g; g.write(Path({str(tmp_path)!r}) / 'cut', {SMALL}, 1)"  # noqa: E501
    running = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.rglob("*-Nuclei.csv"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = len(list(tmp_path.rglob("*-Nuclei.csv")))
    assert 3 <= there < 18
    generate.write(tmp_path / "cut", SMALL, 1)
    generate.write(tmp_path / "whole", SMALL, 1)
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")


def test_compounds_change_cells_and_the_solvent_does_not() -> None:
    rng = np.random.default_rng(0)
    usual = picture.cells(rng, rng.normal(0, 1, (150, len(picture.TRAITS))))
    assert usual.shape == (150, 5, 64, 64) and np.isfinite(usual).all()
    # each trait is seen somewhere, and none in how bright a stain is
    for number, trait in enumerate(picture.TRAITS):
        moved = np.zeros((150, len(picture.TRAITS)))
        moved[:, number] = 3
        strong, weak = (picture.cells(np.random.default_rng(1), sign * moved) for sign in (1, -1))
        assert np.abs(strong.mean(0) - weak.mean(0)).max() > 0.01, trait
        if trait != "cell_size":
            np.testing.assert_allclose(*(s.sum((2, 3)).mean(0) for s in (strong, weak)), rtol=0.12, err_msg=trait)
    found = generate.effects(generate.checked({"compounds": 6}))
    assert found.shape == (6, len(picture.TRAITS)) and (np.abs(found).max(1) > 0.5).all()
    alike = np.corrcoef(found)
    assert alike[0, 1] > alike[0, 2] and alike[2, 3] > alike[1, 2]  # pairs share a mechanism


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"plate": 3}, "unknown cells option plate; did you mean plates"),
        ({"plates": 2}, "plates is 2; it must be at least 3"),
        ({"compounds": 100}, "416 wells a plate"),
        ({"strength": "much"}, "strength is 'much'"),
        ({"cells": float("nan")}, "cells is nan"),
    ],
)  # fmt: skip
def test_impossible_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        generate.checked(options)


def test_another_project_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(tmp_path / "p"), *(f"--set={name}={value}" for name, value in SMALL.items())]
    assert main(words) == 0 and main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "p")
    before = _files(tmp_path / "p")
    assert main([*words, "--set=seed=5"]) == 2
    assert "holds another project" in capsys.readouterr().err and _files(tmp_path / "p") == before
