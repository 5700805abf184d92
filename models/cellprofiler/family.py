"""The networks of Cell Painting as Concert sees them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.base import Family, Metric, Place, Prediction, Predictor, Scorer
from models.cellprofiler import config as settings
from models.cellprofiler import data as plates
from models.cellprofiler.data import CellData
from models.cellprofiler.folders import FOLDERS
from models.cellprofiler.learner import CellLearner
from models.cellprofiler.metrics import BALANCED, MAP
from models.cellprofiler.predictor import many, restore
from models.cellprofiler.scorers import BalancedAccuracy, MeanAveragePrecision

FEW_LABELS = 10
"""With fewer labels each well is a group of its own: too few groups are left otherwise."""
IDS = ("plate", "well")


class CellprofilerFamily(Family):
    """Profiles and classes of wells.

    Profiles are not averaged: `combine` lays members' side by side, each scaled by the root of its weight, so that
    cosines are the weighted mean of the members' cosines. Those are what selection holds, and a mean is associative.

    Args:
        objective: what is ranked by: "map" or "balanced_accuracy".
    """

    name = "cellprofiler"
    default_space = "cellprofiler"
    evaluated = "test"
    folders = FOLDERS
    environment = ("NLB_HOME",)

    def __init__(self, objective: str = MAP.name) -> None:
        self.metric = BALANCED if objective == BALANCED.name else MAP
        # few wells decide the metric; the loss counts every cell
        self.snapshots = {"best": self.metric, "calm": Metric("val_loss", "min", "log loss of cells")}

    def of(self, config: Mapping[str, Any]) -> CellprofilerFamily:
        return CellprofilerFamily(str(config.get("objective", MAP.name)))

    # ---- data

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        return plates.own_block(path, block)

    def load(self, config: Mapping[str, Any], phase: str) -> CellData:
        """The stored cells; wells of the validation values are scored, or of the test values.

        Raises:
            BadInput: see `data.load`; or no well has another one to find.
        """
        data = plates.load(config, phase)
        scorer = self._scorer_of(data)
        if isinstance(scorer, MeanAveragePrecision) and not scorer.findable.any():
            where = " on another plate (data key pairs)" if data.pairs == "plates" else ""
            raise BadInput(
                f"{data.source}: no {'test' if phase == 'test' else 'validation'} well has another one of its "
                f"label{where} to be found; --set data.objective=balanced_accuracy ranks by classes"
            )
        return data

    def open(self, path: Path, phase: str) -> CellData:
        """All wells of a project, cropped from its images; labels may be unknown."""
        return plates.open_project(path)

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return plates.fingerprint(config)

    def groups(self, data: CellData) -> np.ndarray:
        """Wells of one label belong together, as a pair scores both; each well by itself where labels are few, or
        where classes are told."""
        labels = data.wells.target[data.samples]
        if data.objective != MAP.name or len(np.unique(labels)) < FEW_LABELS:
            return np.arange(len(labels))
        return labels

    def subset(self, data: CellData, samples: np.ndarray) -> CellData:
        return data.subset(samples)

    # ---- models

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def learner(self, config: Mapping[str, Any], data: CellData, place: Place, seed: int) -> CellLearner:
        return CellLearner(settings.resolve(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        return restore(config, weights, place.device, place.batch)

    def predict_many(self, members: Sequence[Any], data: CellData, place: Place) -> Iterator[Prediction]:
        """Some members at a time, so that a crop is read and normalised once for all of them."""
        return many(members, data)

    def combine(self, predictions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Prediction:
        """Profiles side by side, each times the root of its share of the weights; means of all else.

        Raises:
            BadInput: members do not predict the same wells.
        """
        out = super().combine([{k: v for k, v in p.items() if k != "profile"} for p in predictions], weights)
        if "profile" not in predictions[0]:
            return out
        total, rows = float(np.sum(weights)), len(predictions[0]["profile"])
        if any("profile" not in p or len(p["profile"]) != rows for p in predictions):
            raise BadInput("members differ in the number of profiles: they are not of the same data")
        parts = [np.sqrt(w / total) * p["profile"] for p, w in zip(predictions, weights, strict=True)]
        profile = np.concatenate(parts, axis=1).astype(predictions[0]["profile"].dtype)
        return {"profile": profile, **out}

    def export(self, predicted: Iterable[tuple[Any, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
        """HDF5 with `profile`, `probabilities`, the likeliest class `told`, and `plate`, `well` and `label` to join by.

        The attribute `classes` (JSON) names the columns of `probabilities`, as the models know them.
        """
        parts = list(predicted)
        if parts and parts[0][0].model_classes:
            about = {**about, "classes": json.dumps(parts[0][0].model_classes)}
        return super().export(((data, _told(data, one)) for data, one in parts), out, about)

    # ---- scores

    def truth(self, data: CellData) -> Prediction:
        """`label` of each sample; for the objective map of the gallery, with `plate`, `queries` and `other_plates`."""
        wells = data.wells
        if not (wells.target[data.samples] >= 0).any():
            raise BadInput(f"{data.source}: no labels to score against")
        if data.objective != MAP.name:
            return {"label": wells.target[data.samples]}
        return {
            "label": wells.target[data.gallery],
            "plate": np.unique(wells.plate, return_inverse=True)[1][data.gallery],
            "queries": data.queries,
            "other_plates": np.array(data.pairs == "plates"),
        }

    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        if "queries" not in truth:
            return BalancedAccuracy(truth["label"])
        return MeanAveragePrecision(truth["label"], truth["plate"], truth["queries"], bool(truth["other_plates"]))

    def _scorer_of(self, data: CellData) -> Scorer:
        return self.scorer(self.truth(data))

    def describe(self, data: CellData) -> dict[str, str]:
        wells, scored = data.wells, data.wells.take(data.samples)
        out = {
            "cells": f"{len(data.train):,} for training, {len(data.eval):,} of the wells that are scored or controls",
            "crops": f"{', '.join(data.store.channels)}; {data.store.box}x{data.store.box} pixels, {data.store.dtype}",
            "wells": f"{len(scored):,} scored, of {len(np.unique(scored.label)):,} labels on "
            f"{len(np.unique(scored.plate)):,} plates; {int(wells.control.sum()):,} of controls "
            f"({data.control or 'none named'})",
            "cells a well": f"{int(wells.cells.min()):,} to {int(wells.cells.max()):,}, median "
            f"{int(np.median(wells.cells)):,}",
            "classes": f"{len(data.classes):,}",
        }
        if data.objective == MAP.name:
            which = "on other plates" if data.pairs == "plates" else "on any plate"
            out["to be found"] = f"wells of the same label {which}, among {len(data.gallery):,}"
        return out | {name: f"{count:,}" for name, count in data.report.items() if count and name != "cells"}

    def pictures(self, data: CellData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.cellprofiler import plots

        return plots.pictures(data, prediction)

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        """Scores of the test wells, which nothing in a study has seen, beside those of features that nobody learned.

        Args:
            predicted: the ensemble, or a file that `export` wrote.
            config: the study's `data` block.
            target: another project with stored cells, whose test wells are scored in place of the study's.
            name: of the study.

        Raises:
            BadInput: no labelled test well, or a file that has not all of them.
        """
        from models.cellprofiler import baselines

        if not config:
            raise BadInput(f"{predicted}: a file of predictions is scored on the test wells of its study only")
        block = dict(config) if target is None else plates.own_block(str(target), config)
        data = self.load(block, "test")
        prediction = _read(predicted, data) if isinstance(predicted, Path) else predicted(data)
        where = f"{name} (test wells)" if target is None else f"{name} ({target})"
        reference = self.load(config, "val")
        out = {where: baselines.scores(data, prediction, classes=data.classes == reference.classes)}
        for words, other in baselines.predictions(reference, data).items():
            out[f"{where}: {words}"] = baselines.scores(data, other, classes=False)
        return out


def _told(data: CellData, prediction: Mapping[str, np.ndarray]) -> Prediction:
    """A prediction with whose it is."""
    wells = data.wells.take(data.samples)
    ids = {name: np.char.encode(getattr(wells, name).astype(str), "utf-8") for name in (*IDS, "label")}
    return {**prediction, "told": prediction["probabilities"].argmax(1).astype(np.int64), **ids}


def _read(path: Path, data: CellData) -> Prediction:
    """A file of predictions, its rows in the order of the data's samples.

    Raises:
        BadInput: a well is missing in it.
    """
    with reading_hdf5(path) as file:
        lacking = [name for name in (*IDS, "profile", "probabilities") if name not in file]
        if lacking:
            raise BadInput(f"{path}: has no {lacking[0]}: it is no file of predictions")
        ids = [np.char.decode(file[name][()].astype("S"), "utf-8").tolist() for name in IDS]
        arrays = {name: file[name][()] for name in ("profile", "probabilities")}
    place = {well: row for row, well in enumerate(zip(*ids, strict=True))}
    wells = data.wells.take(data.samples)
    try:
        order = np.array([place[well] for well in zip(wells.plate, wells.well, strict=True)], dtype=int)
    except KeyError as error:
        raise BadInput(f"{path}: has no prediction for the well {'/'.join(map(str, error.args[0]))}") from None
    return {name: array[order] for name, array in arrays.items()}
