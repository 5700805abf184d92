"""A study's data: read once a process, and split where part of the validation samples is held out."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ground.errors import BadInput
from models.base import Family
from models.registry import get


def load(family: Family, config: Mapping[str, Any], phase: str, fingerprint: str | None = None) -> Any:
    """`Family.load`, once a process for the same data: trials that follow each other share it.

    Args:
        fingerprint: what the data must be, as `Family.fingerprint` says; None where that is not known.

    Raises:
        BadInput: missing, unreadable or wrong data, or other data than was begun with.
    """
    return _load(family.name, json.dumps(config, sort_keys=True), phase, fingerprint)


def load_part(
    family: Family, config: Mapping[str, Any], fingerprint: str | None, share: float, seed: int, held: bool
) -> Any:
    """The data of phase "val" with only the validation samples that the search sees, or only those held out; once a
    process, as `load`.

    Args:
        share, seed: as `split` takes them.
        held: which of the two.

    Raises:
        BadInput: as `load` and `split`.
    """
    return _load_part(family.name, json.dumps(config, sort_keys=True), fingerprint, share, seed, held)


def fingerprint(family: Family, config: Mapping[str, Any]) -> str:
    """`Family.fingerprint`, once a process for the same data, as `load`."""
    return _fingerprint(family.name, json.dumps(config, sort_keys=True))


@functools.lru_cache(maxsize=2)
def _load(name: str, text: str, phase: str, fingerprint: str | None) -> Any:
    if fingerprint is not None and _fingerprint(name, text) != fingerprint:
        raise BadInput("the data has changed since the study began; search it under a new --study name")
    return get(name).load(json.loads(text), phase)


@functools.lru_cache(maxsize=2)
def _load_part(name: str, text: str, fingerprint: str | None, share: float, seed: int, held: bool) -> Any:
    family, data = get(name).of(json.loads(text)), _load(name, text, "val", fingerprint)
    searched, held_out = split(family, data, share, seed)
    return family.subset(data, held_out if held else searched)


@functools.lru_cache(maxsize=2)
def _fingerprint(name: str, text: str) -> str:
    return get(name).fingerprint(json.loads(text))


def group_of_each(family: Family, data: Any, samples: int) -> np.ndarray:
    """(samples,) integers: `Family.groups`, or each sample by itself."""
    groups = family.groups(data)
    found = np.arange(samples) if groups is None else np.asarray(groups)
    if found.shape != (samples,):
        raise BadInput(f"family {family.name} groups {found.shape} samples of {samples}")
    return np.unique(found, return_inverse=True)[1]


def split(family: Family, data: Any, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Validation samples for the search, and those held out: whole groups, drawn by the seed.

    Args:
        share: of the groups, above 0 and below 1.

    Returns:
        Two ascending index arrays.

    Raises:
        BadInput: too few groups to hold any out.
    """
    groups = group_of_each(family, data, family.scorer(family.truth(data)).samples)
    count = int(groups.max()) + 1
    out = max(1, round(share * count))
    if count - out < 1:
        raise BadInput(f"a holdout of {share:g} leaves none of the {count} validation groups to search with")
    held = np.random.default_rng([seed, 0x401D]).permutation(count)[:out]
    is_held = np.isin(groups, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
