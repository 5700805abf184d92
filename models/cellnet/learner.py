"""Training of one sparse network, in pieces of some steps, to be stopped and continued anywhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ground.errors import BadInput
from models.base import Diverged, Place, Prediction, StepLearner
from models.cellnet import metrics, ranks
from models.cellnet.config import loss_name
from models.cellnet.data import CellData
from models.cellnet.events import Batch, Events
from models.cellnet.losses import Term, charge_terms, coarse_cells, coarse_size, ghost_terms
from models.cellnet.predictor import CellPredictor, Model, build
from models.cellnet.schedule import rate
from models.cellnet.sums import Sums

PIECE_SECONDS = 45.0
See = Callable[[Batch, np.ndarray], None]


class CellNetLearner(StepLearner):
    """One network in training. A step is FILES_PER_STEP files, of each rank.

    Args:
        config: complete settings (`config.resolve`).
        data: training events and those it validates on (`data.eval`).
        place: where it runs.
        seed: fixes initial weights, order and noise.
        watch: what SCHEDULE plateau follows: the training loss of an epoch, or what `follow` is told: validation must
            not change a training that others may validate at other times.

    Raises:
        BadInput: the settings do not fit the data.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        data: CellData,
        place: Place,
        seed: int,
        watch: Literal["train_loss", "told"] = "train_loss",
    ) -> None:
        self.config, self.data, self.place, self.seed = dict(config), data, place, seed
        self.task = data.options.task
        self.loss = loss_name(config, self.task)
        self._full = self.loss == "downsample_mse"
        if not len(data.train.files):
            raise BadInput(f"{data.source}: no training files")
        device = torch.device(place.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(config, self.task, data.options.transforms.features)
        if place.ranks > 1:
            ranks.over_ranks(network)
        self.network = network.to(device)
        self.model = Model(self.network, config, self.task, data.options.transforms, device)
        self._parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = _optimizer(config, self._parameters, device)
        self._watch = watch
        self.plateau = ReduceLROnPlateau(
            self.optimizer,
            "min" if watch == "train_loss" else "max",
            factor=config["PLATEAU_FACTOR"],
            patience=config["PLATEAU_PATIENCE"],
        )
        self.epoch_steps = data.train.steps(config["FILES_PER_STEP"], place.ranks)
        self.total, self.every = config["EPOCHS"] * self.epoch_steps, config["EVALS"] * self.epoch_steps
        self.patience = config["PATIENCE"]
        self._iterator: Iterator[Batch] | None = None
        self._epoch = Sums()
        self.last_epoch: dict[str, float] = {}
        self._best = math.nan

    # ---- how far

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return self.step // self.epoch_steps

    # ---- training

    def train_piece(self) -> dict[str, float]:
        """Up to PIECE_STEPS steps, fewer at the end of an epoch or where they take long.

        Returns:
            Means over the piece's voxels (train_loss; of ghosts train_accuracy), the rate, milliseconds a step spent
            reading and training.
        """
        begun = time.perf_counter()
        self.network.train()
        sums, waited, took = Sums(), 0.0, 0
        while True:
            start = time.perf_counter()
            batch = self._next_batch()
            waited += time.perf_counter() - start
            lr = self._step(batch, sums)
            took += 1
            if took >= self.config["PIECE_STEPS"] or self.step % self.epoch_steps == 0:
                break
            # ranks stop at the same step: their clocks differ
            if self.place.ranks == 1 and time.perf_counter() - begun > PIECE_SECONDS:
                break
        found = sums.means()
        if not math.isfinite(found["train_loss"]):
            raise Diverged(f"training loss is {found['train_loss']} at step {self.step}")
        self._epoch.add(sums)
        if self.step % self.epoch_steps == 0:
            self.last_epoch = self._epoch.means()
            if self.config["SCHEDULE"] == "plateau" and self._watch == "train_loss":
                self.plateau.step(self.last_epoch["train_loss"])
            self._epoch = Sums()
        spent = time.perf_counter() - begun
        return {**found, "lr": lr, "read_ms": 1e3 * waited / took, "train_ms": 1e3 * (spent - waited) / took}

    def follow(self, value: float) -> None:
        """Tell SCHEDULE plateau how good the network is now (more is better), where `watch` is "told"."""
        if self.config["SCHEDULE"] == "plateau":
            self.plateau.step(value)

    def _next_batch(self) -> Batch:
        epoch, place = divmod(self.step, self.epoch_steps)
        if self._iterator is None or place == 0:
            self._close()
            self._iterator = self.data.train.training(
                self.data.options.transforms,
                self.model.spatial,
                self.config["FILES_PER_STEP"],
                self.seed,
                epoch,
                place,
                self.place.rank,
                self.place.ranks,
                self._full,
            )
        return next(self._iterator)

    def _close(self) -> None:
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None

    def _step(self, batch: Batch, sums: Sums) -> float:
        config = self.config
        if config["SCHEDULE"] != "plateau":
            lr = rate(config["SCHEDULE"], config["LR"], self.step, self.total, round(config["WARMUP"] * self.total))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(batch, self.data.train.store, training=True)
        terms, right = self._terms(batch, output)
        counts = [term.number for term in terms]
        totals = torch.stack([term.total.detach().double() for term in terms])
        if self.place.ranks > 1:
            told = ranks.summed(torch.cat([totals, totals.new_tensor([*counts, right, len(batch)])]))
            totals, counts = told[: len(terms)], [int(n) for n in told[len(terms) : -2]]
            right, rows = float(told[-2]), int(told[-1])
        else:
            rows = len(batch)
        loss = sum((term.total / max(1, count) for term, count in zip(terms, counts, strict=True)), output.sum() * 0)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.place.ranks > 1:
            ranks.add_gradients(self._parameters)
        if config["CLIP"]:
            torch.nn.utils.clip_grad_norm_(self._parameters, config["CLIP"])
        self.optimizer.step()
        self.step += 1
        sums.note(totals.tolist(), counts, right if self.task == "ghost" else None, rows)
        return float(self.optimizer.param_groups[0]["lr"])

    def _terms(self, batch: Batch, output: Tensor) -> tuple[list[Term], float]:
        """The loss of a batch, and of ghosts how many rows are told rightly."""
        if batch.y is None:
            raise BadInput(f"{batch.files[0].path}: holds no truth (Y)")
        y = batch.y.to(output.device)
        if self.task == "ghost":
            label = (y > self.data.options.threshold).float()
            right = float(((output > 0) == (label > 0)).sum())
            return ghost_terms(self.loss, self.config, output, y, label), right
        coarse = None
        if self._full:
            coords = batch.coords.to(output.device)
            coarse = coarse_cells(coords, batch.events, batch.truth or (), coarse_size(self.config))
        return charge_terms(self.loss, self.config, output, y, coarse), 0.0

    # ---- validation

    def validate(self) -> dict[str, float]:
        return self.examine()

    def examine(self, see: See | None = None, truth_needed: bool = True) -> dict[str, float]:
        """Validation metrics, and what each file's voxels are told to be.

        Args:
            see: called with each batch and its values (N,); of several ranks with this rank's files.
            truth_needed: whether files without truth are refused; where all are such, there are no metrics.

        Raises:
            BadInput: a file cannot be used.
            Diverged: the loss is not finite.
        """
        begun = time.perf_counter()
        mine = self.data.eval
        if self.place.ranks > 1:
            mine = Events(mine.files[self.place.rank :: self.place.ranks], mine.store, mine.source)
        tally, sums = metrics.tally(self.task, self.data.options.truth), Sums()
        for batch, output in CellPredictor(self.model, self.place.batch).outputs(mine, self._full):
            values = self.model.values(output).cpu().numpy()
            if see is not None:
                see(batch, values)
            if batch.y is None and not truth_needed:
                continue
            terms, right = self._terms(batch, output)
            counts = [term.number for term in terms]
            sums.note([float(t.total) for t in terms], counts, right if self.task == "ghost" else None, len(batch))
            if np.isfinite(values).all():  # else the loss says so, of all ranks
                types = [file.name.event_type for file in batch.files for _ in file.numbers]
                assert batch.y is not None
                tally.add(values, batch.y.numpy(), batch.coords[:, 3].numpy(), types)
        seconds = (time.perf_counter() - begun) / max(1, len(mine))
        if self.place.ranks > 1:
            every = ranks.gathered((tally, sums, seconds), self.place.ranks)
            tally = every[0][0].merge([other[0] for other in every[1:]])
            sums = Sums()
            for one in every:
                sums.add(one[1])
            seconds = sum(one[2] for one in every) / len(every)
        if sums.empty and not truth_needed:
            return {}
        found = {name.replace("train", "val"): value for name, value in sums.means().items()}
        if not math.isfinite(found["val_loss"]):
            raise Diverged(f"validation loss is {found['val_loss']} at step {self.step}")
        scores = {**tally.scores(), **found, "seconds_per_event": seconds}
        metric = metrics.AREA if self.task == "ghost" else metrics.RMSE
        if metric.better(scores[metric.name], self._best):
            self._best, self.best_step = scores[metric.name], self.step
        return scores

    def predict(self, data: CellData) -> Prediction:
        return CellPredictor(self.model, self.place.batch)(data)

    # ---- states

    def state(self) -> dict[str, Any]:
        return {
            "network": _copied(self.network),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau_state(),
            "step": self.step,
            "epoch": self._epoch.state(),
            "best": [] if math.isnan(self._best) else [self._best],
            "best_step": self.best_step,
        }

    def plateau_state(self) -> list[float]:
        """What SCHEDULE plateau remembers: epochs waited, and the best value where there was one."""
        # no infinity: states are JSON
        return [self.plateau.num_bad_epochs, *([self.plateau.best] if math.isfinite(self.plateau.best) else [])]

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._close()
        self.network.load_state_dict(state["network"])
        saved = dict(state["optimizer"])
        # file formats know only text keys
        saved["state"] = {int(k): v for k, v in saved["state"].items()}
        self.optimizer.load_state_dict(saved)
        self.load_plateau(state["plateau"])
        self.step = int(state["step"])
        self._epoch = Sums.of(state["epoch"])
        self._best = float(state["best"][0]) if state["best"] else math.nan
        self.best_step = int(state["best_step"])

    def load_plateau(self, state: Sequence[float]) -> None:
        """Go on from `plateau_state`."""
        bad, *best = state
        self.plateau.num_bad_epochs = int(bad)
        if best:
            self.plateau.best = float(best[0])

    def weights(self) -> dict[str, Any]:
        transforms = {
            k: v for k, v in self.data.options.transforms.to_json().items() if k not in ("coord_lim", "scale")
        }
        return {"network": _copied(self.network), "task": self.task, "transforms": transforms}

    def start_from(self, weights: Mapping[str, Any]) -> None:
        """Take another network's trunk, and its head where it is of the same form.

        A charge network thus begins with what a ghost network has learned.

        Raises:
            BadInput: the trunks differ.
        """
        given, own = weights.get("network", {}), self.network.state_dict()
        trunk = [name for name in own if name.startswith("trunk.")]
        unfit = [name for name in trunk if name not in given or given[name].shape != own[name].shape]
        if unfit or any(name.startswith("trunk.") and name not in own for name in given):
            what = unfit[0] if unfit else "more levels or blocks"
            raise BadInput(f"INIT: the snapshot's trunk does not fit this trial's ({what})")
        head = {name for name in own if name not in trunk}
        same = head == {name for name in given if not name.startswith("trunk.")} and all(
            given[name].shape == own[name].shape for name in head
        )
        if same and weights.get("task", self.task) == self.task:
            trunk += sorted(head)
        self.network.load_state_dict({**own, **{name: given[name] for name in trunk}})


def _optimizer(
    config: Mapping[str, Any], parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    if not parameters:
        raise BadInput("FREEZE leaves nothing to train")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config["OPTIMIZER"]]
    # fused None: torch's own choice
    return kind(parameters, lr=config["LR"], weight_decay=config["WEIGHT_DECAY"], fused=device.type == "cpu" or None)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
