"""What comes from outside is bounded and plain, or it is one line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.documents import MOST_BYTES, parse_json, parse_yaml, read_text, read_yaml
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.settings import assignments

TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ABC.", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_what_people_write_is_read(value: object) -> None:
    assert parse_yaml(yaml.safe_dump(value), "x") == value


@settings(max_examples=300)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            parse(text, "file")
        except BadInput as error:
            assert str(error).startswith("file") and "\n" not in str(error)


BOMB = "a: &a [x, x]\n" + "".join(f"k{i}: &k{i} [*{'a' if not i else f'k{i - 1}'}, *a, *a, *a]\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "words"),
    [(BOMB, "over 100 aliases"), ("[" * 5000, "line 1: nested deeper than 40"), ("a: " + "9" * 5000, "not valid YAML"),
     ("a: 2020-13-45", "not valid YAML"), ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
     ("{" * 10 + "a", "not valid YAML")],
)  # fmt: skip
def test_bombs_are_refused_before_they_go_off(text: str, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(BadInput, match="x") as error:
        parse_yaml(text, "x")
    assert words in str(error.value) and len(str(error.value)) < 200
    assert time.monotonic() - begun < 20


def test_deep_json_is_refused() -> None:
    with pytest.raises(BadInput, match="x: not valid JSON"):
        parse_json("[" * 200_000, "x")


def test_only_regular_files_of_some_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MOST_BYTES + 1)
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for name, words in (
        ("pipe", "no regular file"),
        ("large", "are the most"),
        ("latin", "no UTF-8"),
        ("gone", "no such"),
    ):
        with pytest.raises(BadInput, match=words):
            read_text(tmp_path / name)
    with pytest.raises(BadInput, match="no regular file"):
        read_text(Path("/dev/zero"))
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadInput, match="no regular file"), reading_hdf5(path):
            pass
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(BadInput, match="expected a mapping"):
        read_yaml(tmp_path / "list.yaml")


def test_hdf5_whose_data_lie_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"12345678")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.arange(4.0)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["inner/far"] = h5py.ExternalLink("other.h5", "/a")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("raw", (8,), "u1", external=[(str(tmp_path / "secret"), 0, 8)])
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "a", (4,))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("seen", layout)
    for name, words in (("link", "inner/far is a link"), ("external", "raw has its"), ("virtual", "seen has its")):
        with pytest.raises(BadInput, match=words), reading_hdf5(tmp_path / f"{name}.h5"):
            pass
    with reading_hdf5(tmp_path / "other.h5") as file:
        assert file["a"].shape == (4,)


def test_words_of_a_command_line() -> None:
    assert assignments(["A=1", "B=1e-3", "C=[a, 2]", "D=x=y", "E="]) == {
        "A": 1, "B": 0.001, "C": ["a", 2], "D": "x=y", "E": None,
    }  # fmt: skip
    for word, words in (("A", "expected NAME=VALUE"), ("=1", "expected"), ("A=[", "not valid YAML")):
        with pytest.raises(BadInput, match=words):
            assignments([word])
