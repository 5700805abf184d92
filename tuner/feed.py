"""Which trial comes next: what Ray asks, answered from the study's folder and the searcher."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from ground.errors import BadInput
from ground.files import NO_SPACE, write_json
from search_spaces import read_point
from studies import ledger
from studies.results import FAILED, STOPPED, read_result
from studies.study import Study
from tuner import searchers
from tuner.options import Options
from tuner.searchers.base import SpaceSearcher
from tuner.trial import StudyGone, settle


def objective_value(study: Study, result: dict[str, Any]) -> float | None:
    """The value that the searcher is told: the best the trial reached; None if it ended badly."""
    value = result["best"].get(study.config["objective"])
    return value if result["status"] in ("finished", STOPPED) and value is not None and math.isfinite(value) else None


def warm_points(path: Path, searcher: SpaceSearcher, objective: str) -> list[tuple[dict[str, Any], float | None]]:
    """The models of an earlier study's models.csv that lie in a search space, each trial's best, with their values.

    Args:
        searcher: knows the space, and whether more is better.

    Raises:
        BadInput: no such table, it does not say the objective, or none of its models lies in the space.
    """
    header = ledger.read(path)
    column = next((c for c in (objective, f"best_{objective}") if c in header), None)
    if column is None:
        raise BadInput(f"{path}: has no column {objective} to start from")
    frame = ledger.read(path, column).sort_values(column, ascending=searcher.mode == "min")
    points = []
    for _, row in frame.groupby("trial_id", sort=False).first().iterrows():
        settings = read_point(searcher.space, row)
        if searcher.contains(settings):
            points.append((settings, row[column]))
    if not points:
        raise BadInput(f"{path}: no model of it lies in this search space")
    return points


class StudyFeed(Searcher):
    """Hands Ray the study's interrupted trials first, then the searcher's proposals; each is on disk before it runs."""

    def __init__(self, study: Study, options: Options, scratch: str = "") -> None:
        objective = study.config["objective"]
        mode = next(m.mode for m in study.family.snapshots.values() if m.name == objective)
        super().__init__(metric="objective", mode=mode)
        self.study, self.options = study, options
        self.closed = False
        self.halt = ""
        self.scratch = scratch
        self.trial_ids: dict[str, str] = {}
        self.resumed: set[str] = set()
        self.searcher: SpaceSearcher = searchers.create(
            options.searcher, study.space, "objective", mode, study.config["seed"], self._feasible
        )
        self._interrupted: deque[dict[str, Any]] = deque()
        self._next = 0
        self._recall()

    def _feasible(self, point: Mapping[str, Any]) -> bool:
        config = self.study.config
        return self.study.family.feasible(config["data"], {**(config.get("fixed") or {}), **point})

    def _recall(self) -> None:
        if self.options.warm_start is not None:
            self._warm_start(self.options.warm_start)
        for config in ledger.trial_configs(self.study):
            self._next = max(self._next, config["number"] + 1)
            result = read_result(self.study.trials / config["trial_id"])
            if result is None:
                self._interrupted.append(config)
                self.searcher.add_pending_point(config["trial_id"], config["settings"])
            else:
                self.searcher.add_evaluated_point(config["settings"], objective_value(self.study, result))
        self.searcher.asked = self._next

    def _warm_start(self, path: Path) -> None:
        self.searcher.warm_start(warm_points(path, self.searcher, self.study.config["objective"]))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        self.look()
        with self.disk_watched():
            config = None if self.closed else self._next_trial()
        if self.closed or config is None:
            return str(Searcher.FINISHED)
        self.trial_ids[trial_id] = config["trial_id"]
        return {
            **config,
            "study": str(self.study.path.resolve()),
            "device": self.options.device,
            "threads": self.options.threads,
            "cpus": self.options.cpus_per_trial,
            "gpus": self.options.gpus_per_trial,
            "ranks": self.study.ranks,
            "scratch": self.scratch,
            "checkpoint_seconds": self.options.checkpoint_seconds,
        }

    @contextmanager
    def disk_watched(self) -> Iterator[None]:
        """A full disk ends the search in order; whatever was being written is absent, not half there."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.stop("disk full")

    def look(self) -> None:
        """A study that was deleted gets no more trials."""
        if not (self.study.path / "study.json").exists():
            self.stop(StudyGone.why)

    def stop(self, why: str) -> None:
        """No more trials, for a reason that `tuner.trial.Halt` names."""
        self.halt, self.closed = why, True

    def _next_trial(self) -> dict[str, Any] | None:
        if self._interrupted:
            config = self._interrupted.popleft()
            self.resumed.add(config["trial_id"])
            return config
        name = self.study.trial_id(self._next)
        point = self.searcher.suggest(name)
        if not isinstance(point, dict):
            return None
        config = {"trial_id": name, "number": self._next, "seed": self.study.trial_seed(self._next), "settings": point}
        write_json(self.study.trials / name / "config.json", config)
        self._next += 1
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by Ray; what the trial left in its folder is what counts."""
        name = self.trial_ids.get(trial_id)
        if name is None:
            return
        self.look()
        ended = read_result(self.study.trials / name)
        if ended is None and self.closed:
            return  # interrupted: it goes on another time
        if ended is None:
            percent = (result or {}).get("percent", 0.0)
            reason = "the worker process died" if error else f"stopped by the scheduler at {percent:.0f} %"
            with self.disk_watched():
                seconds = (result or {}).get("time_total_s", 0.0)
                folder, status = self.study.trials / name, FAILED if error else STOPPED
                ended = settle(folder, self.study.family, status, reason, seconds)
        if ended is None:
            return
        value = objective_value(self.study, ended)
        self.searcher.on_trial_complete(name, {"objective": value if value is not None else math.nan})

    def get_state(self) -> dict[str, Any]:
        return self.searcher.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:  # type: ignore[override]
        self.searcher.set_state(state)

    def save(self, checkpoint_path: str) -> None:
        self.searcher.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        self.searcher.restore(checkpoint_path)
