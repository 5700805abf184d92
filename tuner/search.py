"""The search on Ray Tune: a study in, finished trials in its folder out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.stopper import NoopStopper

from studies import ledger
from studies.results import read_result
from studies.study import Study
from tuner import cluster, schedulers, watch
from tuner.feed import StudyFeed
from tuner.options import Options
from tuner.progress import Progress
from tuner.trial import HALTS
from tuner.worker import trainable

WORKER_RETRIES = 2


def search(study: Study, options: Options, progress: Callable[[int, int], Progress]) -> str:
    """Run trials until the study has `options.samples` ended ones. The caller holds the study's lock.

    Args:
        progress: makes the display, given the total and the number of trials that had ended before.

    Returns:
        "complete", "interrupted", or why it halted (`tuner.trial.HALTS`).

    Raises:
        BadInput: trials could never start.
    """
    _sweep(study)
    ended = ledger.ended_trials(study)
    interrupted = threading.Event()
    with (
        progress(options.samples, len(ended)) as shown,
        watch.signals(interrupted, shown.say),
        cluster.scratch(options, study.path) as scratch,
    ):
        feed = StudyFeed(study, options, str(scratch))
        left = max(0, options.samples - len(ended))
        with _running(study, options, scratch, interrupted) as workers:
            follow = _Follow(study, feed, shown, options.keep, interrupted)
            if left:
                # what several ranks need is theirs; the trial only waits for them, yet Ray wants it to need something
                alone = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
                own = alone if study.ranks == 1 else {"cpu": 0.0, "memory": 1.0}
                tuner = tune.Tuner(
                    tune.with_resources(trainable, own),
                    tune_config=tune.TuneConfig(
                        search_alg=feed,
                        scheduler=schedulers.create(options.scheduler, feed.metric, feed.mode),
                        num_samples=left,
                        max_concurrent_trials=workers,
                        # with ASHA the next trial may come at once; otherwise a worker's imports are kept, too.
                        # One that waits for its ranks can only be stopped by ending its process
                        reuse_actors=study.ranks == 1,
                    ),
                    run_config=tune.RunConfig(
                        name="ray",
                        storage_path=str(scratch),
                        callbacks=[follow],
                        failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
                        stop=_Stop(follow),
                        verbose=1 if options.verbose else 0,
                        log_to_file=False,
                    ),
                )
                tuner.fit()
            if feed.halt != "gone":
                with feed.disk_watched():
                    ledger.write(study, options.keep)
    _sweep(study)
    return feed.halt or ("interrupted" if interrupted.is_set() else "complete")


@contextmanager
def _running(study: Study, options: Options, scratch: Path, interrupted: threading.Event) -> Iterator[int]:
    """Ray, started here or joined before (`cluster.join`), and how many trials it takes at once.

    Raises:
        BadInput: it is too small.
        CommandFailed: it could not start.
    """
    try:
        with watch.watched(scratch, interrupted):
            if options.address is None:
                with watch.starting(scratch):
                    cluster.start(study.family, options, scratch)
            yield cluster.room(options, study.ranks)
    finally:
        ray.shutdown()


def _sweep(study: Study) -> None:
    """Remove what writes that were killed have left."""
    for leftover in study.path.rglob(".tmp-*"):
        leftover.unlink(missing_ok=True)


class _Stop(tune.Stopper):
    def __init__(self, follow: _Follow) -> None:
        self.follow = follow

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles what it is given to restore an experiment; ours is restored from the study's folder
        return NoopStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.follow.closing()


class _Follow(tune.Callback):
    """Keeps models.csv and feeds the display."""

    def __init__(self, study: Study, feed: StudyFeed, shown: Progress, keep: int, interrupted: threading.Event) -> None:
        self.study, self.feed, self.shown, self.keep = study, feed, shown, keep
        self.interrupted = interrupted

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()

    def closing(self) -> bool:
        self.feed.closed = self.feed.closed or self.interrupted.is_set()
        return self.feed.closed

    def _name(self, trial: Any) -> str:
        return str(self.feed.trial_ids[trial.trial_id])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._name(trial)
        if name not in self.shown.running:
            self.shown.start(name, name in self.feed.resumed)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("status") in HALTS:
            self.feed.stop(result["status"])
            return
        self.feed.look()
        score = result.get("score")
        score = score if score is not None and math.isfinite(score) else None
        self.shown.report(self._name(trial), result["progress"], score)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._show_end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._show_end(trial)

    def _show_end(self, trial: Any) -> None:
        name = self._name(trial)
        result = read_result(self.study.trials / name)
        if result is None:
            return  # interrupted, or about to be tried again
        with self.feed.disk_watched():
            ledger.write(self.study, self.keep)
        score = result["best"].get(self.study.family.metric.name)
        self.shown.end(name, result["status"], score, result["reason"])
