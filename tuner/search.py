"""The search on Ray Tune: a study in, finished trials in its folder out."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ground.errors import BadInput
from ground.machine import available_cpus
from models.base import Family
from studies import ledger
from studies.results import read_result
from studies.study import Study
from tuner.options import Options
from tuner.progress import Progress
from tuner.resources import plan

# before ray is imported: these are read at import
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how often ranks are asked for their reports
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")

import ray
from ray import tune
from ray.tune.stopper import NoopStopper

from tuner import schedulers
from tuner.feed import StudyFeed
from tuner.worker import trainable

WORKER_RETRIES = 2
_ROOT = Path(__file__).resolve().parent.parent


Ending = Literal["complete", "interrupted", "disk full"]


def search(study: Study, options: Options, progress: Callable[[int, int], Progress]) -> Ending:
    """Run trials until the study has `options.samples` ended ones. The caller holds the study's lock.

    Args:
        progress: makes the display, given the total and the number of trials that had ended before.

    Raises:
        BadInput: trials could never start.
    """
    for leftover in study.path.rglob(".tmp-*"):  # of writes that were killed
        leftover.unlink(missing_ok=True)
    ended = ledger.ended_trials(study)
    with _cluster(study, options) as workers:
        feed = StudyFeed(study, options)
        left = max(0, options.samples - len(ended))
        interrupted = threading.Event()
        with (
            _scratch(study, options) as scratch,
            progress(options.samples, len(ended)) as shown,
            _signals(interrupted),
        ):
            follow = _Follow(study, feed, shown, options.keep, interrupted)
            if left:
                feed.scratch = scratch
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
                        storage_path=scratch,
                        callbacks=[follow],
                        failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
                        stop=_Stop(follow),
                        verbose=1 if options.verbose else 0,
                        log_to_file=False,
                    ),
                )
                tuner.fit()
            with feed.disk_watched():
                ledger.write(study, options.keep)
    return "disk full" if feed.disk_full else "interrupted" if interrupted.is_set() else "complete"


@contextmanager
def _cluster(study: Study, options: Options) -> Iterator[int]:
    """A local Ray, or the running one at `address`, and how many trials it takes at once.

    Raises:
        BadInput: there is none, or it is too small.
    """
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    quiet = {} if options.verbose else {"logging_level": "ERROR", "log_to_driver": False}
    common: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path, **_passed(study.family)}},
        "configure_logging": True,
        **quiet,
    }
    try:
        if options.address is None:
            ray.init(num_cpus=available_cpus(), include_dashboard=False, object_store_memory=200 * 2**20, **common)
        else:
            ray.init(address=options.address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster at {options.address}" if options.address else "Ray could not start"
        raise BadInput(f"{where} ({str(error).splitlines()[0]})") from None
    try:
        offered = ray.cluster_resources()
        yield plan(
            offered.get("CPU", 0),
            offered.get("GPU", 0),
            options.workers,
            options.cpus_per_trial,
            options.gpus_per_trial,
            study.ranks,
        )
    finally:
        ray.shutdown()


@contextmanager
def _scratch(study: Study, options: Options) -> Iterator[str]:
    """Where Ray keeps its own account of the trials, which nothing reads; on a cluster all nodes must see it."""
    if options.address is not None:
        yield str((study.path / ".ray").resolve())
        return
    with tempfile.TemporaryDirectory(prefix="concert-ray-", ignore_cleanup_errors=True) as folder:
        yield folder


def _passed(family: Family) -> dict[str, str]:
    """Variables that decide what a trial finds; a running cluster's workers do not inherit them."""
    named = {*family.folders, *family.environment}
    return {k: v for k, v in os.environ.items() if k in named or k.startswith("CONCERT_")}


@contextmanager
def _signals(interrupted: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search in order; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: object) -> None:
        if interrupted.is_set():
            os._exit(128 + number)
        interrupted.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


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
        if result.get("status") == "disk full":
            self.feed.disk_full = self.feed.closed = True
            return
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
