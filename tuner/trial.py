"""One trial, from its folder to its result. No Ray here: it can be run and debugged alone.

trials/<trial_id>/config.json        what it was told to be
                  last.safetensors   where to go on after an interruption
                  <snapshot>.safetensors + .json
                  metrics.csv        one row a validation
                  result.json        how it ended; its presence means that it did
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from ground.files import NO_SPACE, atomic_path, sha256, write_json, write_text
from ground.states import load_state, save_state
from models.base import Diverged, Family, Learner, Place
from studies import transfer
from studies.results import DIVERGED, FAILED, FINISHED, OOM, read_card, read_result

REPORT_SECONDS = 1.0
Report = Callable[[dict[str, Any]], None]


class Halt(OSError):
    """It is the study's place that fails, not the trial: the whole search stops."""

    why: str


class DiskFull(Halt):
    """No space is left for checkpoints; the search goes on when there is."""

    why = "disk full"


class StudyGone(Halt):
    """The study's folder is not there any more; nothing of it is made again."""

    why = "gone"


HALTS = (DiskFull.why, StudyGone.why)


class RankEnded(RuntimeError):
    """One of several ranks cannot go on; whoever started them settles what that means for the trial.

    Attributes:
        status, reason, seconds: as in a trial's result.
        trace: the traceback, or "".
        lost_peers: it is only that the other ranks did not answer.
    """

    def __init__(self, status: str, reason: str, seconds: float, trace: str, lost_peers: bool) -> None:
        super().__init__(status, reason, seconds, trace, lost_peers)
        self.status, self.reason, self.seconds, self.trace, self.lost_peers = status, reason, seconds, trace, lost_peers


def run_trial(
    folder: Path,
    family: Family,
    settings: Mapping[str, Any],
    load: Callable[[], Any],
    place: Place,
    seed: int,
    report: Report,
    checkpoint_seconds: float = 30.0,
    init: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train one model to its end, keeping its best snapshots, and write `result.json`.

    An interrupted trial goes on from `last.safetensors`, to the very end it would have reached. One that was
    already finished is only reported. Whatever else goes wrong, in the model, its data or their files, is the
    trial's end with its reason, never the search's; the traceback is in `error.txt`.

    Args:
        load: gives the data.
        init: the snapshot whose weights this one begins with, as study.json has it.

    Raises:
        DiskFull: nothing is lost, nothing half-written is left.
        StudyGone: somebody deleted the trial's folder.
        RankEnded: one of several ranks ended in any other way than well; no result is written.
    """
    # a worker of a killed driver may live a moment longer
    lock = contextlib.nullcontext() if place.rank else FileLock(folder / ".lock", timeout=120)
    with lock:
        result = read_result(folder)
        if result is None:
            keeper = Keeper(folder, family, settings, place)
            try:
                result = _train(keeper, load, seed, report, checkpoint_seconds, init)
                keeper.end(result)
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise DiskFull(error.errno, f"no space left on the disk of {folder}") from None
                raise
            if not folder.is_dir() and not place.rank:
                raise StudyGone(errno.ENOENT, f"{folder} was deleted")
        report(flat(result))
        return result


def flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's result as its last report."""
    return {**result["metrics"], "status": result["status"], "progress": 1.0, "objectives": result["best"]}


def settle(folder: Path, family: Family, status: str, reason: str, seconds: float, trace: str = "") -> dict[str, Any]:
    """Write the result of a trial that could not itself: it was stopped, or lost its process."""
    best = {}
    for snapshot, metric in family.snapshots.items():
        card = read_card(folder / f"{snapshot}.json")
        if card:
            best[metric.name] = card["metrics"].get(metric.name)
    result = {"status": status, "reason": reason, "seconds": seconds, "best": best, "metrics": {}}
    _end(folder, result, trace)
    return result


def _end(folder: Path, result: Mapping[str, Any], trace: str) -> None:
    if trace:
        write_text(folder / "error.txt", trace)
    write_json(folder / "result.json", result)
    (folder / "last.safetensors").unlink(missing_ok=True)


def _train(
    keeper: Keeper,
    load: Callable[[], Any],
    seed: int,
    report: Report,
    checkpoint_seconds: float,
    init: Mapping[str, str] | None,
) -> dict[str, Any]:
    family = keeper.family
    try:
        learner = family.learner(keeper.settings, load(), keeper.place, seed)
        start = transfer.snapshot(init)
        if start is not None:
            learner.start_from(load_state(start, keeper.place.device)["weights"])
        keeper.resume(learner)
        _agree(learner, keeper.place)
        saved = told = time.monotonic()
        while not learner.done:
            metrics = learner.train_piece()
            validated = learner.due or learner.done
            if validated:
                metrics.update(learner.validate())
                keeper.note(learner, metrics)
            if time.monotonic() - saved >= checkpoint_seconds:
                keeper.checkpoint(learner)
                saved = time.monotonic()
            # several ranks report together
            if validated or (keeper.place.ranks == 1 and time.monotonic() - told >= REPORT_SECONDS):
                told = time.monotonic()
                report({**metrics, "progress": learner.progress, "step": learner.steps, "objectives": keeper.best})
        if math.isnan(keeper.best.get(family.metric.name, math.nan)):
            return keeper.result(DIVERGED, f"{family.metric.name} was never a finite number")
        return keeper.result(FINISHED, "")
    except Diverged as error:
        return keeper.result(DIVERGED, str(error))
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        return keeper.result(OOM, (str(error).splitlines() or ["out of memory"])[0])
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            return keeper.result(OOM, str(error).splitlines()[0])
        keeper.trace = traceback.format_exc()
        keeper.lost_peers = _lost_peers(error)
        return keeper.result(FAILED, (f"{type(error).__name__}: {error}".splitlines() or [""])[0])


def _agree(learner: Learner, place: Place) -> None:
    """Several ranks begin at the same step, or none does."""
    if place.ranks == 1:
        return
    steps: list[Any] = [None] * place.ranks
    torch.distributed.all_gather_object(steps, learner.steps)
    if len(set(steps)) > 1:
        raise RuntimeError(f"the ranks go on from different steps ({steps}): they do not see the same study folder")


def _lost_peers(error: Exception) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "/gloo/", "NCCL")
    )


class Keeper:
    """Writes what a trial leaves behind: metrics, snapshots, the point to go on from. Of several ranks only the first
    writes."""

    def __init__(self, folder: Path, family: Family, settings: Mapping[str, Any], place: Place) -> None:
        self.folder, self.family, self.settings, self.place = folder, family, dict(settings), place
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.trace = ""
        self.lost_peers = False
        self._before = 0.0
        self._started = time.monotonic()
        self._board: Any = None

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def resume(self, learner: Learner) -> None:
        try:
            state = load_state(self.folder / "last.safetensors")
        except (FileNotFoundError, ValueError):
            return
        learner.load_state(state["learner"])
        self.rows, self._before = state["rows"], state["seconds"]
        self.best = dict(state["best"])

    def checkpoint(self, learner: Learner) -> None:
        if self.place.rank or not self.folder.is_dir():
            return
        save_state(
            self.folder / "last.safetensors",
            {"learner": learner.state(), "rows": self.rows, "best": self.best, "seconds": self.seconds},
        )

    def note(self, learner: Learner, metrics: Mapping[str, float]) -> None:
        row = {"step": learner.steps, "seconds": round(self.seconds, 2), **metrics}
        self.rows.append(row)
        better = []
        for name, metric in self.family.snapshots.items():
            value = metrics.get(metric.name, math.nan)
            if metric.better(value, self.best.get(metric.name, math.nan)):
                self.best[metric.name] = value
                better.append(name)
        if self.place.rank or not self.folder.is_dir():
            return
        with atomic_path(self.folder / "metrics.csv") as path:
            pd.DataFrame(self.rows).to_csv(path, index=False)
        if better:
            weights = learner.weights()
            for name in better:
                self._snapshot(name, weights, row)
        self._tensorboard(row)

    def _snapshot(self, name: str, weights: Mapping[str, Any], row: Mapping[str, float]) -> None:
        path = self.folder / f"{name}.safetensors"
        save_state(
            path, {"family": self.family.name, "settings": self.settings, "metrics": dict(row), "weights": weights}
        )
        write_json(path.with_suffix(".json"), {"metrics": row, "sha256": sha256(path)})

    def _tensorboard(self, row: Mapping[str, float]) -> None:
        if self._board is None:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tb"), purge_step=int(row["step"]))
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(name, value, int(row["step"]))
        self._board.flush()

    def end(self, result: Mapping[str, Any]) -> None:
        if self.place.ranks > 1 and result["status"] != FINISHED:
            raise RankEnded(result["status"], result["reason"], result["seconds"], self.trace, self.lost_peers)
        if not self.place.rank and self.folder.is_dir():
            _end(self.folder, result, self.trace)

    def result(self, status: str, reason: str) -> dict[str, Any]:
        if self._board is not None:
            self._board.close()
        last = self.rows[-1] if self.rows else {}
        return {
            "status": status,
            "reason": reason,
            "seconds": round(self.seconds, 2),
            "best": self.best,
            "metrics": last,
        }
