"""Training of one image network, in pieces of some steps, to be stopped and continued anywhere."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ground.errors import BadInput
from ground.states import fit_network
from models.base import Diverged, Place, Prediction, StepLearner
from models.xtcav import augment, heads, memory
from models.xtcav.build import build, last_layer, placed
from models.xtcav.data import XtcavData
from models.xtcav.metrics import CLASSIFIED, MEASURED, class_scores, confusion, mean_r2, posterior, r2
from models.xtcav.predictor import Network, ShotPredictor
from models.xtcav.rows import Batch
from models.xtcav.schedule import Plateau, rate, told

PIECE_SECONDS = 45.0


class XtcavLearner(StepLearner):
    """One network in training. A step is one minibatch.

    Args:
        config: complete settings (`config.resolve`).
        data: training rows and those it validates on (`data.eval`).
        place: where it runs.
        seed: fixes initial weights, order, augmentation and dropout.

    Raises:
        BadInput: the settings do not fit the images, or a step would not fit into memory.
    """

    def __init__(self, config: Mapping[str, Any], data: XtcavData, place: Place, seed: int) -> None:
        if place.ranks > 1:
            raise BadInput("xtcav trains a network on one device; run more trials side by side instead")
        self.config, self.data, self.seed = dict(config), data, seed
        self.device = torch.device(place.device)
        if not len(data.train):
            raise BadInput(f"{data.source}: no training rows")
        self.head = heads.head(config, data)
        memory.refuse_too_large(config, data.image_shape, len(data.scalars), self.head.outputs, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(config, data.image_shape, len(data.scalars), self.head.outputs)
            self._dropout = torch.get_rng_state()
        self.network = placed(network, self.device)
        self._cuda: Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._parameters = list(self.network.parameters())
        self._kernels = [p for p in self._parameters if p.ndim > 1]
        self._optimizer = _optimizer(config, self._parameters)
        # one left-over row would have no batch statistics
        self._whole = len(data.train) >= config["BATCH_SIZE"]
        self._batches = max(1, data.train.batch_count(config["BATCH_SIZE"], config["SAMPLING"], self._whole))
        self.total = config["STEPS"] or config["EPOCHS"] * self._batches
        self.every = config["EVALS"] or self._batches
        self.patience = config["PATIENCE"]
        self._plateau = Plateau()
        self._iterator: Iterator[Batch] | None = None
        self._epoch_loss = 0.0
        self._gradient: Tensor | None = None
        self._shadow = copy.deepcopy(self.network) if config["AVERAGE"] else None
        self._best = math.nan

    # ---- training

    def train_piece(self) -> dict[str, float]:
        """Up to PIECE_STEPS steps, fewer where a validation is due or they take long.

        Returns:
            Means over the piece (train_loss = plain_loss + penalty, train_accuracy), and of the last step:
            class 1 in the batch and output (what the original program calls m1s and #1s), gradient norm, cosine to
            the step before (0 at the first), rate; milliseconds a step spent reading and training.
        """
        begun = time.perf_counter()
        self.network.train()
        waited, sums, rows, took = 0.0, _Sums(), 0, 0
        last: dict[str, float] = {}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._set_rng()
            while True:
                start = time.perf_counter()
                batch = self._next_batch()
                waited += time.perf_counter() - start
                last = self._step(batch, sums)
                took, rows = took + 1, rows + len(batch.labels)
                if took >= self.config["PIECE_STEPS"] or self.step % self.every == 0 or self.step >= self.total:
                    break
                if time.perf_counter() - begun > PIECE_SECONDS:
                    break
            self._dropout = torch.get_rng_state()
            self._cuda = torch.cuda.get_rng_state(self.device) if devices else None
        means = sums.means(took)
        if not math.isfinite(means["train_loss"]):
            raise Diverged(f"training loss is {means['train_loss']} at step {self.step}")
        spent = time.perf_counter() - begun
        return {**means, **last, "read_ms": 1e3 * waited / took, "train_ms": 1e3 * (spent - waited) / took}

    def _set_rng(self) -> None:
        torch.set_rng_state(self._dropout)
        if self.device.type == "cuda":
            if self._cuda is None:
                torch.cuda.manual_seed(self.seed)
            else:
                torch.cuda.set_rng_state(self._cuda, self.device)

    def _next_batch(self) -> Batch:
        epoch, place = divmod(self.step, self._batches)
        if self._iterator is None or place == 0:
            self._close()
            config = self.config
            self._iterator = self.data.train.batches(
                config["BATCH_SIZE"],
                seed=self.seed,
                epoch=epoch,
                start=place,
                sampling=config["SAMPLING"],
                drop_last=self._whole,
            )
        return next(self._iterator)

    def _close(self) -> None:
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None

    def _step(self, batch: Batch, sums: _Sums) -> dict[str, float]:
        config, lr = self.config, self.rate()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        net = Network(self.network, self.head, config, self.device)
        images, scalars = net.inputs(batch)
        images = augment.augmented(images, config["SHIFT"], config["GAIN"], config["NOISE"], self._generator)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self.network(images, scalars)
        output = output.float()
        plain = self.head.loss(output, batch)
        penalty = self._penalty()
        (plain + penalty).backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None])
        norm, cosine = self._angle(gradient)
        if config["CLIP"]:
            torch.nn.utils.clip_grad_norm_(self._parameters, config["CLIP"])
        self._decay(lr)
        self._optimizer.step()
        self.step += 1
        self._follow()
        sums.add(plain.detach(), torch.as_tensor(penalty).detach())
        self._epoch_loss += float(plain.detach())
        if self.step % self._batches == 0:
            if config["LR.SCHEDULE"] == "plateau":
                self._plateau.note(self._epoch_loss)
            self._epoch_loss = 0.0
        out = {"grad_norm": norm, "grad_angle": cosine, "lr": lr}
        if isinstance(self.head, heads.Classes):
            guess, labels = output.detach().argmax(1).cpu(), batch.labels
            sums.right(int((guess == labels).sum()), len(labels))
            out["batch_class1"], out["train_class1"] = float((labels == 1).sum()), float((guess == 1).sum())
        return out

    def rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        warmup = 0 if told(config["LR.SCHEDULE"]) else round(config["WARMUP"] * self.total)
        return self._plateau.factor * rate(config["LR.SCHEDULE"], config["LR"], self.step, self.total, warmup)

    def _penalty(self) -> Tensor | float:
        """L1 sum|W| + L2 sum W², over kernels and dense weights but no bias; the output layer's by its own factor."""
        l1, l2 = self.config["PENALTY.L1"], self.config["PENALTY.L2"]
        if not (l1 or l2):
            return 0.0
        last = last_layer(self.network).weight
        total: Tensor | float = 0.0
        for weight in self._kernels:
            factor = self.config["PENALTY.LAST"] if weight is last else 1.0
            if l1:
                total = total + factor * l1 * weight.abs().sum()
            if l2:
                total = total + factor * l2 * weight.square().sum()
        return total

    def _angle(self, gradient: Tensor) -> tuple[float, float]:
        before, self._gradient = self._gradient, gradient.detach()
        norm = float(gradient.norm())
        if before is None or not norm:
            return norm, 0.0
        return norm, float(torch.nn.functional.cosine_similarity(gradient, before.to(gradient.device), dim=0))

    def _decay(self, lr: float) -> None:
        """Decoupled weight decay (Loshchilov & Hutter 2019), with every optimizer alike."""
        if self.config["WEIGHT_DECAY"]:
            torch._foreach_mul_([p.data for p in self._kernels], 1.0 - lr * self.config["WEIGHT_DECAY"])

    def _follow(self) -> None:
        """The running mean of the weights goes along, faster in the beginning."""
        if self._shadow is None:
            return
        keep = min(self.config["AVERAGE"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            here = self.network.state_dict()
            for name, mean in self._shadow.state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(here[name], 1 - keep)
                else:
                    mean.copy_(here[name])

    # ---- validation

    @property
    def best_network(self) -> nn.Module:
        """The network that is validated and kept: the running mean where AVERAGE asks for one."""
        return self._shadow if self._shadow is not None else self.network

    def validate(self) -> dict[str, float]:
        begun = time.perf_counter()
        prediction = self.predict(self.data)
        metrics = self._scores(prediction)
        metrics["val_loss"] = self.head.cost(prediction, self.data.eval)
        metrics["eval_ms"] = 1e3 * (time.perf_counter() - begun)
        metric = CLASSIFIED if isinstance(self.head, heads.Classes) else MEASURED
        if metric.better(metrics[metric.name], self._best):
            self._best, self.best_step = metrics[metric.name], self.step
        return metrics

    def _scores(self, prediction: Prediction) -> dict[str, float]:
        rows = self.data.eval
        if isinstance(self.head, heads.Classes):
            likelihood = prediction["likelihood"]
            if not bool((likelihood.sum(1) > 0.5).all()):
                raise Diverged(f"validation gives no probabilities at step {self.step}")
            guess = likelihood.argmax(1)
            scores = class_scores(posterior(likelihood, self.data.shares), guess, rows.labels)
            out = {name: value for name, value in scores.items() if not name.endswith("_se")}
            counts = confusion(rows.labels, guess, self.data.classes)
            out["val_class1"] = float((guess == 1).sum())
            # the confusion matrix, rows truth: one column of metrics.csv a cell
            for true, row in enumerate(counts):
                out.update({f"confusion_{true}_{told}": float(n) for told, n in enumerate(row)})
            return out
        values = prediction["values"]
        if not bool(torch.isfinite(torch.from_numpy(values)).all()):
            raise Diverged(f"validation gives numbers that are not finite at step {self.step}")
        each = r2(values, rows.targets)
        named = {f"r2_{name}": float(value) for name, value in zip(self.data.targets, each, strict=True)}
        return {MEASURED.name: mean_r2(values, rows.targets), **named}

    def predict(self, data: Any) -> Prediction:
        network = Network(self.best_network, self.head, self.config, self.device)
        return ShotPredictor(network, self._about())(data)

    # ---- states

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "network": _copied(self.network),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "dropout": self._dropout,
            "step": self.step,
            "epoch_loss": self._epoch_loss,
            "plateau": self._plateau.state(),
            "best": [] if math.isnan(self._best) else [self._best],
            "best_step": self.best_step,
        }
        if self._gradient is not None:
            state["gradient"] = self._gradient
        if self._shadow is not None:
            state["shadow"] = _copied(self._shadow)
        if self._cuda is not None:
            state["cuda"] = self._cuda
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._close()
        self.network.load_state_dict(state["network"])
        saved = dict(state["optimizer"])
        # file formats know only text keys
        saved["state"] = {int(k): v for k, v in saved["state"].items()}
        self._optimizer.load_state_dict(saved)
        self._generator.set_state(state["generator"].cpu())
        self._dropout = state["dropout"].cpu()
        self._cuda = state["cuda"].cpu() if "cuda" in state and self.device.type == "cuda" else None
        self.step = int(state["step"])
        self._epoch_loss = float(state["epoch_loss"])
        self._plateau.load_state(list(state["plateau"]))
        self._best = float(state["best"][0]) if state["best"] else math.nan
        self.best_step = int(state["best_step"])
        self._gradient = state.get("gradient")
        if self._shadow is not None:
            self._shadow.load_state_dict(state["shadow"])

    def weights(self) -> dict[str, Any]:
        return {"network": _copied(self.best_network), **self._about()}

    def _about(self) -> dict[str, Any]:
        return {
            "head": self.head.state(),
            "shape": list(self.data.image_shape),
            "scalars": list(self.data.scalars),
            "chain": self.data.chain.state(),
            "reading": self.data.reading,
        }

    def start_from(self, weights: Mapping[str, Any]) -> None:
        for network in (self.network, self._shadow):
            if network is not None:
                fit_network(network, weights)


class _Sums:
    """Sums of a piece, on the device until its end: asking for each would make a GPU wait."""

    def __init__(self) -> None:
        self._plain: Tensor | float = 0.0
        self._penalty: Tensor | float = 0.0
        self._right, self._rows = 0, 0

    def add(self, plain: Tensor, penalty: Tensor) -> None:
        self._plain, self._penalty = self._plain + plain, self._penalty + penalty

    def right(self, right: int, rows: int) -> None:
        self._right, self._rows = self._right + right, self._rows + rows

    def means(self, steps: int) -> dict[str, float]:
        plain, penalty = float(self._plain) / steps, float(self._penalty) / steps
        out = {"train_loss": plain + penalty, "plain_loss": plain, "penalty": penalty}
        return {**out, "train_accuracy": self._right / self._rows} if self._rows else out


def _optimizer(config: Mapping[str, Any], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config["OPTIMIZER"] == "momentum":
        # a = m a + g, w = w - lr a, as TensorFlow's
        return torch.optim.SGD(parameters, lr=config["LR"], momentum=config["MOMENTUM"])
    return torch.optim.Adam(parameters, lr=config["LR"])


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
