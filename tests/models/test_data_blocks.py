"""Whatever stands in a `data` block, each family's options are what they declare, or one line says what is wrong."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ground.errors import BadInput
from tests.conftest import ROOT

MODULES = {path.parent.name: f"models.{path.parent.name}.options" for path in ROOT.glob("models/*/options.py")}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x" * 5000, "\x1b[2J", "../..", "a\nb", ""])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def test_every_family_declares_its_block() -> None:
    assert set(MODULES) == {path.parent.name for path in ROOT.glob("models/*/__init__.py")}


@pytest.mark.parametrize("family", MODULES)
@given(drawn=st.data())
def test_a_block_is_as_declared_or_refused_in_one_line(family: str, drawn: Any) -> None:
    module = importlib.import_module(MODULES[family])
    names = [field.name for field in dataclasses.fields(module.Options)]
    key = st.sampled_from([*names, names[0] + "s", "", "\x1b[1m", "x" * 3000])
    block = drawn.draw(st.dictionaries(key, VALUES, max_size=4))
    try:
        options = module.resolve(block)
    except BadInput as error:
        said = str(error)
        assert said.isprintable() and len(said) < 500
        return
    hints = get_type_hints(module.Options, include_extras=True)
    for name in names:
        TypeAdapter(hints[name]).validate_python(getattr(options, name), strict=True)
