"""The inverters of membrane voltage as Concert sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.listing import own_block
from models.base import Family, Place, Prediction, Predictor, Scorer
from models.cellspike import config as settings
from models.cellspike import data as traces
from models.cellspike import export as exported
from models.cellspike import metrics
from models.cellspike.data import CellData, NewTraces
from models.cellspike.export import opened
from models.cellspike.fits import refuse_unfit
from models.cellspike.folders import FOLDERS
from models.cellspike.learner import CellSpikeLearner
from models.cellspike.predictor import many, restore
from models.cellspike.statistics import residuals
from models.cellspike.traces import Traces


class CellSpikeFamily(Family):
    """One network that inverts voltage traces of one cell or of many into unit parameters of their ion channels."""

    name = "cellspike"
    metric = metrics.MSE
    snapshots = {"best": metrics.MSE}
    default_space = "cellspike"
    evaluated = "test"
    folders = FOLDERS
    environment = ("NLB_HOME",)
    data_parallel = True

    # ---- data

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        return own_block(path, block)

    def load(self, config: Mapping[str, Any], phase: str) -> CellData:
        return traces.load(config, phase)

    def open(self, path: Path, phase: str) -> NewTraces:
        return NewTraces(str(path))

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return traces.fingerprint(config)

    def groups(self, data: CellData | NewTraces) -> np.ndarray:
        """Cells; of one cell, or where cells are not known, rows (which may be samples under several stimuli)."""
        ids = opened(data).eval.ids()
        if len(np.unique(ids["cell"])) > 1 and (ids["cell"] >= 0).all():
            return ids["cell"].astype(np.int64)
        whole = np.stack([ids["file"], ids["split"], ids["row"]], 1)
        return np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1)

    def subset(self, data: CellData, samples: np.ndarray) -> CellData:
        return data.subset(samples)

    def parts(self, data: CellData | NewTraces) -> Iterator[Any]:
        yield from data.parts() if isinstance(data, CellData) else (data,)

    # ---- models

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def feasible(self, config: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
        """Whether the convolutions fit into the traces, and the network below MAX_PARAMETERS."""
        try:
            shape, outputs = traces.shape(config)
            refuse_unfit(settings.resolve(chosen), shape, outputs)
        except BadInput:
            return False
        return True

    def learner(self, config: Mapping[str, Any], data: CellData, place: Place, seed: int) -> CellSpikeLearner:
        return CellSpikeLearner(settings.resolve(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        return restore(settings.resolve(config), weights, place.device, place.batch)

    def import_checkpoint(self, path: Path, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and weights of a checkpoint of the original PyTorch program, with its `sum_train.yaml` or its design
        beside it; `dataset` is the path of its data."""
        from models.cellspike import original

        found = original.convert(path)
        return settings.resolve(found.settings), found.weights()

    def imported_data(self, dataset: str) -> dict[str, Any]:
        return {"path": dataset}

    def predict_many(self, members: Sequence[Any], data: Any, place: Place) -> Iterator[Prediction]:
        """Some members at a time, so that a trace is read once for all of them."""
        return many(members, data)

    def export(self, predicted: Iterable[tuple[Any, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
        """u*, u and physical values with the members' spread, and the ids to join by; a CSV where `out` ends so."""
        return exported.write(self, predicted, out, about)

    # ---- scores

    def truth(self, data: CellData | NewTraces) -> Prediction:
        data = opened(data)
        found = data.eval.targets()
        if found is None:
            raise BadInput(f"{data.source}: holds no parameters to score against")
        return {metrics.TARGET: found}

    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        return metrics.scorer(truth)

    def describe(self, data: CellData | NewTraces) -> dict[str, str]:
        if isinstance(data, NewTraces):
            return {"files": data.path}
        parts = (("training", data.train), ("validation", data.val), ("test", data.test), ("witness", data.witness))
        out = {
            "samples": ", ".join(f"{len(rows)} {name}" for name, rows in parts if len(rows)),
            "cells": _listed(_cells(data, data.train)),
            "traces": f"{data.bins} bins of {data.step_ms:g} ms, probes {', '.join(data.reading.probes)}",
            "stimuli": f"{', '.join(data.reading.stims)} ({data.reading.stimuli})",
            "parameters": f"{len(data.names)} as {'u*' if data.reading.starred else 'u'}: {', '.join(data.names)}",
        }
        if len(data.witness):
            out["witness cells"] = _listed(_cells(data, data.witness))
        true = data.eval.targets()
        if true is not None and len(true):
            out["mean squared error of the mean"] = f"{np.var(true, axis=0, dtype=np.float64).mean():.4f}"
        return out

    def pictures(self, data: CellData | NewTraces, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.cellspike import plots

        return plots.pictures(opened(data), prediction)

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        """Scores of test rows, which nothing in a study has seen: of the cells that were trained on, and of those that
        were not (witness). For each parameter the root of the mean squared error, Pearson's r and explained variance.

        Args:
            predicted: the ensemble.
            config: the study's `data` block.
            target: packs to score on in place of the study's test rows.
            name: of the study.

        Raises:
            BadInput: there are no test rows.
        """
        if isinstance(predicted, Path):
            raise BadInput(f"{predicted}: cellspike scores ensembles, not files of predictions")
        if target is not None:
            new = NewTraces(str(target))
            return {f"{name} ({target})": _scores(self, predicted(new), new.data)}
        data = traces.load(config, "test")
        out = {f"{name}, test rows of practice cells": _scores(self, predicted(data), data)}
        if len(data.witness):
            apart = replace(data, eval=data.witness)
            out[f"{name}, test rows of witness cells"] = _scores(self, predicted(apart), apart)
        return out


def _scores(family: Family, prediction: Prediction, data: CellData) -> dict[str, float]:
    true = family.truth(data)[metrics.TARGET]
    found = residuals(data.names, prediction[metrics.TARGET], true, data.eval.ids()["cell"])
    out = {metrics.MSE.name: found.loss, "mse_of_mean": float(np.var(true, axis=0, dtype=np.float64).mean())}
    for name, rmse, r, ev in zip(found.names, found.rmse, found.pearson, found.explained, strict=True):
        out |= {f"{name} rmse": float(rmse), f"{name} r": float(r), f"{name} ev": float(ev)}
    return out


def _cells(data: CellData, rows: Traces) -> list[str]:
    return [data.cells[i] for i in dict.fromkeys(i for segment in rows.segments for i in segment.cells)]


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}: {', '.join(names[:most])}{more}"
