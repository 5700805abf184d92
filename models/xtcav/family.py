"""The image networks of XTCAV as Concert sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.listing import own_block
from models.base import Family, Metric, Place, Prediction, Predictor, Scorer
from models.xtcav import config as settings
from models.xtcav import data as shots
from models.xtcav import metrics
from models.xtcav.data import XtcavData
from models.xtcav.folders import FOLDERS
from models.xtcav.learner import XtcavLearner
from models.xtcav.predictor import IDS, NewShots, many, restore


class XtcavFamily(Family):
    """Classes or measured targets of beam images.

    Args:
        task: what the metric is of: the balanced accuracy of classes, or where it is regression the mean R2 of targets.
    """

    name = "xtcav"
    default_space = "xtcav"
    evaluated = "test"
    folders = FOLDERS
    environment = ("NLB_HOME",)

    def __init__(self, task: str = "classification") -> None:
        self.metric = metrics.MEASURED if task == "regression" else metrics.CLASSIFIED
        # balanced accuracy hangs on the few shots of the rarest class; the loss counts them all
        self.snapshots = {"best": self.metric, "calm": Metric("val_loss", "min", "log loss, or Huber loss of targets")}

    def of(self, config: Mapping[str, Any]) -> XtcavFamily:
        return XtcavFamily(str(config.get("task", "classification")))

    # ---- data

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        return own_block(path, block)

    def load(self, config: Mapping[str, Any], phase: str) -> XtcavData:
        return shots.load(config, phase)

    def open(self, path: Path, phase: str) -> NewShots:
        return NewShots(str(path))

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return shots.fingerprint(config)

    def groups(self, data: XtcavData | NewShots) -> np.ndarray:
        """Blocks of run and time: neighbouring shots are alike."""
        return _opened(data).eval.blocks

    def subset(self, data: XtcavData, samples: np.ndarray) -> XtcavData:
        return data.subset(samples)

    # ---- models

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def learner(self, config: Mapping[str, Any], data: XtcavData, place: Place, seed: int) -> XtcavLearner:
        return XtcavLearner(settings.resolve(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        return restore(settings.resolve(config), weights, place.device, place.batch)

    def predict_many(self, members: Sequence[Any], data: Any, place: Place) -> Iterator[Prediction]:
        """Some members at a time, so that an image is read and preprocessed once for all of them."""
        return many(members, data)

    # ---- calibration

    def calibrate(self, reduced: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """A temperature for the ensemble's likelihoods, fitted on predictions that selection did not choose by."""
        if "likelihood" not in reduced:
            return {}
        return {"temperature": metrics.fit_temperature(reduced["likelihood"], truth["shares"], truth["labels"])}

    def calibrated(self, prediction: Mapping[str, np.ndarray], calibration: Mapping[str, Any]) -> Prediction:
        """The prediction with `calibrate`'s temperature applied; the likeliest class stays the same."""
        if "temperature" not in calibration or "likelihood" not in prediction:
            return dict(prediction)
        changed = metrics.apply_temperature(prediction["likelihood"], float(calibration["temperature"]))
        return {**prediction, "likelihood": changed}

    def export(self, predicted: Iterable[tuple[Any, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
        """HDF5 with `probabilities` and `label`, or `values` (and `presence`), and the shots' ids to join by."""
        return super().export(((data, _told(_opened(data), one)) for data, one in predicted), out, about)

    # ---- scores

    def truth(self, data: XtcavData | NewShots) -> Prediction:
        data = _opened(data)
        rows = data.eval
        if data.task == "classification":
            if not (rows.labels >= 0).any():
                raise BadInput(f"{data.source}: no labels to score against")
            return {"labels": rows.labels, "shares": data.shares}
        if not np.isfinite(rows.targets).any():
            raise BadInput(f"{data.source}: none of the targets {', '.join(data.targets)} to score against")
        return {"values": rows.targets}

    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        if "labels" in truth:
            return metrics.BalancedAccuracy(truth["labels"])
        return metrics.target_scorer(truth["values"])

    def describe(self, data: XtcavData | NewShots) -> dict[str, str]:
        if isinstance(data, NewShots):
            return {"files": data.path}
        parts = (("training", data.train), ("validation", data.val), ("test", data.test))
        out = {
            "shots": ", ".join(f"{len(rows)} {name}" for name, rows in parts),
            **data.scanned(),
            "images": f"{data.image_shape[0]}x{data.image_shape[1]} pixels after preprocessing",
        }
        if data.task == "classification":
            for name, rows in parts:
                if len(rows):
                    out[f"classes, {name}"] = " / ".join(str(count) for count in data.counts(rows))
        else:
            out["targets"] = ", ".join(data.targets)
            for name, rows in parts:
                none = int((~np.isfinite(rows.targets).any(1)).sum())
                if none:
                    out[f"without any target, {name}"] = f"{none} of {len(rows)}"
        if data.scalars:
            out["scalars"] = ", ".join(data.scalars)
        return out

    def pictures(self, data: XtcavData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.xtcav import plots

        return plots.pictures(_opened(data), prediction)

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        """Scores of the test block, which nothing in a study has seen, with standard errors.

        Args:
            predicted: the ensemble, or a file that `export` wrote.
            config: the study's `data` block.
            target: labelled files to score on in place of the study's test block.
            name: of the study.

        Raises:
            BadInput: there is no labelled test row, or the file's shots are others.
        """
        if isinstance(predicted, Path) and (not config or target is not None):
            raise BadInput(f"{predicted}: a file of predictions is scored on the test block of its study only")
        if target is not None:
            new = NewShots(str(target))
            prediction = predicted(new)  # type: ignore[operator]
            data, where = new.data, f"{name} ({target})"
        else:
            data, where = shots.load(config, "test"), f"{name} (test block)"
            if not len(data.eval):
                raise BadInput(f"{data.source}: the test block is empty (data key split)")
            prediction = _read(predicted, data) if isinstance(predicted, Path) else predicted(data)
        truth = self.truth(data)
        if "labels" in truth:
            told = _told(data, prediction)
            return {where: metrics.class_scores(told["probabilities"], told["label"], truth["labels"])}
        mean = np.nanmean(data.train.targets if len(data.train) else truth["values"], axis=0)
        return {where: metrics.target_scores(prediction, truth["values"], data.targets, mean)}


def _opened(data: XtcavData | NewShots) -> XtcavData:
    return data.data if isinstance(data, NewShots) else data


def _told(data: XtcavData, prediction: Mapping[str, np.ndarray]) -> Prediction:
    """A prediction as a user reads it: the probability of each class and the class told, in place of likelihoods."""
    if "likelihood" not in prediction:
        return dict(prediction)
    likelihood = prediction["likelihood"]
    others = {name: array for name, array in prediction.items() if name != "likelihood"}
    told = {"probabilities": metrics.posterior(likelihood, data.shares), "label": likelihood.argmax(1).astype(np.int64)}
    return {**told, **others}


def _read(path: Path, data: XtcavData) -> Prediction:
    """A file of predictions, its rows in the order of the data's shots.

    Raises:
        BadInput: a shot is missing in it.
    """
    with reading_hdf5(path) as file:
        lacking = [name for name in IDS if name not in file]
        if lacking:
            raise BadInput(f"{path}: has no {lacking[0]}: it is no file of predictions")
        content = hdf5.arrays(file, path)
    if any(len(array) != len(content[IDS[0]]) if array.ndim else True for array in content.values()):
        raise BadInput(f"{path}: its arrays are of different lengths")
    place = {shot: row for row, shot in enumerate(zip(*(content[name].tolist() for name in IDS), strict=True))}
    wanted = zip(*(data.eval.ids[name].tolist() for name in IDS), strict=True)
    try:
        order = np.array([place[shot] for shot in wanted], dtype=int)
    except KeyError as error:
        raise BadInput(f"{path}: has no prediction for the shot {error.args[0]}") from None
    return {name: array[order] for name, array in content.items()}
