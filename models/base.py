"""The contract between the search, the ensembles and a model family.

A family is one folder in `models/` (or an entry point in the group `concert.families`) whose package
exposes `FAMILY`, an instance of a `Family` subclass. Nothing here knows of Ray: a `Learner` can be trained,
debugged and profiled in a plain Python session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ground.errors import BadInput
from ground.files import atomic_path
from ground.paths import expanded

Prediction = dict[str, np.ndarray]
"""Named arrays whose first axis is the sample (trial, window, crop), or flat rows of samples of different lengths."""
Predictor = Callable[[Any], Prediction]
"""A trained model as a function from data to a prediction."""


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


@dataclass(frozen=True)
class Place:
    """Where a model runs.

    Attributes:
        device: "cpu" or "cuda", as torch names it.
        threads: threads that may compute at once.
        rank, ranks: which of how many processes that train one model together (`Family.data_parallel`); only rank 0
            writes files.
        batch: samples a prediction works on at a time, where the user asks for a number (None: the family's own).
    """

    device: str = "cpu"
    threads: int = 1
    rank: int = 0
    ranks: int = 1
    batch: int | None = None


@dataclass(frozen=True)
class Source:
    """Something public that a family's data or checkpoints can be downloaded from.

    Attributes:
        name: what the user calls it.
        kind: "dandi" (a dandiset) or "zenodo" (one zip archive of a record, which is unpacked).
        identifier: the dandiset's number, or the record's API address.
        folder: the environment variable (one of `Family.folders`) of the folder where it goes.
        file: the archive in a Zenodo record.
        holds: what is in it, which is also the word after `python -m download`.
    """

    name: str
    kind: Literal["dandi", "zenodo"]
    identifier: str
    folder: str
    file: str = ""
    holds: Literal["data", "checkpoints"] = "data"


class Learner(ABC):
    """One model in training, in bounded pieces of work.

    Between two pieces the search may report, validate, write a checkpoint, stop or be interrupted, so a piece is at
    most about a minute long: an epoch of a small model, some hundred steps of a large one.

    Where several ranks train one model, each has a learner, made when torch's default process group already stands.
    The learners average gradients among themselves and agree on `due`, `done` and what `validate` returns. `state` and
    `weights` are asked of rank 0 only, `load_state` is told to all: what differs between ranks, such as dropout masks,
    follows from the seed, the rank and `steps`.
    """

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether training has ended, by budget or early stop."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How far training is, in the family's own count (updates, epochs); each piece makes it larger."""

    @property
    @abstractmethod
    def progress(self) -> float:
        """Share of the training budget that is used, 0 to 1; 1 when `done`."""

    @abstractmethod
    def train_piece(self) -> dict[str, float]:
        """Train for one piece of work.

        Returns:
            Numbers for the trial's table and TensorBoard, the key `train_loss` among them.

        Raises:
            Diverged: the loss is not finite.
            BadInput: a batch of the data cannot be used.
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

    def start_from(self, weights: Mapping[str, Any]) -> None:
        """Begin with the weights of another trial's snapshot (the setting INIT) in place of random ones.

        Raises:
            BadInput: they do not fit, or the family cannot.
        """
        raise BadInput(f"{type(self).__name__} cannot start from another model's weights (INIT)")

    @abstractmethod
    def predict(self, data: Any) -> Prediction:
        """Predictions for `data`, in evaluation mode."""


class StepLearner(Learner):
    """A learner with a budget of steps, that validates after every so many of them.

    Attributes:
        step: steps taken.
        total: steps in the budget.
        every: steps from one validation to the next.
        patience: validations without a better one that are borne; 0: any number.
        best_step: where the best validation was.
    """

    total: int
    every: int
    patience: int = 0
    step: int = 0
    best_step: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether training ends before its budget does."""
        return bool(self.patience and self.step - self.best_step > self.patience * self.every)

    @property
    def done(self) -> bool:
        return self.step >= self.total or self.exhausted

    @property
    def steps(self) -> int:
        return self.step

    @property
    def progress(self) -> float:
        return 1.0 if self.done else self.step / self.total

    @property
    def due(self) -> bool:
        return self.step % self.every == 0 or self.done


class Scorer(ABC):
    """The family's metric, prepared for one truth: selection calls it thousands of times.

    What selection holds of each member is `reduce(prediction)`, as small as the metric allows. Reducing and
    `Family.combine` must commute: combining reduced predictions gives the reduced combination.
    """

    samples: int
    """How many samples the truth has."""
    rows: Mapping[str, np.ndarray] = {}
    """For reduced arrays with more or fewer rows than samples: the sample of each row, ascending."""

    @abstractmethod
    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        """What scoring needs of a prediction: arrays with a row a sample, or with `rows`."""

    @abstractmethod
    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        """The metric; NaN where it is undefined."""

    @abstractmethod
    def take(self, samples: np.ndarray) -> Scorer:
        """The same metric on some samples (ascending indices)."""

    def __call__(self, prediction: Mapping[str, np.ndarray]) -> float:
        """The metric of a whole prediction."""
        return self.score(self.reduce(prediction))


class ArrayScorer(Scorer):
    """A metric that is a function of dense arrays, one row a sample.

    Args:
        truth: named arrays.
        function: (prediction, truth) -> the metric.
        names: the predicted arrays that the metric reads (default: those of the truth).
    """

    def __init__(
        self,
        truth: Mapping[str, np.ndarray],
        function: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], float],
        names: Sequence[str] | None = None,
    ) -> None:
        self.truth, self.function = dict(truth), function
        self.names = tuple(truth if names is None else names)
        self.samples = len(next(iter(self.truth.values())))

    def reduce(self, prediction: Mapping[str, np.ndarray]) -> Prediction:
        return {name: np.asarray(prediction[name]) for name in self.names}

    def score(self, reduced: Mapping[str, np.ndarray]) -> float:
        return float(self.function(reduced, self.truth))

    def take(self, samples: np.ndarray) -> ArrayScorer:
        return ArrayScorer({k: v[samples] for k, v in self.truth.items()}, self.function, self.names)


class Family(ABC):
    """A kind of model and the data it learns from.

    Abstract methods are what a family cannot do without; the others are hooks with a default.
    """

    name: str
    metric: Metric
    snapshots: Mapping[str, Metric]
    """The snapshots that a trial keeps: name -> the validation metric whose best value it holds."""
    default_space: str
    """The search space (a file of `search_spaces/`) for a user's own data in this family's format."""
    folders: Mapping[str, str] = {}
    """Environment variables that name the family's folders -> their defaults below NLB_HOME."""
    environment: Sequence[str] = ()
    """Further environment variables that decide what a trial finds; passed on to a cluster's workers."""
    sources: Sequence[Source] = ()
    """What `python -m download` can bring for this family."""
    data_parallel: bool = False
    """Whether one model can be trained by several ranks (`run_hyperopt.py --ranks`), as `Learner` says."""
    evaluated: str = "val"
    """What `evaluate` scores where it is given no target: the validation phase ("val"), or a part that nothing in a
    study has seen ("test")."""
    associative: bool = True
    """Whether combining a combination (weighted by its members' sum) with one more member gives what combining all
    at once gives. True of means; selection is much faster with it."""

    @property
    def studies_folder(self) -> str:
        """The folder of this family's studies below NLB_HOME/ray_results, where RAY_TUNE_HOME is not set."""
        return self.name

    def of(self, config: Mapping[str, Any]) -> Family:
        """The family as it is for a `data` block, where that decides what it ranks by (classes or measured targets,
        say). A study's family is always asked this first."""
        return self

    # ---- data

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        """What `--data path` means: the `data` block that `load` takes.

        Args:
            path: as the user gave it: a file, or what else the family reads (a folder, a glob, a list).
            block: the `data` block of the search space that goes with it.

        Raises:
            BadInput: there is nothing.
        """
        file = expanded(path)
        if not file.exists():
            raise BadInput(f"{file}: no such file")
        return {**block, "path": str(file.resolve())}

    @abstractmethod
    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """A digest of the data that `config` describes: a study only ever continues on the data it began with.

        Cheap: names, sizes, sampled content.

        Raises:
            BadInput: missing or unreadable data.
        """

    @abstractmethod
    def load(self, config: Mapping[str, Any], phase: str) -> Any:
        """Read and check the data that `config` describes; it may be a handle that reads as it is used.

        Args:
            config: the `data` block of a search space.
            phase: "val" (train on train, score on validation) or "test" (final predictions).

        Raises:
            BadInput: missing, unreadable or wrong data.
        """

    def open(self, path: Path, phase: str) -> Any:
        """The data that a user hands over for prediction."""
        return self.load(self.own_data(str(path), {}), phase)

    def groups(self, data: Any) -> np.ndarray | None:
        """The group of each evaluated sample (integers): crops of a well, windows of a trace, voxels of an event.

        Groups are never split between folds, bags and a holdout. None: each sample is a group of its own.
        """
        return None

    def subset(self, data: Any, samples: np.ndarray) -> Any:
        """The same data with only these of its evaluated samples (ascending indices); training data as it is.

        Raises:
            BadInput: the family cannot, so it knows no `--holdout`.
        """
        raise BadInput(f"family {self.name} cannot hold out validation samples")

    def parts(self, data: Any) -> Iterator[Any]:
        """The evaluated samples in parts, in order, where predictions for all would not fit into memory."""
        yield data

    # ---- training

    @abstractmethod
    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The complete settings with defaults; checking them again changes nothing.

        Raises:
            BadInput: an unknown setting or an impossible value.
        """

    def feasible(self, config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
        """Whether a model of these settings can be made for the data at all. Searchers propose no point that cannot:
        the family need not make up a loss for it, nor a trial fail. Cheap: it is asked many times a proposal.

        Args:
            config: the `data` block.
            settings: fixed and proposed ones; what is missing takes its default.
        """
        return True

    @abstractmethod
    def learner(self, config: Mapping[str, Any], data: Any, place: Place, seed: int) -> Learner:
        """A fresh learner. `seed` fixes everything random in it.

        Raises:
            BadInput: the settings do not fit the data.
        """

    # ---- prediction

    @abstractmethod
    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        """A predictor from a snapshot. Training data is not needed.

        The predictor raises BadInput for data that is not of the shape the snapshot was trained on.
        """

    def predict_many(self, members: Sequence[Predictor], data: Any, place: Place) -> Iterable[Prediction]:
        """Predictions of several members for the same data, in order; a family may run them side by side."""
        return (member(data) for member in members)

    def combine(self, predictions: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Prediction:
        """The ensemble's prediction: the weighted mean of each floating array, in the space it is scored in.

        Anything else (ids, labels, row splits) must be equal in all members. Sums run in float64 in member order, so
        the result does not depend on how many are summed at once.

        Raises:
            BadInput: members do not predict the same thing.
        """
        total = float(np.sum(weights))
        out: Prediction = {}
        for name, first in predictions[0].items():
            for other in predictions[1:]:
                if name not in other or other[name].shape != first.shape:
                    raise BadInput(f"members differ in the shape of {name}: they are not of the same data")
            if not np.issubdtype(first.dtype, np.floating):
                if any(not np.array_equal(first, other[name]) for other in predictions[1:]):
                    raise BadInput(f"members differ in {name}, which is no average")
                out[name] = np.asarray(first)
                continue
            mean = np.zeros(first.shape, dtype=np.float64)
            for prediction, weight in zip(predictions, weights, strict=True):
                mean += (weight / total) * prediction[name]
            out[name] = mean.astype(first.dtype)
        return out

    def calibrate(self, reduced: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What `calibrated` needs of a built ensemble, such as a temperature; JSON values.

        Args:
            reduced: the ensemble's out-of-fold predictions in the form of `Scorer.reduce`: of each sample, by members
                that were chosen without it.
            truth: of the same samples.
        """
        return {}

    def calibrated(self, prediction: Mapping[str, np.ndarray], calibration: Mapping[str, Any]) -> Prediction:
        """An ensemble's prediction with `calibrate`'s numbers applied. It must leave the family's metric as it is; with
        no numbers it changes nothing."""
        return dict(prediction)

    def export(self, predicted: Iterable[tuple[Any, Prediction]], out: Path, about: Mapping[str, Any]) -> str:
        """Write predictions for a user: one HDF5 file, arrays appended part by part.

        Args:
            predicted: (part of the data, its prediction), in order.
            out: the file; it is whole or absent.
            about: attributes that say where it comes from.

        Returns:
            A line for people.
        """
        with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(dict(about))
            for _, prediction in predicted:
                for name, array in prediction.items():
                    if name not in file:
                        file.create_dataset(name, data=array, compression="gzip", maxshape=(None, *array.shape[1:]))
                    else:
                        rows = file[name].shape[0]
                        file[name].resize(rows + array.shape[0], axis=0)
                        file[name][rows:] = array
            shapes = ", ".join(f"{name} {dataset.shape}" for name, dataset in file.items())
        return f"{out}: {shapes}"

    # ---- scores

    @abstractmethod
    def truth(self, data: Any) -> Prediction:
        """What predictions are scored against.

        Raises:
            BadInput: the data holds none.
        """

    @abstractmethod
    def scorer(self, truth: Mapping[str, np.ndarray]) -> Scorer:
        """The family's metric, prepared for this truth."""

    def score(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        """The family's metric of one prediction."""
        return self.scorer(truth)(prediction)

    def pictures(self, data: Any, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        """The family's own figures for the report: (caption, plotly figure)."""
        return []

    def describe(self, data: Any) -> dict[str, str]:
        """The data in words, for the report: what -> how much."""
        return {}

    # ---- the family's benchmark and its original program, where it has them

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        """Scores by the field's own evaluation.

        Args:
            predicted: the ensemble's predict function, or a submission's file.
            config: the study's `data` block (empty for a file that belongs to none).
            target: the truth of a final test; None for what `evaluated` says.
            name: what to call a dataset that has no name.

        Returns:
            {dataset: {metric: value}}, not empty.

        Raises:
            BadInput: data or truth missing, or something that cannot be scored.
        """
        raise BadInput(f"family {self.name} has no evaluation of its own")

    def submission(self, predict: Predictor, config: Mapping[str, Any], out: Path) -> str | None:
        """Write what a public benchmark wants to be handed, where the dataset belongs to one.

        Returns:
            A line for people, or None if there is nothing to hand in.
        """
        return None

    def validate_submission(
        self, dataset: str, submission: Path, root: Path | None, size: int | None, say: Callable[[str], None]
    ) -> list[str]:
        """Recompute a published ensemble and compare a submission with it.

        Args:
            root: where the published checkpoints are (None: where `python -m download` puts them).
            size: of the ensemble (None: the published one).
            say: told what was compared with what.

        Returns:
            A line for each array that differs; nothing if every number agrees.

        Raises:
            BadInput: anything is missing or damaged.
        """
        raise BadInput(f"family {self.name} has no published submissions")

    def import_checkpoint(self, path: Path, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and weights (as `restore` takes them) of a checkpoint written by the family's original program.

        Args:
            path: the checkpoint.
            dataset: the name of the dataset it was trained on.

        Raises:
            BadInput: the file is not one, or the family knows no original program.
        """
        raise BadInput(f"family {self.name} cannot import checkpoints")

    def imported_data(self, dataset: str) -> dict[str, Any]:
        """The `data` block of a dataset whose checkpoints are imported."""
        return {"dataset": dataset}

    def original_space(
        self, name: str, data: Mapping[str, Any], fixed: Mapping[str, Any], space: Mapping[str, Any]
    ) -> dict[str, str]:
        """A search space in the original program's form: file name -> content. Nothing where it has none.

        Args:
            name: the dataset's.
            data, fixed: as in the YAML.
            space: name -> {kind: [bounds or options]}.
        """
        return {}
