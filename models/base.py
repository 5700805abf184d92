"""The contract between the search, the ensembles and a model family.

A family is one folder in `models/` (or an entry point in the group `concert.families`) whose package
exposes `FAMILY`, an instance of a `Family` subclass. Nothing here knows of Ray: a `Learner` can be trained,
debugged and profiled in a plain Python session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ground.errors import BadInput

Prediction = dict[str, np.ndarray]
"""Named arrays whose first axis is the sample (trial, image, crop)."""


class Diverged(RuntimeError):
    """Training reached a non-finite loss; the trial is worthless but the search goes on."""


@dataclass(frozen=True)
class Metric:
    """What a family ranks checkpoints by.

    Attributes:
        name: the key in a learner's validation metrics.
        mode: whether larger ("max") or smaller ("min") is better.
        describes: one line for people.
    """

    name: str
    mode: Literal["max", "min"] = "max"
    describes: str = ""

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`; a non-finite value is never better, any finite one beats it."""
        if not np.isfinite(a):
            return False
        if not np.isfinite(b):
            return True
        return a > b if self.mode == "max" else a < b

    @property
    def sign(self) -> float:
        """+1 if larger is better, else -1: `sign * value` is always to be maximised."""
        return 1.0 if self.mode == "max" else -1.0


class Learner(ABC):
    """One model in training. One epoch is one pass over the training data."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether training has ended, by budget or early stop."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """Epochs trained so far, those before an interruption among them."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """Share of the training budget that is used, 0 to 1."""

    @abstractmethod
    def train_epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Raises:
            Diverged: the loss is not finite.
        """

    @property
    @abstractmethod
    def due(self) -> bool:
        """Whether `validate` is to be called now."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Validation metrics, the family's metric among them. It must not change how training goes on."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on exactly as if never stopped: nested dicts and lists of tensors and
        JSON values."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""

    @abstractmethod
    def weights(self) -> dict[str, Any]:
        """What a snapshot keeps, in the form of `state`: all that `Family.restore` needs to predict again."""

    @abstractmethod
    def predict(self, data: Any) -> Prediction:
        """Predictions for `data`, in evaluation mode."""


class Family(ABC):
    """A kind of model and the data it learns from."""

    name: str
    metric: Metric
    snapshots: Mapping[str, Metric]
    """The snapshots that a trial keeps: name -> the validation metric whose best value it holds."""
    default_space: str
    """The search space (a file of `search_spaces/`) for a user's own data in this family's format."""

    @abstractmethod
    def load(self, config: Mapping[str, Any], phase: str) -> Any:
        """Read and check the data that `config` describes.

        Args:
            config: the `data` block of a search space.
            phase: "val" (train on train, score on validation) or "test" (final predictions).

        Raises:
            BadInput: missing, unreadable or wrong data.
        """

    def open(self, path: Path, phase: str) -> Any:
        """The data of one file that a user hands over for prediction."""
        return self.load({"path": str(path)}, phase)

    @abstractmethod
    def fingerprint(self, data: Any) -> str:
        """A digest of the data's content: a study only ever continues on the data it began with."""

    @abstractmethod
    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The complete settings with defaults.

        Raises:
            BadInput: an unknown setting or an impossible value.
        """

    @abstractmethod
    def learner(self, config: Mapping[str, Any], data: Any, device: str, seed: int) -> Learner:
        """A fresh learner. `seed` fixes everything random in it."""

    @abstractmethod
    def restore(
        self, config: Mapping[str, Any], weights: Mapping[str, Any], device: str
    ) -> Callable[[Any], Prediction]:
        """A predictor from a snapshot: a function from data to a prediction. Training data is not needed."""

    @abstractmethod
    def truth(self, data: Any) -> Prediction:
        """What `score` compares predictions with, first axis as in predictions."""

    @abstractmethod
    def score(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        """The family's metric of a prediction."""

    def scored(self) -> Sequence[str] | None:
        """The arrays of a prediction that `score` reads (None: all): selection only moves these about."""
        return None

    def predict_many(self, members: Sequence[Callable[[Any], Prediction]], data: Any) -> list[Prediction]:
        """Predictions of several members for the same data; a family may batch them."""
        return [member(data) for member in members]

    def combine(self, predictions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Prediction:
        """The ensemble's prediction: the weighted mean of each named array, in the space it is scored in.

        Sums run in float64 in member order, so the result does not depend on how many are summed at once.
        """
        total = float(np.sum(weights))
        out: Prediction = {}
        for name, first in predictions[0].items():
            mean = np.zeros(first.shape, dtype=np.float64)
            for prediction, weight in zip(predictions, weights, strict=True):
                mean += (weight / total) * prediction[name]
            out[name] = mean.astype(first.dtype)
        return out

    def submission(self, predict: Callable[[Any], Prediction], config: Mapping[str, Any], out: Path) -> str | None:
        """Write what a public benchmark wants to be handed, where the dataset belongs to one.

        Returns:
            A line for people, or None if there is nothing to hand in.
        """
        return None

    def import_checkpoint(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and weights (as `restore` takes them) of a checkpoint written by the family's original program.

        Raises:
            BadInput: the file is not one, or the family knows no original program.
        """
        raise BadInput(f"family {self.name} cannot import checkpoints")

    def pictures(self, data: Any, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        """The family's own figures for the report: (caption, plotly figure)."""
        return []
