from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from ground.errors import BadInput
from models.ndt.templates import nested
from models.registry import get
from search_spaces import (
    RESERVED,
    Domain,
    corners,
    decide,
    load,
    load_space_json,
    load_template,
    names,
    prune,
    read_point,
)
from search_spaces.__main__ import main
from tests.conftest import ROOT
from tuner.setup import _check_settings, _space


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


NESTED = """
family: mean
fixed: {loss: mse, INIT: other/study}
space:
  optimizer: {choice: [adam, sgd]}
  momentum: {uniform: [0, 1], when: {optimizer: sgd}}
  depth: {randint: [1, 6]}
  layers: {choice: [[64, 128], [32, 32, 32]], when: {depth: [3, 4, 5]}}
  pool: {choice: [null, max], when: {layers: [[32, 32, 32]], optimizer: [adam, sgd]}}
  gain: {loguniform: [1e-3, 1], when: {pool: null, loss: mse}}
"""


@pytest.fixture
def nested_space(tmp_path: Path) -> Path:
    (tmp_path / "nested.yaml").write_text(NESTED)
    return tmp_path / "nested.yaml"


def test_conditions_and_structured_options(nested_space: Path) -> None:
    space = load(nested_space).space
    assert space["momentum"] == Domain("uniform", 0, 1, when={"optimizer": ("sgd",)})
    assert space["layers"].options == ([64, 128], [32, 32, 32])
    assert space["layers"].when == {"depth": (3, 4, 5)}
    assert space["pool"].options == (None, "max")
    assert space["gain"].when == {"pool": (None,)}  # the condition on the fixed loss is met, and gone
    assert load(nested_space).declared["gain"].when == {"pool": (None,), "loss": ("mse",)}
    for domain in space.values():
        assert Domain.from_json(json.loads(json.dumps(domain.to_json()))) == domain


@pytest.mark.parametrize(
    ("entry", "line", "words"),
    [
        ("b: {uniform: [0, 1], when: {optimiser: sgd}}", 5, "unknown parameter 'optimiser'; did you mean optimizer?"),
        ("b: {uniform: [0, 1], when: {optimizer: sdg}}", 5, "never has the value 'sdg'; did you mean sgd?"),
        ("b: {uniform: [0, 1], when: {depth: [3, 6]}}", 5, "never has the value 6; it runs from 1 to 5"),
        ("b: {uniform: [0, 1], when: {depth: true}}", 5, "never has the value True"),
        ("b: {uniform: [0, 1], when: {rate: 0.5}}", 5, "a choice or an integer parameter; rate is uniform"),
        ("b: {uniform: [0, 1], when: {loss: mae}}", 5, "b can never be active: loss is fixed to 'mse'"),
        ("b: {uniform: [0, 1], when: {}}", 5, "when takes parameters"),
        ("b: {uniform: [0, 1], when: sgd}", 5, "when takes parameters"),
        ("b: {uniform: [0, 1], when: {depth: []}}", 5, "when depth has what value"),
        ("b: {uniform: [0, 1], wehn: {depth: 1}}", 5, "unknown key 'wehn'; did you mean when?"),
        ("b: {uniform: [0, 1], randint: [0, 3]}", 5, "not both uniform and randint"),
        ("b: {when: {depth: 1}}", 5, "expected one of"),
        ("b: {choice: [2020-01-01]}", 5, "is no option"),
        ("b: {choice: [1, 2], when: {b: 1}}", 5, "the conditions go in a circle: b → b"),
        ("b:\n    choice: [1, 2]\n    when:\n      depth: 1\n      optimizer: sdg", 9, "never has the value 'sdg'"),
        (
            "b: {choice: [1, 2], when: {c: 1}}\n  c: {choice: [1, 2], when: {d: 1}}\n"
            "  d: {choice: [1, 2], when: {b: 1}}",
            5,
            "the conditions go in a circle: b → c → d → b",
        ),
        (
            "b: {choice: [1, 2], when: {optimizer: sgd}}\n  c: {uniform: [0, 1], when: {b: 1, optimizer: adam}}",
            6,
            "c can never be active: no value of optimizer meets all its conditions",
        ),
    ],
)
def test_conditions_that_mean_nothing(entry: str, line: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "family: mean\nfixed: {loss: mse}\nspace:\n"
        "  optimizer: {choice: [adam, sgd]}\n"
        f"  {entry}\n"
        "  depth: {randint: [1, 6]}\n  rate: {uniform: [0, 1]}\n"
    )
    with pytest.raises(BadInput) as error:
        load(path)
    text = str(error.value)
    assert text.startswith(f"{path}, line {line}: ")
    assert words in text
    assert "\n" not in text
    assert ": b" in text or ": c" in text  # the key


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"family: mean\nspace:\n  rate: {{uniform: [0, 1]}}\n  {name}: {{uniform: [0, 1]}}\n")
    with pytest.raises(BadInput, match=f"line 4: {name}: {name} "):
        load(path)
    (tmp_path / "s.json").write_text(json.dumps({name: {"low": 0, "high": 1}}))
    with pytest.raises(BadInput, match=name):
        load_space_json(tmp_path / "s.json")
    path.write_text(f"family: mean\nfixed:\n  {name}: a\nspace:\n  rate: {{uniform: [0, 1]}}\n")
    if name == "INIT":
        assert load(path).fixed == {"INIT": "a"}  # transfer from another study's checkpoint
    else:
        with pytest.raises(BadInput, match=f"line 3: {name} "):
            load(path)


def test_corners_activate_what_they_are_of(nested_space: Path) -> None:
    space = load(nested_space).space
    found = list(corners(space))
    for name, domain in space.items():
        own = [corner for corner in found if list(corner)[-1] == name]
        assert [corner[name] for corner in own] == list(domain.ends())
        for corner in own:
            assert prune(space, corner) == corner  # every parent is there, and nothing else
    assert {"optimizer": "sgd", "momentum": 0} in found
    assert {"depth": 3, "layers": [32, 32, 32], "optimizer": "adam", "pool": None, "gain": 1e-3} in found
    assert {"depth": 5} in found


def test_ends_are_checked_where_they_are_active(nested_space: Path) -> None:
    class Strict:
        snapshots: dict[str, Any] = {}
        checked: list[dict[str, Any]] = []

        def check(self, settings: dict[str, Any]) -> dict[str, Any]:
            if "momentum" in settings and settings.get("optimizer") != "sgd":
                raise BadInput("momentum is sgd's")
            if settings.get("momentum") == 1:
                raise BadInput("momentum 1 is too much")
            self.checked.append(settings)
            return settings

    with pytest.raises(BadInput, match="search space nested: momentum 1 is too much"):
        _check_settings(load(nested_space), Strict())  # type: ignore[arg-type]
    assert all(settings["loss"] == "mse" for settings in Strict.checked)


def command(path: Path, *assignments: str) -> argparse.Namespace:
    return argparse.Namespace(
        dataset=str(path), data=None, family=None, space=None, config=None, set=list(assignments), again=None
    )


def test_fixing_a_parent_on_the_command_line_settles_conditions(nested_space: Path) -> None:
    assert _space(command(nested_space)).space == load(nested_space).space
    sgd = _space(command(nested_space, "optimizer=sgd"))
    assert sgd.space["momentum"] == Domain("uniform", 0, 1)
    assert sgd.space["pool"].when == {"layers": ([32, 32, 32],)}
    adam = _space(command(nested_space, "optimizer=adam"))
    assert "momentum" not in adam.space
    shallow = _space(command(nested_space, "depth=2"))
    assert list(shallow.space) == ["optimizer", "momentum"]  # layers, and what hangs on them, are gone
    deep = _space(command(nested_space, "layers=[32, 32, 32]", "pool=null"))
    assert deep.space["gain"].when == {}
    with_data = _space(command(nested_space, "data.extra=[a, b]", "depth=2"))  # a key of the data block
    assert with_data.data == {**load(nested_space).data, "extra": ["a", "b"]} and "data.extra" not in with_data.fixed
    other = _space(command(nested_space, "loss=mae"))  # fixed otherwise than in the file
    assert "gain" not in other.space


def test_decide_keeps_the_order() -> None:
    space = {
        "b": Domain("uniform", 0, 1, when={"a": (1,), "z": ("on",)}),
        "a": Domain("choice", options=(1, True)),
        "c": Domain("uniform", 0, 1, when={"z": ("off",)}),
    }
    found = decide(space, {"z": "on"})
    assert list(found) == ["b", "a"]
    assert found["b"].when == {"a": (1,)}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.lists(VALUES, min_size=1, max_size=5),
    st.dictionaries(st.text(min_size=1, max_size=4), st.lists(VALUES, min_size=1, max_size=3).map(tuple), max_size=2),
)
def test_domains_survive_json(options: list[Any], when: dict[str, tuple[Any, ...]]) -> None:
    for domain in (Domain("choice", options=tuple(options), when=when), Domain("lograndint", 1, 9, when=when)):
        again = Domain.from_json(json.loads(json.dumps(domain.to_json())))
        assert again == domain
        assert repr(again) == repr(domain)  # 1, 1.0 and True are equal to Python, not to us


def test_values_are_themselves() -> None:
    domain = Domain("choice", options=(1, True, None, [1, [2]], "1"))
    assert [domain.position(v) for v in (1, 1.0, True, None, [1, [2]], (1, (2,)), "1")] == [0, 0, 1, 2, 3, 3, 4]
    assert not domain.contains(False)
    assert not domain.contains([1, [True]])
    with pytest.raises(ValueError, match="none of the options"):
        domain.position(0)


def test_rows_of_a_table_are_read(nested_space: Path) -> None:
    """As pandas gives them: empty cells are NaN, integers among them floats, lists text."""
    space = load(nested_space).space
    row = {"optimizer": "adam", "momentum": math.nan, "depth": 4.0, "layers": "[32, 32, 32]", "pool": math.nan,
           "gain": 0.5, "seconds": 3}  # fmt: skip
    point = {"optimizer": "adam", "depth": 4, "layers": [32, 32, 32], "pool": None, "gain": 0.5}
    assert read_point(space, row) == point
    assert read_point(space, {**row, "depth": 1.0}) == {"optimizer": "adam", "depth": 1}
    mixed = Domain("choice", options=("relu", True, 3))
    assert [mixed.read(cell) for cell in ("relu", "True", "3", "gelu")] == ["relu", True, 3, "gelu"]
