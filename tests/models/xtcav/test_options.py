"""The keys of a data block: what is refused, and with which hint."""

from __future__ import annotations

from typing import Any

import pytest

from ground.errors import BadInput
from models.xtcav.options import resolve


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"path": "x", "lable": "y"}, "did you mean label"),
        ({"path": "x", "qqqqqqqq": 1}, "known are"),
        ({}, "path or generator"),
        ({"path": "x", "generator": "xtcav"}, "path or generator"),
        ({"path": "x", "options": {"files": 2}}, "generator"),
        ({"generator": "lorenz"}, "xtcav"),
        ({"path": 3}, "text"),
        ({"path": "x", "split": [0.5, 0.5]}, "shares"),
        ({"path": "x", "split": [0.5, 0.4, 0.2]}, "sum to 1"),
        ({"path": "x", "split": [1, 0, 0]}, "above 0"),
        ({"path": "x", "block": 0}, "at least 1"),
        ({"path": "x", "block": 1.5}, "whole"),
        ({"path": "x", "ratio": -1}, "at least 0"),
        ({"path": "x", "cache_mb": float("nan")}, "number"),
        ({"path": "x", "strict": 1}, "true or false"),
        ({"path": "x", "scalars": [1]}, "scalars.0 is 1; it takes text"),
        ({"path": "x", "task": "guess"}, "regression"),
        ({"path": "x", "task": "regression"}, "targets"),
    ],
)
def test_wrong_blocks_are_one_line(block: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        resolve(block)
    assert "\n" not in str(error.value)


def test_a_single_name_is_a_list_of_one() -> None:
    found = resolve({"path": "x", "scalars": "a", "preprocess": {"downsample": 2}, "ratio": 2})
    assert (found.scalars, found.preprocess, found.ratio) == (("a",), ({"downsample": 2},), 2.0)
