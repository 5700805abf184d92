"""Training of one network on cells, in pieces of some steps, to be stopped and continued anywhere."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput
from ground.states import fit_network
from models.base import Diverged, Metric, Place, Prediction, StepLearner
from models.cellprofiler import augment, choices, pixels, pretrained
from models.cellprofiler import config as settings
from models.cellprofiler.choices import Chosen
from models.cellprofiler.data import CellData
from models.cellprofiler.feeder import Batch, Feeder
from models.cellprofiler.metrics import BALANCED, MAP, balanced_accuracy, confusion
from models.cellprofiler.network import LAYOUT, CellNetwork, placed
from models.cellprofiler.predictor import CellPredictor, Extractor, Seen, look
from models.cellprofiler.schedule import Plateau, rate

PIECE_SECONDS = 45.0


class CellLearner(StepLearner):
    """One network in training. A step is one minibatch; a piece ends with the epoch at the latest.

    Args:
        config: complete settings (`config.resolve`).
        data: training cells, and the wells it validates on.
        place: where it runs.
        seed: fixes initial weights, draw, order, augmentation, mixup and dropout.

    Raises:
        BadInput: the settings do not fit the crops, or WEIGHTS the network.
    """

    def __init__(self, config: Mapping[str, Any], data: CellData, place: Place, seed: int) -> None:
        if place.ranks > 1:
            raise BadInput("cellprofiler trains a network on one device; run more trials side by side instead")
        self.config, self.data, self.seed = dict(config), data, seed
        self.device = torch.device(place.device)
        self.batch = place.batch or int(config["EVAL_BATCH"])
        self.about = {
            "classes": list(data.classes),
            "channels": list(data.store.channels),
            "box": int(data.store.box),
            "crop": data.crop,
        }
        targets = data.targets[data.train]
        self.feeder = Feeder(data.store, data.train, targets, config["BATCH_SIZE"], seed, config["BALANCE"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CellNetwork(config, len(data.store.channels), data.store.box, len(data.classes))
            pretrained.initialise(network, config)
        self.network = placed(network, self.device)
        self._parameters = list(self.network.parameters())
        self._kernels = [p for p in self._parameters if p.ndim > 1]
        self._optimizer = _optimizer(config, self._parameters)
        self._plateau = Plateau(config["LR"])
        self.total, self.every = config["EPOCHS"] * self.feeder.steps, self.feeder.steps
        self.patience = config["PATIENCE"]
        self._epoch_loss = 0.0
        self._batches: Generator[Batch, None, None] | None = None
        self._looked: tuple[int, Seen, Chosen] | None = None
        self._best = math.nan

    # ---- how far

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._plateau.factor * rate(self.config, self.step // self.feeder.steps)

    # ---- training

    def train_piece(self) -> dict[str, float]:
        """Up to PIECE_STEPS steps, fewer where the epoch ends or they take long.

        Returns:
            Means over the piece: train_loss (cross-entropy, without L2), train_accuracy and train_top_k of the classes
            drawn (of mixed crops: the larger part's); lr; cells_s, cells a second; wait_ms, of a step, for data.
        """
        begun, waited = time.perf_counter(), 0.0
        epoch, place = divmod(self.step, self.feeder.steps)
        if self._batches is None or place == 0:
            self._close()
            self._epoch_loss = self._epoch_loss if place else 0.0
            self._batches = self.feeder.epoch(epoch, place)
        lr, took, cells = self.rate(), 0, 0
        sums = torch.zeros(3, device=self.device)
        self.network.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            while took < self.config["PIECE_STEPS"] and place + took < self.feeder.steps:
                start = time.perf_counter()
                batch = next(self._batches)
                waited += time.perf_counter() - start
                sums += self._step(batch, lr)
                took, cells = took + 1, cells + len(batch.targets)
                if time.perf_counter() - begun > PIECE_SECONDS:
                    break
        loss, right, top = sums.tolist()
        self._epoch_loss += loss
        if not math.isfinite(loss):
            raise Diverged(f"training loss is {loss / took} at step {self.step}")
        if self.step % self.feeder.steps == 0:
            self._close()
            if self.config["SCHEDULE"] == "plateau":
                self._plateau.note(self._epoch_loss / self.feeder.steps)
        seconds = time.perf_counter() - begun
        return {
            "train_loss": loss / took,
            "train_accuracy": right / cells,
            "train_top_k": top / cells,
            "lr": lr,
            "cells_s": cells / seconds,
            "wait_ms": 1e3 * waited / took,
        }

    def _step(self, batch: Batch, lr: float) -> Tensor:
        """One update; (3,) loss, cells told rightly, cells whose class is among the first TOP_K."""
        config = self.config
        # what is random is the same wherever training is cut and continued
        seed = int(np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        x = pixels.normalise(batch.crops.to(self.device, non_blocking=True))
        x = augment.augmented(x, config["AUGMENT"], generator)
        targets = batch.targets.to(self.device, non_blocking=True)
        share, other = 1.0, targets
        if config["MIXUP"]:
            drawn = np.random.default_rng([self.seed, self.step]).beta(config["MIXUP"], config["MIXUP"])
            share = float(max(drawn, 1 - drawn))
            order = torch.randperm(len(x), generator=generator).to(self.device)
            x, other = torch.lerp(x[order], x, share), targets[order]
        gpu = self.device.type == "cuda"
        x = x.contiguous(memory_format=LAYOUT)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu and config["AMP"]):
            logits = self.network(x)
        logits = logits.float()
        smoothing = config["LABEL_SMOOTHING"]
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if share < 1:
            loss = share * loss + (1 - share) * F.cross_entropy(logits, other, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self._shrink(lr)
        if config["CLIP"]:
            torch.nn.utils.clip_grad_norm_(self._parameters, config["CLIP"])
        self._optimizer.step()
        self.step += 1
        told = logits.detach().topk(min(config["TOP_K"], logits.shape[1]), 1).indices == targets[:, None]
        return torch.stack([loss.detach(), told[:, 0].sum().float(), told.any(1).sum().float()])

    def _shrink(self, lr: float) -> None:
        """L2 sum W² as a part of the loss, by its gradient; and decoupled weight decay (Loshchilov & Hutter 2019).
        Kernels only: neither biases nor normalisations."""
        if self.config["L2"]:
            gradients = [p.grad for p in self._kernels if p.grad is not None]
            torch._foreach_add_(gradients, [p.data for p in self._kernels], alpha=2 * self.config["L2"])
        if self.config["WEIGHT_DECAY"]:
            torch._foreach_mul_([p.data for p in self._kernels], 1.0 - lr * self.config["WEIGHT_DECAY"])

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    # ---- validation

    def validate(self) -> dict[str, float]:
        """Of all evaluated cells, streamed.

        Returns:
            map and balanced_accuracy of wells; val_loss, val_accuracy, val_top_k of cells; choice_*, the place of what
            was chosen in LAYERS, AGGREGATES and LAMBDAS; eval_s.

        Raises:
            Diverged: a feature or probability is not finite.
        """
        begun = time.perf_counter()
        seen, chosen = self._look()
        wells, choice = self.data.wells, chosen.choice
        rows = self.data.samples
        counts = confusion(wells.target[rows], seen.probabilities[rows].argmax(1), len(self.data.classes))
        metrics = {
            MAP.name: chosen.map,
            BALANCED.name: balanced_accuracy(counts),
            "val_loss": seen.loss,
            "val_accuracy": seen.accuracy,
            "val_top_k": seen.top_k,
            "choice_layer": settings.layers(self.config).index(choice.layer),
            "choice_aggregate": settings.aggregates(self.config).index(choice.aggregate),
            "choice_lambda": settings.lambdas(self.config).index(choice.lam),
        }
        metric: Metric = MAP if self.data.objective == MAP.name else BALANCED
        if metric.better(metrics[metric.name], self._best):
            self._best, self.best_step = metrics[metric.name], self.step
        return {**{name: float(value) for name, value in metrics.items()}, "eval_s": time.perf_counter() - begun}

    def _look(self) -> tuple[Seen, Chosen]:
        """What the network sees now, and the choice that is best for it."""
        if self._looked is None or self._looked[0] != self.step:
            config, data = self.config, self.data
            (seen,) = look([self._extractor()], [settings.layers(config)], data, self.batch, config["TOP_K"])
            if not np.isfinite(seen.probabilities).all():
                raise Diverged(f"validation gives no probabilities at step {self.step}")
            treated = [rows[~data.wells.control[rows]] for rows in (data.samples, data.gallery)]
            chosen = choices.choose(
                seen.features,
                data.wells,
                data.well_of,
                treated[0],
                settings.layers(config),
                settings.aggregates(config),
                settings.lambdas(config),
                data.pairs,
                treated[1],
            )
            seen.features.clear()
            self._looked = self.step, seen, chosen
        return self._looked[1], self._looked[2]

    def _extractor(self) -> Extractor:
        return Extractor(self.network, self.about, self.device)

    def predict(self, data: Any) -> Prediction:
        _, chosen = self._look()
        return CellPredictor(self._extractor(), chosen.choice, chosen.sphering, self.batch)(data)

    # ---- states

    def state(self) -> dict[str, Any]:
        return {
            "network": _copied(self.network),
            "optimizer": self._optimizer.state_dict(),
            "plateau": self._plateau.state(),
            "step": self.step,
            "epoch_loss": self._epoch_loss,
            "best": [] if math.isnan(self._best) else [self._best],
            "best_step": self.best_step,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._close()
        self._looked = None
        self.network.load_state_dict(state["network"])
        saved = dict(state["optimizer"])
        # file formats know only text keys
        saved["state"] = {int(k): v for k, v in saved["state"].items()}
        self._optimizer.load_state_dict(saved)
        self._plateau.load_state(list(state["plateau"]))
        self.step = int(state["step"])
        self._epoch_loss = float(state["epoch_loss"])
        self._best = float(state["best"][0]) if state["best"] else math.nan
        self.best_step = int(state["best_step"])

    def weights(self) -> dict[str, Any]:
        """The network, what it was made for (`about`: classes, channels, box, how crops were cut), and the choice with
        its sphering, fitted on the controls of the validation wells."""
        _, chosen = self._look()
        return {
            "network": _copied(self.network),
            "about": self.about,
            "choice": chosen.choice.to_json(),
            "sphering": chosen.sphering.state(),
        }

    def start_from(self, weights: Mapping[str, Any]) -> None:
        fit_network(self.network, weights)
        self._looked = None


def _optimizer(config: Mapping[str, Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config["OPTIMIZER"] == "adamw":
        # decay is the learner's, with both optimizers alike
        return torch.optim.Adam(parameters, lr=config["LR"])
    momentum = config["MOMENTUM"]
    return torch.optim.SGD(parameters, lr=config["LR"], momentum=momentum, nesterov=momentum > 0)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
