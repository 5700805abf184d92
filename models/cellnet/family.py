"""CellNet as Concert sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from models.base import Family, Metric, Place, Prediction, Predictor, Scorer
from models.cellnet import config as settings
from models.cellnet import data as cells
from models.cellnet import metrics, scorers
from models.cellnet.data import CellData
from models.cellnet.folders import FOLDERS
from models.cellnet.learner import CellNetLearner
from models.cellnet.options import TRUTH
from models.cellnet.predictor import restore


class CellNetFamily(Family):
    """Ghosts told from real voxels, or charges of voxels.

    Args:
        task: what is learned, which decides the metric.
        truth: voxels with at least this truth count as real in scores; None: the task's default.
    """

    name = "cellnet"
    default_space = "cellnet"
    evaluated = "test"
    folders = FOLDERS
    environment = ("NLB_HOME",)
    data_parallel = True

    def __init__(self, task: settings.Task = "ghost", truth: float | None = None) -> None:
        self.task: settings.Task = task
        self.real = TRUTH[task] if truth is None else truth
        self.metric = metrics.AREA if task == "ghost" else metrics.RMSE
        self.snapshots = {"best": self.metric, "calm": Metric("val_loss", "min", "the training's loss on validation")}

    def of(self, config: Mapping[str, Any]) -> CellNetFamily:
        task, truth = config.get("task", "ghost"), config.get("truth")
        # what is wrong with the block is told when it is read
        if task not in settings.TASKS or isinstance(truth, bool) or not isinstance(truth, (int, float, type(None))):
            return self
        return CellNetFamily(task, truth)

    # ---- data

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        return cells.own_block(path, block)

    def load(self, config: Mapping[str, Any], phase: str) -> CellData:
        return cells.load(config, phase)

    def open(self, path: Path, phase: str) -> CellData:
        return cells.open_files(str(path))

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return cells.fingerprint(config)

    def groups(self, data: CellData) -> np.ndarray:
        """Recorded events: what several TPCs saw of one belongs together."""
        return data.eval.groups()

    def subset(self, data: CellData, samples: np.ndarray) -> CellData:
        return data.with_eval(data.eval.take(np.asarray(samples)))

    def parts(self, data: CellData) -> Iterator[CellData]:
        """File by file: the voxels of a study's events may not fit into memory."""
        return (data.with_eval(events) for events in data.eval.each())

    # ---- models

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def learner(self, config: Mapping[str, Any], data: CellData, place: Place, seed: int) -> CellNetLearner:
        return CellNetLearner(settings.resolve(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        return restore(settings.resolve(config), weights, place.device, place.batch)

    # ---- calibration

    def calibrate(self, reduced: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The threshold where efficiency times purity is largest, and how reliable the probabilities are."""
        if "probability" not in reduced:
            return {}
        tally = metrics.GhostTally(self.real)
        tally.add(reduced["probability"], truth["y"], truth["event"], ["any"] * len(truth["id"]))
        scores = tally.scores()
        kept = ("threshold", "efficiency", "purity", "calibration_error")
        return {name: scores[name] for name in kept} | {"reliability": tally.reliability().tolist()}

    def calibrated(self, prediction: Mapping[str, np.ndarray], calibration: Mapping[str, Any]) -> Prediction:
        """The prediction with `decision`, whether a voxel is kept; probabilities stay as they are."""
        if "threshold" not in calibration or "probability" not in prediction:
            return dict(prediction)
        decision = prediction["probability"] > np.float32(calibration["threshold"])
        return {**prediction, "decision": decision.astype(np.uint8)}

    def export(self, predicted: Iterable[tuple[CellData, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
        from models.cellnet import export

        return export.write(predicted, out, about)

    # ---- scores

    def truth(self, data: CellData) -> Prediction:
        return cells.truth_arrays(data)

    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        return scorers.scorer(self.task, truth, self.real)

    def describe(self, data: CellData) -> dict[str, str]:
        out = {}
        for name, part in (("training", data.train), ("validation", data.val), ("test", data.test)):
            if len(part.files):
                voxels = sum(file.voxels for file in part.files)
                out[name] = f"{len(part)} events in {len(part.files)} files, {voxels} voxels"
        if len(data.eval):
            every, real = cells.counted(data, self.real)
            ratio = (every - real).sum() / max(1, real.sum())
            out["a predicted event"] = f"{real.mean():.0f} real voxels, {ratio:.1f} ghosts for each"
        return out

    def pictures(self, data: CellData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.cellnet import plots

        return plots.pictures(data, prediction, self.real)

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        """Scores of the test events, which nothing in a study has seen, file by file.

        Args:
            predicted: the ensemble, or a file that `export` wrote for these events.
            config: the study's `data` block.
            target: xy files with truth to score on in place of the study's test events.
            name: of the study.

        Raises:
            BadInput: there is no test part, or the file is of other voxels.
        """
        from models.cellnet import export

        if not config and target is None:
            raise BadInput(f"{predicted}: a file of predictions is scored on the test events of its study only")
        data = cells.load(config, "test") if target is None else cells.open_files(str(target))
        where = f"{name} (test events)" if target is None else f"{name} ({target})"
        parts = self.parts(data)
        found = export.read(predicted, parts) if isinstance(predicted, Path) else ((p, predicted(p)) for p in parts)
        tally = metrics.tally(self.task, self.real)
        for part, prediction in found:
            (file,) = part.eval.files
            truth = cells.truth_arrays(part)
            true = cells.all_true(part, self.real)
            types = [file.name.event_type] * len(part.eval)
            values = prediction["probability" if self.task == "ghost" else "charge"]
            tally.add(values, truth["y"], truth["event"], types, true, prediction.get("decision"))
        return {where: tally.scores()}
