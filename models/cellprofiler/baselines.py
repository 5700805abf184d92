"""What a trained network is to beat: features of networks that learned nothing, and mean intensities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from models.base import Place, Prediction
from models.cellprofiler import choices, stream
from models.cellprofiler import config as settings
from models.cellprofiler.data import CellData
from models.cellprofiler.learner import CellLearner
from models.cellprofiler.metrics import balanced_accuracy, bootstrap, confusion, mean_finite
from models.cellprofiler.predictor import many, restore
from models.cellprofiler.scorers import cosines
from models.cellprofiler.wells import profiles

SEEDS = 3
MOST_CELLS = 60_000
"""Judged cells that baselines look at, drawn alike from every well."""
_BATCH = 256
RANDOM, INTENSITY = "random networks", "mean intensities"


def thinned(data: CellData, most: int = MOST_CELLS) -> CellData:
    """The data with some cells of each well (fixed seed) where there are more in all than `most`."""
    if len(data.eval) <= most:
        return data
    rng = np.random.default_rng(0)
    shuffled = np.lexsort([rng.random(len(data.eval)), data.well_of])
    starts = np.cumsum(data.wells.cells) - data.wells.cells
    place = np.arange(len(shuffled)) - starts[data.well_of[shuffled]]
    # as many of each as all can have together, the smaller wells with all they have
    low, high = 1, int(data.wells.cells.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(data.wells.cells, middle).sum() <= most else (low, middle - 1)
    kept = np.sort(shuffled[place < low])
    wells = replace(data.wells, cells=np.minimum(data.wells.cells, low))
    return replace(data, eval=data.eval[kept], well_of=data.well_of[kept], wells=wells)


def intensities(data: CellData) -> np.ndarray:
    """(judged cells, C) float32 mean of each channel of a crop, as stored."""
    parts = stream.in_order(data.eval, _BATCH)
    found = [crops.double().mean((2, 3)).float().numpy() for crops in stream.batches(data.store, parts)]
    return np.concatenate(found) if found else np.zeros((0, len(data.store.channels)), np.float32)


def of_intensities(validation: CellData, data: CellData) -> Prediction:
    """Profiles of mean intensities; mean or median and λ chosen on the validation wells, as a network's are."""
    chosen = choices.choose(
        {INTENSITY: intensities(validation)},
        validation.wells,
        validation.well_of,
        _treated(validation, validation.samples),
        pairs=validation.pairs,
        gallery=_treated(validation, validation.gallery),
        lambdas=(None, *choices.LAMBDAS),
    )
    profile = profiles(intensities(data), data.well_of, len(data.wells), chosen.choice.aggregate)
    gallery = choices.apply(chosen.choice, chosen.sphering, profile, data.wells, data.gallery)
    return {"profile": gallery[data.queries], "similarity": cosines(gallery[data.queries], gallery)}


def _treated(data: CellData, rows: np.ndarray) -> np.ndarray:
    return rows[~data.wells.control[rows]]


def of_random_networks(validation: CellData, data: CellData, seeds: int = SEEDS) -> list[Prediction]:
    """Profiles by networks (the settings' defaults) with the weights they begin with, one a seed."""
    config, members = settings.resolve({}), []
    for seed in range(seeds):
        weights = CellLearner(config, validation, Place(), seed).weights()
        members.append(restore(config, weights, "cpu"))
    return list(many(members, data))


def predictions(validation: CellData, data: CellData) -> dict[str, list[Prediction]]:
    """The baselines' predictions for `data`, several of a kind where chance has a part in it.

    Args:
        validation: wells that layer, aggregate and λ are chosen on.
        data: wells to predict; may be the same.
    """
    seen, judged = thinned(validation), thinned(data)
    return {RANDOM: of_random_networks(seen, judged), INTENSITY: [of_intensities(seen, judged)]}


def precisions(data: CellData, prediction: Prediction | list[Prediction]) -> np.ndarray:
    """(samples,) average precision of each well; of several predictions the mean. NaN where nothing is to be found.

    Control wells neither ask nor are ranked.
    """
    wells = replace(data.wells, target=np.where(data.wells.control, -1, data.wells.target))
    scorer = choices.scorer_of(wells, data.samples, data.gallery, data.pairs)
    each = prediction if isinstance(prediction, list) else [prediction]
    return np.mean([scorer.each(scorer.reduce(one)) for one in each], axis=0)


def scores(
    data: CellData, prediction: Prediction | list[Prediction] | Mapping[str, np.ndarray], classes: bool
) -> dict[str, float]:
    """`map` with the ends of its 95 % interval (labels drawn with replacement), and how many wells and labels asked;
    `balanced_accuracy` and `accuracy` of classes where they are to be told."""
    one = prediction if isinstance(prediction, list) else [dict(prediction)]
    each = precisions(data, one)
    labels = data.wells.target[data.samples]
    low, high = bootstrap(each, labels)
    there = np.isfinite(each)
    out = {
        "map": mean_finite(each),
        "map_low": low,
        "map_high": high,
        "wells": float(there.sum()),
        "labels": float(len(np.unique(labels[there]))),
    }
    if classes:
        probabilities = one[0]["probabilities"]
        counts = confusion(labels, probabilities.argmax(1), probabilities.shape[1])
        out["balanced_accuracy"] = balanced_accuracy(counts)
        out["accuracy"] = float(counts.trace() / counts.sum()) if counts.sum() else math.nan
    return out
