from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from ground.errors import BadInput
from models.ndt.templates import nested
from models.registry import get
from search_spaces import Domain, load, load_space_json, load_template, names
from search_spaces.__main__ import main
from tests.conftest import ROOT
from tuner.setup import _check_settings


@pytest.mark.parametrize("name", names())
def test_every_space_loads_and_fits_its_family(name: str) -> None:
    space = load(name)
    _check_settings(space, get(space.family))
    assert space.description


def test_the_winners_space_is_all_there() -> None:
    space = load("mc_maze").space
    assert len(space) == 12
    assert space["TRAIN.LR.INIT"].kind == "loguniform"  # they drew it uniformly: a slip
    assert (space["MODEL.CONTEXT_FORWARD"].low, space["MODEL.CONTEXT_FORWARD"].high) == (10, 100)
    area2 = load("area2_bump")
    assert area2.fixed["MODEL.EMBED_DIM"] == 2
    assert "TRAIN.LR.WARMUP" not in area2.space
    assert load("dmfc_rsg").fixed["MODEL.NUM_LAYERS"] == 6


def test_published_json_spaces_load(tmp_path: Path) -> None:
    content = {
        "MODEL.DROPOUT": {"low": 0.3, "high": 0.7, "sample_fn": "uniform"},
        "TRAIN.LR.INIT": {"low": 1e-5, "high": 5e-3, "sample_fn": "loguniform"},
        "MODEL.CONTEXT_FORWARD": {"low": 10, "high": 100, "sample_fn": "randint"},
        "MODEL.PRE_NORM": {"opts": [True, False], "sample_fn": "choice"},
        "TRAIN.MASK_RATIO": {"low": 0.1, "high": 0.4},
    }
    (tmp_path / "s.json").write_text(json.dumps(content))
    space = load_space_json(tmp_path / "s.json")
    assert space["TRAIN.MASK_RATIO"] == Domain("uniform", 0.1, 0.4)
    assert space["MODEL.PRE_NORM"].options == (True, False)
    assert space["MODEL.CONTEXT_FORWARD"].integer


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1"),
        ("[]", "mapping"),
        ('{"a": 3}', "mapping"),
        ('{"a": {"low": 1}}', "missing 'high'"),
        ('{"a": {"low": 2, "high": 1}}', "not below"),
        ('{"a": {"low": 0, "high": 1, "sample_fn": "quniform"}}', "unknown sample_fn"),
        ('{"a": {"opts": []}}', "at least one"),
        ('{"a": {"lo": 0, "high": 1}}', "unknown key 'lo'"),
    ],
)
def test_bad_json_spaces(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(BadInput, match=words):
        load_space_json(tmp_path / "s.json")


def test_generated_configs_come_back_as_they_were(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 0
    folder = home / "configs"
    for name in search_spaces.names():
        space = load(name)
        if "dataset" not in space.data:
            continue
        assert load_space_json(folder / f"{name}.json") == space.space
        template = load_template(folder / f"{name}.yaml")
        assert {k: v for k, v in template.items() if not k.startswith("DATA.")} == space.fixed
        assert get("ndt").check(template)
    (folder / "mc_maze.yaml").write_text("mine")
    assert main(["generate"]) == 0  # what is there stays
    assert (folder / "mc_maze.yaml").read_text() == "mine"
    assert "left alone" in capsys.readouterr().out


def test_only_families_that_come_from_another_program_have_its_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCERT_FAMILIES", str(ROOT / "tests/families"))
    monkeypatch.setenv("CONCERT_SPACES", str(ROOT / "tests/families"))
    assert "mean" in names()
    assert main(["generate", "--into", str(tmp_path)]) == 0
    written = {path.stem for path in tmp_path.iterdir()}
    assert written == {name for name in names() if "dataset" in load(name).data and load(name).family == "ndt"}
    assert main(["generate", "--family", "mean"]) == 2
    assert "--family mean: this family has no original_space" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "mc_maze_small" in capsys.readouterr().out


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,6}", fullmatch=True), st.integers(), max_size=5))
def test_nesting_and_flattening(flat: dict[str, int]) -> None:
    from models.ndt.original import flatten

    dotted = {f"MODEL.{key}": value for key, value in flat.items()}
    assert flatten(nested(dotted)) == dotted
