"""Training of one inverting network, on one device or on several ranks, to be stopped and continued at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ground.errors import BadInput
from ground.machine import available_memory
from ground.states import fit_network
from models.base import Diverged, Place, Prediction, StepLearner
from models.cellspike.data import CellData
from models.cellspike.feeder import SHARE, Feeder, local_batch
from models.cellspike.fits import refuse_unfit
from models.cellspike.metrics import MSE, Moments
from models.cellspike.network import build
from models.cellspike.predictor import PREDICT_BATCH, CellPredictor, Inverse
from models.cellspike.ranks import Ranks
from models.cellspike.schedule import Schedule
from models.cellspike.traces import Batch, refuse_not_finite, sequence

PIECE_SECONDS = 30.0
_FIRST_PIECE = 8  # steps, before any was timed


class CellSpikeLearner(StepLearner):
    """One network in training. A step is one minibatch on each rank; a piece ends with the epoch at the latest.

    Each epoch ends with a look at the validation rows, which plateau and early stop go by; `validate` says what was
    seen there. Ranks share training rows, validation rows and gradients; batch normalisation has the statistics of
    each rank's own batch, and the running ones are their means.

    Args:
        config: complete settings (`config.resolve`).
        data: training rows and those it validates on (`data.eval`).
        place: where it runs.
        seed: fixes initial weights, order and dropout.

    Raises:
        BadInput: the settings do not fit the traces.
    """

    def __init__(self, config: Mapping[str, Any], data: CellData, place: Place, seed: int) -> None:
        self.config, self.data, self.seed = dict(config), data, seed
        self.device = torch.device(place.device)
        self.ranks = Ranks(place, self.device)
        begun = time.perf_counter()
        self._about = {**data.about(), "extras": data.train.extras_moments()}
        refuse_unfit(config, self._about["shape"], len(data.names))
        limit = data.limit or SHARE * available_memory() / place.ranks
        batch = local_batch(config["BATCH_SIZE"], place.ranks, config["CONST_LOCAL_BATCH"])
        self.feeder = Feeder(data.train, batch, seed, place.rank, place.ranks, limit, self.device)
        truth = data.eval.targets()
        if truth is None:
            raise BadInput(f"{data.source}: no parameters to validate against")
        start, stop = self.ranks.span(len(data.eval))
        # this rank's share of the validation rows
        self._eval = data.eval if place.ranks == 1 else data.eval.take(np.arange(start, stop))
        self._truth, self._typical = truth[start:stop], truth.mean(0, dtype=np.float64)
        if self._eval.bytes() <= limit / 4:
            self._eval.held()
        bins, probes, towers, features = self._about["shape"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(config, bins, probes, len(data.names), features, towers)
        self.inverse = Inverse(network, self._about, self.device)
        self.network = self.inverse.network
        self._parameters = list(self.network.parameters())
        self._optimizer = _optimizer(config, self._parameters)
        self.schedule = Schedule(config)
        self.total, self.every = config["EPOCHS"] * self.feeder.steps, self.feeder.steps
        self._batches: Iterator[Batch] | None = None
        self._piece = _FIRST_PIECE
        self._epoch = np.zeros(4)  # of the epoch so far: loss times steps, steps, seconds, seconds of waiting for data
        self._seen: tuple[int, dict[str, float]] | None = None
        self._load_seconds = time.perf_counter() - begun

    # ---- how far

    @property
    def exhausted(self) -> bool:
        return self.schedule.exhausted

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.rate(self.step // self.feeder.steps, self.step / self.total)

    # ---- training

    def train_piece(self) -> dict[str, float]:
        """Steps for about half a minute, up to the end of the epoch.

        Returns:
            Of the epoch so far: train_loss, epoch_s (its seconds, validation left out), wait_s (of them, those spent
            waiting for data); samples_s, samples of all ranks a second in this piece; load_s, seconds that making the
            learner and reading its data took; lr.
        """
        begun, waited, epoch = time.perf_counter(), 0.0, self.step // self.feeder.steps
        place = self.step % self.feeder.steps
        if place == 0:
            self._epoch = np.zeros(4)
        if self._batches is None or place == 0:
            self._batches = self.feeder.epoch(epoch, place)
        count = min(self._piece, self.feeder.steps - place)
        rate, total = self.rate(), torch.zeros((), device=self.device)
        self.network.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for _ in range(count):
                start = time.perf_counter()
                batch = next(self._batches)
                waited += time.perf_counter() - start
                rate = self.rate()
                total += self._update(batch, rate)
        self.ranks.average_buffers(self.network)
        loss = float(self.ranks.summed(np.array([float(total)]))[0]) / self.ranks.count
        seconds = self.ranks.largest(time.perf_counter() - begun)
        self._piece = int(min(max(1, PIECE_SECONDS * count / seconds), 100_000))
        self._epoch += (loss, count, seconds, waited)
        if not math.isfinite(loss):
            self._blame_data(epoch, place, count)
            raise Diverged(f"training loss is {loss / count} at step {self.step}")
        out = {
            "train_loss": self._epoch[0] / self._epoch[1],
            "lr": rate,
            "samples_s": count * self.feeder.batch * self.ranks.count / seconds,
            "epoch_s": self._epoch[2],
            "wait_s": self._epoch[3],
            "load_s": self._load_seconds,
        }
        if self.step % self.feeder.steps == 0:
            self.schedule.note(epoch, self._look()[MSE.name])
        return {name: float(value) for name, value in out.items()}

    def _update(self, batch: Batch, rate: float) -> Tensor:
        config = self.config
        # dropout differs between ranks and steps, and is the same wherever training is cut and continued
        torch.manual_seed(sequence([self.seed, self.ranks.rank, self.step, 1]))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        traces, features = self.inverse.inputs(batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda" and config["AMP"]):
            output = self.network(traces, features)
        targets = batch.targets.to(self.device, non_blocking=True)
        if config["LOSS"] == "huber":
            loss = F.huber_loss(output.float(), targets, delta=config["HUBER_DELTA"])
        else:
            loss = F.mse_loss(output.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self._parameters)
        if config["CLIP"]:
            torch.nn.utils.clip_grad_norm_(self._parameters, config["CLIP"])
        self._optimizer.step()
        self.step += 1
        return loss.detach()

    def _blame_data(self, epoch: int, place: int, count: int) -> None:
        """Raises BadInput where it was traces that are no numbers; those held in memory were looked at before."""
        if not self.feeder.in_memory:
            for batch in islice(self.feeder.epoch(epoch, place), count):
                refuse_not_finite(self.feeder.shard, batch)

    # ---- validation

    def validate(self) -> dict[str, float]:
        return dict(self._look())

    def _look(self) -> dict[str, float]:
        """Scores on the validation rows of all ranks, computed once a step."""
        if self._seen is not None and self._seen[0] == self.step:
            return self._seen[1]
        moments = Moments(self._typical)
        for batch in self._eval.batches(PREDICT_BATCH):
            moments.add(self.inverse.outputs(batch).cpu().numpy(), self._truth[batch.where])
        moments.sums = self.ranks.summed(moments.sums)
        metrics = moments.metrics(self.data.names)
        if not math.isfinite(metrics[MSE.name]):
            for batch in self._eval.batches(PREDICT_BATCH):
                refuse_not_finite(self._eval, batch)
            raise Diverged(f"validation gives numbers that are not finite at step {self.step}")
        self._seen = (self.step, metrics)
        return metrics

    def predict(self, data: Any) -> Prediction:
        return CellPredictor(self.inverse, self._about)(data)

    # ---- states

    def state(self) -> dict[str, Any]:
        return {
            "network": _copied(self.network),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "step": self.step,
            "epoch": self._epoch.tolist(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        saved = dict(state["optimizer"])
        # file formats know only text keys
        saved["state"] = {int(k): v for k, v in saved["state"].items()}
        self._optimizer.load_state_dict(saved)
        self.schedule.load_state(state["schedule"])
        self.step = int(state["step"])
        self._epoch = np.array(state["epoch"], float)
        self._batches = self._seen = None

    def weights(self) -> dict[str, Any]:
        return {"network": _copied(self.network), "about": self._about}

    def start_from(self, weights: Mapping[str, Any]) -> None:
        fit_network(self.network, weights)
        self._seen = None


def _optimizer(config: Mapping[str, Any], parameters: list[Any]) -> torch.optim.Optimizer:
    common = {"lr": config["LR"], "eps": config["EPS"], "weight_decay": config["WEIGHT_DECAY"]}
    if config["OPTIMIZER"] == "nadam":
        return torch.optim.NAdam(parameters, **common)
    kind = torch.optim.AdamW if config["OPTIMIZER"] == "adamw" else torch.optim.Adam
    return kind(parameters, fused=True, **common)


def _copied(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
