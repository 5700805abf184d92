"""What runs on a Ray worker: a trial, or one rank of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from ground.machine import tune_allocator
from models.base import Place
from studies.results import read_result
from studies.study import Study, open_study
from tuner.trial import Halt, RankEnded, StudyGone, flat, run_trial, settle

Report = Callable[[dict[str, Any]], None]


def trainable(config: dict[str, Any]) -> None:
    """The one Ray trainable: every family, every study."""
    if not (Path(config["study"]) / "study.json").exists():
        return _halt(StudyGone.why)
    study = open_study(Path(config["study"]))
    if config["ranks"] == 1:
        _train(config, study, 0, lambda metrics: tune.report(_told(study, metrics)))
    else:
        _train_on_ranks(config, study)


def _told(study: Study, metrics: dict[str, Any]) -> dict[str, Any]:
    """What Ray is told of a trial's metrics."""
    best = metrics.pop("objectives")
    return {
        **metrics,
        "percent": 100.0 * metrics["progress"],
        "score": best.get(study.family.metric.name, math.nan),
        "objective": best.get(study.config["objective"], math.nan),
    }


def _halt(why: str) -> None:
    tune.report({"status": why, "progress": 0.0, "percent": 0.0, "score": math.nan, "objective": math.nan})


def _train(config: dict[str, Any], study: Study, rank: int, report: Report) -> None:
    import torch

    tune_allocator()
    torch.set_num_threads(config["threads"])
    try:
        run_trial(
            study.trials / config["trial_id"],
            study.family,
            study.family.check({**study.config["fixed"], **config["settings"]}),
            study.load_data,
            Place(config["device"], config["threads"], rank, config["ranks"]),
            config["seed"],
            report,
            config["checkpoint_seconds"],
            study.config.get("init"),
        )
    except Halt as halt:
        if config["ranks"] > 1:
            raise
        _halt(halt.why)


def _train_on_ranks(config: dict[str, Any], study: Study) -> None:
    """One trial by several ranks: Ray Train starts them and torch's process group between them.

    A rank that dies ends this attempt; Ray Tune makes another, which goes on from the last checkpoint.
    """
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    from tuner.relay import Relay, relayed

    def trainer(relay: Relay) -> TorchTrainer:
        each = {"CPU": config["cpus"], "GPU": config["gpus"]}
        return TorchTrainer(
            _rank,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=config["ranks"], use_gpu=bool(config["gpus"]), resources_per_worker=each
            ),
            run_config=RunConfig(
                name=config["trial_id"],
                storage_path=config["scratch"],
                callbacks=[relay],  # type: ignore[list-item]
            ),
        )

    folder = study.trials / config["trial_id"]
    try:
        if read_result(folder) is None:
            relayed(trainer, tune.report)
    except WorkerGroupError as error:
        failures = list(error.worker_failures.values())
        for failure in failures:
            if isinstance(failure, Halt):
                return _halt(failure.why)
        # where a process died, that counts, whatever the others say; one that only lost its peers does not know why
        ends = [failure for failure in failures if isinstance(failure, RankEnded)]
        own = [end for end in ends if not end.lost_peers]
        if len(ends) < len(failures) or not own:
            raise
        settle(folder, study.family, own[0].status, own[0].reason, own[0].seconds, own[0].trace)
    result = read_result(folder)
    if result is not None:
        tune.report(_told(study, flat(result)))


def _rank(config: dict[str, Any]) -> None:
    from ray import train

    study = open_study(Path(config["study"]))
    _train(config, study, train.get_context().get_world_rank(), lambda metrics: train.report(_told(study, metrics)))
