"""The holdout: whole groups that nothing of a search sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models import registry
from models.base import Family
from studies.data import group_of_each, split
from tests.models.test_registry import HERE


class Grouped:
    """A family as `split` sees it."""

    name = "grouped"

    def __init__(self, groups: np.ndarray) -> None:
        self.of = groups

    def groups(self, data: Any) -> np.ndarray:
        return self.of

    def truth(self, data: Any) -> Any:
        return {"value": np.zeros(len(self.of))}

    def scorer(self, truth: Any) -> Any:
        class Count:
            samples = len(self.of)

        return Count()


@given(st.lists(st.integers(0, 8), min_size=3, max_size=60), st.floats(0.05, 0.6), st.integers(0, 99))
@settings(max_examples=100)
def test_groups_are_never_split_and_nothing_is_lost(groups: list[int], share: float, seed: int) -> None:
    of = np.array(groups)
    family: Any = Grouped(of)
    if len(set(groups)) == 1:
        with pytest.raises(BadInput):
            split(family, None, share, seed)
        return
    searched, held = split(family, None, share, seed)
    assert sorted([*searched, *held]) == list(range(len(of)))
    assert not set(of[searched]) & set(of[held])
    count = len(set(groups))
    assert len(set(of[held])) == max(1, round(share * count))
    again = split(family, None, share, seed)
    assert np.array_equal(again[1], held)


def test_the_search_does_not_see_the_holdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.study import Study

    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    np.savetxt(tmp_path / "values.txt", np.arange(40.0))
    config = {"family": "mean", "data": {"path": str(tmp_path / "values.txt")}, "seed": 3, "holdout": 0.25,
              "fingerprint": None}  # fmt: skip
    study = Study(tmp_path, config)
    seen, held = study.load_data(), study.holdout()
    assert len(seen["eval"]) == 15
    assert held is not None
    assert sorted([*seen["eval"], *held["eval"]]) == list(np.arange(1.0, 40.0, 2))
    assert np.array_equal(seen["train"], held["train"])
    assert Study(tmp_path, {**config, "holdout": None}).holdout() is None


def test_data_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.study import Study

    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    family: Family = registry.get("mean")
    data = {"path": str(tmp_path / "values.txt")}
    np.savetxt(data["path"], np.arange(40.0))
    study = Study(tmp_path, {"family": "mean", "data": data, "seed": 0, "fingerprint": family.fingerprint(data)})
    study.load_data()
    np.savetxt(data["path"], np.arange(1.0, 41.0))
    other = Study(tmp_path, {**study.config, "data": dict(data)})
    from studies import data as module

    for cached in (module._load, module._fingerprint):
        cached.cache_clear()  # as in another process
    with pytest.raises(BadInput, match="has changed"):
        other.load_data()


def test_a_process_looks_at_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies import data as module
    from studies.study import Study

    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    family: Family = registry.get("mean")
    calls: list[str] = []
    for name in ("fingerprint", "load", "subset"):
        real = getattr(type(family), name)
        monkeypatch.setattr(
            type(family), name, lambda self, *given, name=name, real=real: calls.append(name) or real(self, *given)
        )
    data = {"path": str(tmp_path / "values.txt")}
    np.savetxt(data["path"], np.arange(40.0))
    known = {"family": "mean", "data": data, "seed": 0, "fingerprint": module.fingerprint(family, data)}
    for _ in range(3):  # as many trials
        Study(tmp_path, {**known, "holdout": 0.25}).load_data()
    assert calls == ["fingerprint", "load", "subset"]


def test_wrong_groups_are_said() -> None:
    family: Any = Grouped(np.zeros(4))
    with pytest.raises(BadInput, match="groups"):
        group_of_each(family, None, 5)
