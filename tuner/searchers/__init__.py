"""Searchers by name. To add one: subclass `SpaceSearcher` in a file here and name it in `_SEARCHERS`."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces import Domain
from tuner.searchers.base import SpaceSearcher
from tuner.searchers.optuna_search import OptunaGPSearch
from tuner.searchers.random_search import RandomSearch
from tuner.searchers.skopt_search import SkOptSearch

_SEARCHERS: dict[str, type[SpaceSearcher]] = {
    "skopt": SkOptSearch,
    "random": RandomSearch,
    "optuna": OptunaGPSearch,
}


def names() -> list[str]:
    return list(_SEARCHERS)


def create(name: str, space: Mapping[str, Domain], metric: str, mode: str, seed: int) -> SpaceSearcher:
    """The searcher of that name, seeded."""
    return _SEARCHERS[name](space, metric, mode, seed)


__all__ = ["OptunaGPSearch", "RandomSearch", "SkOptSearch", "SpaceSearcher", "create", "names"]
