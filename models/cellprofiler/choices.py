"""Choices that need no retraining: layer, mean or median, λ of the sphering. Made on stored features of cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from models.base import Diverged
from models.cellprofiler.scorers import MeanAveragePrecision, cosines
from models.cellprofiler.sphering import Sphering
from models.cellprofiler.wells import AGGREGATES, Wells, profiles

LAMBDAS: tuple[float | None, ...] = (1e-3, 1e-2, 1e-1, 1.0)
"""Relative to the mean eigenvalue; None: standardised on controls, not sphered."""


@dataclass(frozen=True)
class Choice:
    """How cells' features become a well's profile."""

    layer: str
    aggregate: str
    lam: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Chosen:
    """The best choice and what it gives.

    Attributes:
        choice: the best.
        profile: (samples, d) float32, rows of unit length.
        similarity: (samples, gallery) float32 cosines.
        sphering: fitted on the controls of these wells.
        map: mean average precision of the choice; NaN where no sample has anything to find.
        table: a row a choice, best first: layer, aggregate, lam, map.
    """

    choice: Choice
    profile: np.ndarray
    similarity: np.ndarray
    sphering: Sphering
    map: float
    table: pd.DataFrame


def choose(
    features: Mapping[str, np.ndarray],
    wells: Wells,
    well_of: np.ndarray,
    samples: np.ndarray,
    layers: Sequence[str] | None = None,
    aggregates: Sequence[str] = AGGREGATES,
    lambdas: Sequence[float | None] = LAMBDAS,
    pairs: str = "any",
    gallery: np.ndarray | None = None,
) -> Chosen:
    """The choice with the best mean average precision; of equals the first.

    Args:
        features: of each layer (cells, d).
        wells: all wells, controls among them.
        well_of: (cells,) the row of `wells` of each cell.
        samples: rows of `wells` that are scored, ascending.
        layers: which of them to try (default: all of `features`).
        aggregates: "mean", "median".
        lambdas: see `LAMBDAS`.
        pairs: "any", or "plates": wells on other plates only are to be found.
        gallery: rows of `wells` that are ranked, ascending, the samples among them (default: the samples).
    """
    tried = (
        (layer, how, profiles(features[layer], well_of, len(wells), how))
        for layer in (features if layers is None else layers)
        for how in aggregates
    )
    return choose_profile(tried, wells, samples, lambdas, pairs, gallery)


def choose_profile(
    tried: Iterable[tuple[str, str, np.ndarray]],
    wells: Wells,
    samples: np.ndarray,
    lambdas: Sequence[float | None] = LAMBDAS,
    pairs: str = "any",
    gallery: np.ndarray | None = None,
) -> Chosen:
    """`choose` for profiles of wells that are there already.

    Args:
        tried: (layer, aggregate, profiles of all wells (len(wells), d)).

    Raises:
        Diverged: a feature is not finite.
        ValueError: there is nothing to choose from.
    """
    gallery = samples if gallery is None else gallery
    scorer = scorer_of(wells, samples, gallery, pairs)
    rows: list[dict[str, Any]] = []
    best: tuple[Choice, np.ndarray, np.ndarray, Sphering] | None = None
    best_map = np.nan
    for layer, how, profile in tried:
        if not np.isfinite(profile).all():
            raise Diverged(f"features of layer {layer} are not finite")
        fitted = Sphering.fit(profile, wells.plate, wells.control, lambdas[0])
        for lam in lambdas:
            sphering = fitted.at(lam)
            found = sphering.transform(profile[gallery], wells.plate[gallery])
            similarity = cosines(found[scorer.queries], found)
            value = scorer.score({"similarity": similarity})
            rows.append({"layer": layer, "aggregate": how, "lam": lam, "map": value})
            if best is None or value > best_map or (np.isnan(best_map) and np.isfinite(value)):
                best = Choice(layer, how, lam), found[scorer.queries], similarity, sphering
                best_map = value
    if best is None:
        raise ValueError("no layer, aggregate or λ to choose from")
    table = pd.DataFrame(rows).sort_values("map", ascending=False, kind="stable", ignore_index=True)
    return Chosen(*best, map=float(best_map), table=table)


def apply(choice: Choice, sphering: Sphering, profile: np.ndarray, wells: Wells, rows: np.ndarray) -> np.ndarray:
    """Profiles (len(rows), d) of some of other wells by a choice that was made before, of unit length.

    Args:
        sphering: the one that came with the choice; where these wells have controls of their own, fitted anew on them.
        profile: (len(wells), d) of the choice's layer and aggregate.
        rows: of `wells`.
    """
    own = sphering.for_wells(profile, wells.plate, wells.control).at(choice.lam)
    return own.transform(profile[rows], wells.plate[rows])


def scorer_of(wells: Wells, samples: np.ndarray, gallery: np.ndarray, pairs: str) -> MeanAveragePrecision:
    """The metric of some wells, ranking a gallery (both rows of `wells`, ascending)."""
    plate = np.unique(wells.plate, return_inverse=True)[1]
    queries = np.searchsorted(gallery, samples)
    return MeanAveragePrecision(wells.target[gallery], plate[gallery], queries, pairs == "plates")
