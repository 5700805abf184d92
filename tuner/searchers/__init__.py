"""Searchers by name. To add one: subclass `SpaceSearcher` in a file here and name it in `_SEARCHERS`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces import Domain

if TYPE_CHECKING:
    from tuner.searchers.base import SpaceSearcher

# name -> module and class; imported when asked for, as Ray and the libraries behind them take seconds
_SEARCHERS = {
    "skopt": ("skopt_search", "SkOptSearch"),
    "random": ("random_search", "RandomSearch"),
    "optuna": ("optuna_search", "OptunaGPSearch"),
}


def names() -> tuple[str, ...]:
    return tuple(_SEARCHERS)


def create(name: str, space: Mapping[str, Domain], metric: str, mode: str, seed: int) -> SpaceSearcher:
    """The searcher of that name, seeded."""
    module, kind = _SEARCHERS[name]
    searcher: SpaceSearcher = getattr(importlib.import_module(f"tuner.searchers.{module}"), kind)(
        space, metric, mode, seed
    )
    return searcher
