"""A family is one folder and one search space, here or elsewhere: nothing else in the repository is edited."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models import registry
from tests.conftest import ROOT, run

MEAN = (ROOT / "tests/families/mean/__init__.py").read_text(encoding="utf-8")


def by_folder(place: Path) -> dict[str, str]:
    """The family `outside`, in a folder that CONCERT_FAMILIES names."""
    (place / "families/outside").mkdir(parents=True)
    (place / "families/outside/__init__.py").write_text(MEAN.replace('name = "mean"', 'name = "outside"'))
    return {registry.EXTRA_FOLDERS: str(place / "families")}


def by_entry_point(
    place: Path, name: str = "outside", target: str = "somebodys_models.voltages:FAMILY"
) -> dict[str, str]:
    """The same in a package of somebody's, as pip would have installed it."""
    package = place / "site/somebodys_models"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "voltages.py").write_text(MEAN.replace('name = "mean"', 'name = "outside"'))
    info = place / f"site/{name}_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {target}\n")
    return {"PYTHONPATH": str(place / "site")}


@pytest.mark.parametrize(
    "way", [by_folder, pytest.param(by_entry_point, marks=pytest.mark.slow)], ids=["folder", "entry point"]
)
def test_search_ensemble_and_prediction_of_a_family_from_elsewhere(way: object, tmp_path: Path, home: Path) -> None:
    env = way(tmp_path)  # type: ignore[operator]
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces/measured.yaml").write_text(
        "family: outside\ndata: {path: " + str(tmp_path / "values.txt") + "}\n"
        "space:\n  rate: {loguniform: [0.01, 0.9]}\nbudget: {samples: 3}\n"
    )
    env["CONCERT_SPACES"] = str(tmp_path / "spaces")
    values = np.random.default_rng(0).normal(4.0, 1.0, 40)
    np.savetxt(tmp_path / "values.txt", values)
    np.savetxt(tmp_path / "new.txt", values[:10])
    searched = run("run_hyperopt.py", "measured", "--workers", 2, env=env)
    assert searched.returncode == 0, searched.stderr
    assert (home / "ray_results/outside/measured/ensemble/ensemble.json").exists()
    predicted = run("-m", "ensembles", "predict", "measured", tmp_path / "new.txt", "-o", tmp_path / "p.h5", env=env)
    assert predicted.returncode == 0, predicted.stderr
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["value"].shape == (5,)
    listed = run("-m", "search_spaces", "list", env=env)
    assert "measured" in listed.stdout
    # its score is not of the NLB: the family has no evaluation, and says so
    scored = run("-m", "ensembles", "score", "measured", env=env)
    assert scored.returncode == 2
    assert "family outside has no evaluation of its own" in scored.stderr


BROKEN = {
    "no such module": ("import no_such_package", "cannot be imported (ModuleNotFoundError: No module named"),
    "an error of its own": (
        "raise RuntimeError('no licence\\nfound')",
        "cannot be imported (RuntimeError: no licence)",
    ),
    "syntax": ("def", "cannot be imported (SyntaxError"),
    "no family": ("FAMILY = 3", "has no FAMILY"),
    "abstract": ("from models.base import Family\nclass F(Family): name = 'x'\nFAMILY = F()", "TypeError"),
    "another name": (MEAN, "calls itself 'mean'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_family_that_cannot_be_used_is_one_line_and_no_hindrance(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, words = BROKEN[case]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").write_text(source)
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(tmp_path))
    with pytest.raises(BadInput) as error:
        registry.get("broken")
    assert "model family 'broken'" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "concert_family_broken" not in sys.modules or case in ("no family", "abstract", "another name")
    assert registry.choose("validate_submission").name == "ndt"
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_entry_point_that_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    env = by_entry_point(tmp_path, "lost", "somebodys_models.gone:FAMILY")
    done = run("run_hyperopt.py", "--data", ROOT / "README.md", "--family", "lost", env=env)
    assert done.returncode == 2
    assert "model family 'lost' cannot be imported (ModuleNotFoundError" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_packages_of_one_name_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_entry_point(tmp_path)
    other = tmp_path / "site/others-1.0.dist-info"
    shutil.copytree(tmp_path / "site/outside_models-1.0.dist-info", other)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{registry.GROUP}]\noutside = others:FAMILY\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(BadInput, match=r"'outside' is registered by others:FAMILY, somebodys_models.voltages:FAMILY"):
        registry.get("outside")


TWO = MEAN.replace('name = "mean"', 'name = "two"').replace(
    "class MeanFamily(Family):",
    "class MeanFamily(Family):\n    def evaluate(self, *given): return {'d': {'m': 1.0}}\n"
    "    def submission(self, *given): return None\n",
)


def test_where_two_families_have_a_hook_the_user_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ensembles.__main__ import main

    (tmp_path / "families/two").mkdir(parents=True)
    (tmp_path / "families/two/__init__.py").write_text(TWO)
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(tmp_path / "families"))
    file = tmp_path / "s.h5"
    file.write_bytes(b"")
    handing_in = [family.name for family in registry.having("submission")]
    assert {"ndt", "two"} <= set(handing_in)
    assert main(["score", str(file), "--target", str(file)]) == 2
    assert f"families {', '.join(handing_in)} have submission; say which with --family NAME" in capsys.readouterr().err
    assert main(["score", str(file), "--target", str(file), "--family", "two"]) == 0
    assert "FINAL TEST" in capsys.readouterr().out
    # without a target it is what the family says
    assert main(["score", str(file), "--family", "two"]) == 0
    assert "FINAL TEST" not in capsys.readouterr().out
    monkeypatch.setattr(registry.get("two"), "evaluated", "test")
    assert main(["score", str(file), "--family", "two"]) == 0
    assert "FINAL TEST" in capsys.readouterr().out
    with pytest.raises(BadInput, match="no model family here has open"):
        monkeypatch.setattr(registry, "every", list)
        registry.choose("open")


def test_setup_installs_what_a_familys_folder_asks_for(tmp_path: Path) -> None:
    """setup.sh with a pip that only writes down what it is told."""
    for name in ("setup.sh", "requirements.txt", "requirements-no-deps.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "models/new").mkdir(parents=True)
    wanted, bare = tmp_path / "models/new/requirements.txt", tmp_path / "models/new/requirements-no-deps.txt"
    wanted.write_text("tifffile==2026.1\n")
    python, told = tmp_path / ".venv/bin/python", tmp_path / "told"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def setup(*more: str) -> list[str]:
        told.write_text("")
        command = ["bash", str(tmp_path / "setup.sh"), *more]
        subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable}, capture_output=True)
        return told.read_text().splitlines()

    first = setup()
    assert [line.split("--quiet ")[1] for line in first] == [
        "-rrequirements.txt -rmodels/new/requirements.txt",
        "--no-deps -rrequirements-no-deps.txt",
    ]
    assert setup() == []  # nothing has changed
    wanted.write_text("tifffile==2026.2\n")
    assert any("models/new/requirements.txt" in line for line in setup())
    bare.write_text("odd==1.0\n")
    assert any("--no-deps" in line and "models/new/requirements-no-deps.txt" in line for line in setup())
    assert setup() == []
    assert any("requirements-dev.txt" in line for line in setup("--dev"))
    shutil.rmtree(tmp_path / "models/new")
    assert setup("--dev") != []
