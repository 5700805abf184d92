"""Models of known quality: what is to be found plus noise of each model's own. For tests of ensembles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from models.base import ArrayScorer, Family, Learner, Metric, Place, Prediction, Predictor


class NoisyFamily(Family):
    name = "noisy"
    metric = Metric("mse", "min", "mean squared error")
    snapshots = {"best": metric, "late": metric}
    default_space = "mean"

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        """(the model's number, the samples it was asked for) of each prediction."""
        self.batches: list[int | None] = []
        self.alone = False
        """Whether several models at once are too much."""
        self.submits: Exception | str | None = None
        """What becomes of a submission: nothing, an error, or a file with this line."""

        self.calibrated_on: Prediction | None = None
        """What `calibrate` was given."""
        self.calibrates = False

    def calibrate(self, reduced: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
        self.calibrated_on = dict(reduced)
        return {"offset": float((truth["value"] - reduced["value"]).mean())} if self.calibrates else {}

    def calibrated(self, prediction: Mapping[str, np.ndarray], calibration: Mapping[str, Any]) -> Prediction:
        return {**prediction, "value": prediction["value"] + calibration.get("offset", 0.0)}

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return hashlib.sha256(Path(config["path"]).read_bytes()).hexdigest()

    def load(self, config: Mapping[str, Any], phase: str) -> dict[str, np.ndarray]:
        with np.load(config["path"]) as file:
            data = dict(file)
        return {**data, "id": np.arange(len(data["signal"]))}

    def groups(self, data: Any) -> np.ndarray | None:
        return data.get("group")

    def subset(self, data: Any, samples: np.ndarray) -> Any:
        return {name: array[samples] for name, array in data.items()}

    def parts(self, data: Any) -> Iterator[Any]:
        for samples in np.array_split(np.arange(len(data["id"])), 3):
            yield self.subset(data, samples)

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return dict(settings)

    def learner(self, config: Mapping[str, Any], data: Any, place: Place, seed: int) -> Learner:
        raise NotImplementedError

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        level, number = float(weights["level"]), int(weights["number"])
        if config.get("fails") == "restore":
            raise RuntimeError("size mismatch for layer.weight")
        self.batches.append(place.batch)

        def predict(data: Any) -> Prediction:
            self.calls.append((number, tuple(int(i) for i in data["id"])))
            if config.get("fails") == "predict":
                raise RuntimeError("CUDA error: an illegal memory access")
            if "signal" not in data:
                raise BadInput("the data holds no signal")
            noise = np.random.default_rng(number).normal(size=(10_000, 2))[data["id"]]
            return {"value": data["signal"] + level * noise, "id": data["id"]}

        return predict

    def predict_many(self, members: Sequence[Predictor], data: Any, place: Place) -> Iterable[Prediction]:
        if self.alone and len(members) > 1:
            raise RuntimeError("out of memory")
        return super().predict_many(members, data, place)

    def truth(self, data: Any) -> Prediction:
        return {"value": data["observed"]}

    def scorer(self, truth: Mapping[str, np.ndarray]) -> ArrayScorer:
        return ArrayScorer(truth, lambda found, true: float(((found["value"] - true["value"]) ** 2).mean()))

    def submission(self, predict: Predictor, config: Mapping[str, Any], out: Path) -> str | None:
        if self.submits is None:
            return None
        out.write_text("half of it")
        if isinstance(self.submits, Exception):
            raise self.submits
        predict(self.load(config, "test"))
        return self.submits

    def describe(self, data: Any) -> dict[str, str]:
        return {"samples": str(len(data["id"]))}


FAMILY = NoisyFamily()
