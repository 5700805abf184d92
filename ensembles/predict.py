"""Predictions of many members: member by member, part by part, a few in memory at a time.

Those that selection needs again lie in a scratch folder of the study (`.predictions-*`) until the ensemble is
built; nothing is predicted twice.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembles.members import Candidate, restore
from ensembles.pool import precise
from ground.errors import BadInput
from ground.files import NO_SPACE
from models.base import Family, Place, Prediction, Predictor

_SCRATCH = ".predictions-"
FAILURES = (ValueError, OSError, RuntimeError, LookupError, TypeError)
"""What a checkpoint that cannot be used raises, BadInput among them; also torch's own errors."""


class Kept(Mapping[str, np.ndarray]):
    """One member's prediction on disk. Read as a whole it is the parts one after another, array by array."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[dict[str, Path]] = []

    def add(self, prediction: Mapping[str, np.ndarray]) -> None:
        """The prediction for the next part.

        Raises:
            BadInput: it is not finite, or not of the arrays that the parts before were.
        """
        for name, array in prediction.items():
            if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
                raise BadInput(f"predicts {name} that is not finite")
        if self._files and set(self._files[0]) != set(prediction):
            raise BadInput("predicts other arrays for one part of the data than for another")
        self._folder.mkdir(exist_ok=True)
        files = {}
        for number, (name, array) in enumerate(prediction.items()):
            files[name] = self._folder / f"{len(self._files)}-{number}.npy"
            np.save(files[name], array, allow_pickle=False)
        self._files.append(files)

    def part(self, number: int) -> Prediction:
        """The prediction for one part, mapped from disk."""
        return {name: np.load(file, mmap_mode="r") for name, file in self._files[number].items()}

    def __getitem__(self, name: str) -> np.ndarray:
        arrays = [np.load(files[name], mmap_mode="r") for files in self._files]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files[0] if self._files else {})

    def __len__(self) -> int:
        return len(self._files[0]) if self._files else 0


@contextlib.contextmanager
def scratch(study_path: Path) -> Iterator[Path]:
    """A folder for predictions, gone at the end; what a killed build left goes first. The caller holds the lock."""
    for leftover in study_path.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=study_path))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep(
    family: Family,
    found: Sequence[Candidate],
    data: Any,
    place: Place,
    folder: Path,
    left_out: Callable[[Candidate, str], None],
) -> list[tuple[Candidate, Kept]]:
    """Predictions of those candidates that can be used, in order, written below `folder`.

    Args:
        folder: exists.
        left_out: is told of each that cannot, and why.
    """
    done: list[tuple[Candidate, Kept]] = []
    for start in range(0, len(found), max(1, place.threads)):
        batch: list[tuple[Candidate, Predictor, Kept]] = []
        for candidate in found[start : start + max(1, place.threads)]:
            try:
                candidate.check()
                batch.append((candidate, restore(family, candidate.path, place), Kept(folder / candidate.name)))
            except FAILURES as error:
                left_out(candidate, reason(error))
        for part in family.parts(data) if batch else ():
            going_on = []
            outcomes = _each(family, [predictor for _, predictor, _ in batch], part, place)
            for (candidate, predictor, kept), outcome in zip(batch, outcomes, strict=True):
                try:
                    if isinstance(outcome, Exception):
                        raise outcome
                    kept.add(outcome)
                    going_on.append((candidate, predictor, kept))
                except FAILURES as error:
                    left_out(candidate, reason(error))
            batch = going_on
        done += [(candidate, kept) for candidate, _, kept in batch]
    return done


def _each(family: Family, members: Sequence[Predictor], part: Any, place: Place) -> Iterator[Prediction | Exception]:
    """Each member's prediction, or what it raised. One that fails beside others is tried once more alone."""
    done = 0
    while done < len(members):
        try:
            for prediction in family.predict_many(members[done:], part, place):
                done += 1
                yield prediction
            return
        except FAILURES:
            outcome: Prediction | Exception
            try:
                outcome = members[done](part)
            except FAILURES as error:
                outcome = error
            done += 1
            yield outcome


def reason(error: Exception) -> str:
    """One line for people.

    Raises:
        OSError: `error`, where the disk is full: that is nobody's fault but the disk's.
    """
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        raise error
    line = (str(error).splitlines() or [""])[0][:200]
    return line if isinstance(error, BadInput) else f"{type(error).__name__}: {line}"


def combine(family: Family, predictions: Iterable[Prediction], weights: Sequence[float]) -> Prediction:
    """`Family.combine` of predictions that come one by one, with two in memory where the family is associative."""
    if not family.associative:
        return family.combine(list(predictions), weights)
    coming = iter(predictions)
    first = next(coming)
    combined, total = precise(family.combine([first], [weights[0]])), float(weights[0])
    for prediction, weight in zip(coming, weights[1:], strict=True):
        combined = family.combine([combined, prediction], [total, weight])
        total += weight
    return {k: v.astype(first[k].dtype) if k in first else v for k, v in combined.items()}
