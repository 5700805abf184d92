"""Several ranks that train one network: real processes over gloo, against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Place
from models.cellspike import FAMILY
from tests.models.cellspike import written
from tests.models.cellspike.test_family import CONFIG

SMOOTH = {**CONFIG, "DROPOUT": 0.0, "SCHEDULE": "plateau", "LR": 2e-4, "EPOCHS": 4}


def epoch(learner: Any) -> list[float]:
    """Train to the end of the epoch: training and validation loss."""
    told = learner.train_piece()
    while not learner.due:
        told = learner.train_piece()
    return [told["train_loss"], learner.validate()["mse"]]


def work(rank: int, ranks: int, folder: str, runs: list[dict[str, Any]]) -> None:
    """Trainings of one rank, one after another; rank 0 writes what came of each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    try:
        for run in runs:
            data = FAMILY.load(run["block"], "val")
            learner = FAMILY.learner(FAMILY.check(run["config"]), data, Place(rank=rank, ranks=ranks), run["seed"])
            if run.get("from"):
                learner.load_state(load_state(Path(run["from"])))
            curve = []
            for _ in range(run["epochs"]):
                curve.append(epoch(learner))
            out = {"curve": torch.tensor(curve), "steps": learner.steps, "per_epoch": learner.feeder.steps}
            save_state(Path(folder) / f"{run['name']}-{rank}.safetensors", {**out, "weights": learner.weights()})
            if rank == 0:
                save_state(Path(folder) / f"{run['name']}-state.safetensors", learner.state())
            dist.barrier()
    finally:
        dist.destroy_process_group()


def together(folder: Path, runs: list[dict[str, Any]], ranks: int = 2) -> dict[str, list[dict[str, Any]]]:
    """What each rank wrote of each run."""
    folder.mkdir()
    mp.spawn(work, (ranks, str(folder), runs), nprocs=ranks)
    return {
        run["name"]: [load_state(folder / f"{run['name']}-{rank}.safetensors") for rank in range(ranks)] for run in runs
    }


def alone(block: dict[str, Any], config: dict[str, Any], epochs: int) -> tuple[np.ndarray, Any]:
    learner = FAMILY.learner(FAMILY.check(config), FAMILY.load(block, "val"), Place(), 3)
    return np.array([epoch(learner) for _ in range(epochs)]), learner


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    for cell in range(2):
        written.ontra(folder, cell, {"train": 256, "val": 13, "test": 3})
    return {"path": str(folder)}


@pytest.fixture(scope="module")
def runs(block: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Two ranks, several trainings; processes take seconds to start, so they do all of them."""
    folder = tmp_path_factory.mktemp("runs")
    base = {"block": block, "config": SMOOTH, "seed": 3, "epochs": 4}
    normed = {**CONFIG, "BATCH_NORM_CNN_SLOT": 3, "BATCH_SIZE": 40}
    return together(folder / "a", [
        {**base, "name": "local"},
        {**base, "name": "global", "config": {**SMOOTH, "BATCH_SIZE": 32, "CONST_LOCAL_BATCH": False}},
        # the whole epoch is one step, so the ranks' samples together are exactly those of one rank
        {**base, "name": "whole", "config": {**SMOOTH, "BATCH_SIZE": 256}},
        {**base, "name": "uncut", "config": normed, "epochs": 4},
        {**base, "name": "cut", "config": normed, "epochs": 2},
        {**base, "name": "resumed", "config": normed, "epochs": 2, "from": str(folder / "a" / "cut-state.safetensors")},
    ])  # fmt: skip


def test_ranks_end_with_the_same_network(runs: dict[str, list[dict[str, Any]]]) -> None:
    for found in runs.values():
        one, other = (rank["weights"]["network"] for rank in found)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert torch.equal(found[0]["curve"], found[1]["curve"])


def test_gradients_are_those_of_all_samples(block: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> None:
    curve, learner = alone(block, {**SMOOTH, "BATCH_SIZE": 512}, 4)
    np.testing.assert_allclose(runs["whole"][0]["curve"].numpy(), curve, rtol=1e-4)
    told = runs["whole"][0]["weights"]["network"]
    for name, value in learner.weights()["network"].items():
        np.testing.assert_allclose(told[name].numpy(), value.numpy(), rtol=1e-3, atol=2e-5)


def test_two_ranks_learn_as_one_with_twice_the_batch(
    block: dict[str, Any], runs: dict[str, list[dict[str, Any]]]
) -> None:
    curve, learner = alone(block, {**SMOOTH, "BATCH_SIZE": 32}, 4)
    local, shared = (runs[name][0]["curve"].numpy() for name in ("local", "global"))
    np.testing.assert_allclose(local, shared)  # 16 a rank, or 32 of both: the same
    assert runs["local"][0]["per_epoch"] == learner.feeder.steps == 16
    np.testing.assert_allclose(local[:, 1], curve[:, 1], rtol=0.01)
    # an epoch's mean over other orders of the samples
    np.testing.assert_allclose(local[:, 0], curve[:, 0], rtol=0.01)


def test_ranks_resume_as_if_never_stopped(runs: dict[str, list[dict[str, Any]]]) -> None:
    whole, resumed = (runs[name][1]["weights"]["network"] for name in ("uncut", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert runs["resumed"][0]["steps"] == runs["uncut"][0]["steps"]
    # ranks that did the same would resume alike, too: they have other samples and other dropout
    assert not np.array_equal(runs["uncut"][0]["curve"], runs["local"][0]["curve"][:4])


def test_a_global_batch_that_ranks_cannot_share_is_refused(block: dict[str, Any]) -> None:
    config = FAMILY.check({**CONFIG, "BATCH_SIZE": 33, "CONST_LOCAL_BATCH": False})
    with pytest.raises(BadInput, match="BATCH_SIZE 33 cannot be shared by 2 ranks"):
        FAMILY.learner(config, FAMILY.load(block, "val"), Place(rank=0, ranks=2), 0)
