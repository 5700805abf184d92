"""Searchers by name. To add one: subclass `SpaceSearcher` in a file here and name it in `_SEARCHERS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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


def create(
    name: str,
    space: Mapping[str, Domain],
    metric: str,
    mode: str,
    seed: int,
    feasible: Callable[[Mapping[str, Any]], bool] | None = None,
) -> SpaceSearcher:
    """The searcher of that name, seeded; it proposes `feasible` points only."""
    module, kind = _SEARCHERS[name]
    searcher: SpaceSearcher = getattr(importlib.import_module(f"tuner.searchers.{module}"), kind)(
        space, metric, mode, seed
    )
    if feasible is not None:
        searcher.feasible = feasible
    return searcher
