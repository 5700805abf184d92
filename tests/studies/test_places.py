"""Studies by name, whatever their family: found in one folder a family, or in RAY_TUNE_HOME."""

from __future__ import annotations

from pathlib import Path

import pytest

from ground.errors import BadInput
from models.registry import EXTRA_FOLDERS, get
from studies import places
from tests.conftest import ROOT

NDT = "ray_results/neural-data-transformer"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTRA_FOLDERS, str(ROOT / "tests/families"))


def put(folder: Path, mark: str = "study.json") -> Path:
    folder.mkdir(parents=True)
    (folder / mark).write_text("{}")
    return folder


def test_each_family_has_its_folder_and_the_ndt_the_original_programs(home: Path) -> None:
    assert places.place("a", get("ndt")) == home / NDT / "a"
    assert places.place("a", get("mean")) == home / "ray_results/mean/a"
    assert places.place("./a", get("mean")) == Path("a")


def test_a_name_is_found_whatever_its_family(home: Path) -> None:
    one, other = put(home / NDT / "one"), put(home / "ray_results/mean/other")
    assert places.find("one") == one
    assert places.find("other") == other
    assert places.homes() == [other.parent, one.parent]


def test_a_copied_ensemble_is_found_by_name(home: Path) -> None:
    place = put(home / "ray_results/mean/kept", "ensemble.json")
    assert places.find("kept") == place


def test_a_name_that_two_families_use_is_refused_with_both_paths(home: Path) -> None:
    both = [put(home / NDT / "twin"), put(home / "ray_results/mean/twin")]
    with pytest.raises(BadInput) as error:
        places.find("twin")
    assert all(str(path) in str(error.value) for path in both)
    assert "\n" not in str(error.value)
    assert places.find(str(both[1])) == both[1]  # the path of one is


def test_a_folder_that_is_no_study_is_not_found(home: Path) -> None:
    (home / NDT / "notes").mkdir(parents=True)
    (home / "ray_results" / "study.json").write_text("{}")
    with pytest.raises(BadInput, match=f"no study notes in {home / 'ray_results'}"):
        places.find("notes")


def test_nothing_is_there_yet(home: Path) -> None:
    assert places.homes() == []
    with pytest.raises(BadInput, match="no study lorenz in"):
        places.find("lorenz")


def test_ray_tune_home_is_the_only_place_for_those_who_set_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(home / NDT / "old")
    monkeypatch.setenv(places.HOME, str(tmp_path / "results"))
    mine = put(tmp_path / "results" / "mine")
    for family in ("ndt", "mean"):
        assert places.studies_home(get(family)) == tmp_path / "results"
        assert places.place("mine", get(family)) == mine
    assert places.find("mine") == mine
    with pytest.raises(BadInput, match=f"no study old in {tmp_path / 'results'}"):
        places.find("old")
    assert places.find(str(old)) == old


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden"])
def test_names_that_cannot_be_a_study(name: str) -> None:
    for call in (lambda: places.find(name), lambda: places.place(name, get("ndt"))):
        with pytest.raises(BadInput, match="cannot name a study"):
            call()
