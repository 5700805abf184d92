"""One trial, from its folder to its result. No Ray here: it can be run and debugged alone.

trials/<trial_id>/config.json        what it was told to be
                  last.safetensors   where to go on after an interruption
                  <snapshot>.safetensors + .json
                  metrics.csv        one row a validation
                  result.json        how it ended; its presence means that it did
"""

from __future__ import annotations

import contextlib
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
from studies.results import DIVERGED, FAILED, FINISHED, OOM, read_result

REPORT_SECONDS = 1.0
Report = Callable[[dict[str, Any]], None]


class DiskFull(OSError):
    """No space is left for checkpoints: the search stops, and goes on when there is."""


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
        report({**result["metrics"], **_flat(result)})
        return result


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": result["status"], "progress": 1.0, "objectives": result["best"]}


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
            if validated or time.monotonic() - told >= REPORT_SECONDS:
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
        keeper.explain(traceback.format_exc())
        return keeper.result(FAILED, (f"{type(error).__name__}: {error}".splitlines() or [""])[0])


class Keeper:
    """Writes what a trial leaves behind: metrics, snapshots, the point to go on from. Of several ranks only the first
    writes."""

    def __init__(self, folder: Path, family: Family, settings: Mapping[str, Any], place: Place) -> None:
        self.folder, self.family, self.settings, self.place = folder, family, dict(settings), place
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
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
        if self.place.rank:
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
        if self.place.rank:
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

    def explain(self, trace: str) -> None:
        if not self.place.rank:
            write_text(self.folder / "error.txt", trace)

    def end(self, result: Mapping[str, Any]) -> None:
        if not self.place.rank:
            write_json(self.folder / "result.json", result)
            (self.folder / "last.safetensors").unlink(missing_ok=True)

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
