"""Training of one NDT: masked modelling with co-smoothing and forward prediction, all data on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ground.errors import BadInput
from ground.states import fit_network
from models.base import Diverged, Learner, Metric, Place, Prediction
from models.ndt.attention import RandomBits
from models.ndt.data import SpikeData, Spikes
from models.ndt.fits import refuse_unfit
from models.ndt.masking import Masker
from models.ndt.metrics import bits_per_spike_tensor, r2
from models.ndt.network import NDT
from models.ndt.schedule import factor

VAL_SEED = 0x5EED  # the validation mask, the same for every trial of every study
SPARE_COUNTS = 3  # held-in inputs are clipped this far above the training maximum
PREDICT_BATCH = 64


class NDTLearner(Learner):
    """One NDT in training. `train_piece` is one update in the original's words.

    Args:
        config: complete settings (`config.resolve`).
        data: train and eval trials.
        place: where it runs.
        seed: fixes initial weights, order of trials, masks and dropout.
    """

    def __init__(self, config: Mapping[str, Any], data: SpikeData, place: Place, seed: int) -> None:
        self.config = dict(config)
        self.device = torch.device(place.device)
        self.seed = seed
        train = data.train
        count = max(1, round(train.trials * config["DATA.RANDOM_SUBSET_TRIALS"]))
        chosen = np.sort(np.random.default_rng(seed).permutation(train.trials)[:count])
        self.max_spikes = int(train.heldin[chosen].max()) + SPARE_COUNTS
        self.bins, self.heldin_units = data.bins, data.heldin_units
        self.units = data.heldin_units + data.heldout_units
        self.length = data.bins + data.forward_bins
        refuse_unfit(config, count, self.length, self.units)
        self._bits = RandomBits(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = NDT(config, self.length, self.units, self.max_spikes, self._bits)
        self.network.to(self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self._train_heldin = self._put(train.heldin[chosen])
        self._train_labels = self._labels(train, chosen)
        if config["MODEL.RATE_INIT"]:
            self.network.start_at(torch.nan_to_num(self._train_labels).mean((0, 1)))
        self._eval = data.eval
        self._eval_heldin = self._put(data.eval.heldin)
        self._eval_labels = self._labels(data.eval, slice(None)) if data.eval.heldout is not None else None
        self._masker = Masker(config, self.max_spikes)
        self._parameters = list(self.network.parameters())
        self._optimizer = torch.optim.Adam(
            self._parameters,
            lr=config["TRAIN.LR.INIT"],
            eps=config["TRAIN.EPS"],
            fused=self.device.type == "cpu" or None,  # None: torch's own choice
        )
        self.update = 0
        self._best: dict[str, float] = {}
        self._best_update = 0
        self._smooth: float | None = None

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).float().clamp(max=self.max_spikes).to(self.device)

    def _labels(self, spikes: Spikes, chosen: Any) -> Tensor:
        """(trials, T, units): what the network is to predict; NaN where a part of it was not recorded."""
        parts = [spikes.heldin[chosen]]
        if self.units > self.heldin_units:
            assert spikes.heldout is not None
            parts.append(spikes.heldout[chosen])
        labels = np.concatenate(parts, 2)
        if self.length > self.bins:
            forward = spikes.forward
            after = (
                np.full((labels.shape[0], self.length - self.bins, self.units), np.nan, np.float32)
                if forward is None
                else forward[chosen]
            )
            labels = np.concatenate([labels, after], 1)
        return torch.from_numpy(labels).float().to(self.device)

    @property
    def done(self) -> bool:
        if self.update >= self.config["TRAIN.NUM_UPDATES"]:
            return True
        waits = self.config["TRAIN.EARLY_STOP"] != "off"
        return waits and self.update - self._best_update > self.config["TRAIN.PATIENCE"]

    @property
    def steps(self) -> int:
        return self.update

    @property
    def progress(self) -> float:
        return 1.0 if self.done else self.update / self.config["TRAIN.NUM_UPDATES"]

    @property
    def due(self) -> bool:
        return self.update % self.config["TRAIN.VAL_INTERVAL"] == 0 or self.done

    def _pad(self, heldin: Tensor) -> Tensor:
        return F.pad(heldin, (0, self.units - self.heldin_units, 0, self.length - self.bins))

    def _elementwise(self, output: Tensor, labels: Tensor) -> Tensor:
        if self.network.counts:
            classes = labels.long().clamp(0, self.network.counts - 1)
            return F.cross_entropy(output.flatten(0, 2), classes.flatten(), reduction="none").view(labels.shape)
        return F.poisson_nll_loss(output, labels, log_input=self.config["MODEL.LOGRATE"], reduction="none")

    def loss(self, inputs: Tensor, labels: Tensor, masked: Tensor) -> Tensor:
        """Mean loss over masked held-in, all held-out and all forward entries.

        Args:
            inputs: corrupted held-in counts (B, bins, held-in).
            labels: (B, T, units).
            masked: bool (B, bins, held-in).
        """
        output = self.network(self._pad(inputs))
        losses = self._elementwise(output, labels)  # NaN where a label is
        counted = F.pad(masked, (0, self.units - self.heldin_units, 0, self.length - self.bins), value=True)
        if not self.network.training:
            missing = labels.isnan()  # only validation data can be incomplete
            counted = counted & ~missing
            losses = torch.where(missing, 0.0, losses)
        topk = self.config["MODEL.LOSS.TOPK"]
        if topk < 1:
            chosen = losses[counted]
            loss = chosen.topk(max(1, int(topk * chosen.numel()))).values.mean()
        else:
            weight = counted.to(losses.dtype)
            loss = (losses * weight).sum() / weight.sum()
        scale = self.config["MODEL.UNMASKED_LOSS_SCALE"]
        if scale:
            loss = loss + scale * losses[~counted].mean()
        return loss

    def train_piece(self) -> dict[str, float]:
        config = self.config
        self.network.train()
        lr = config["TRAIN.LR.INIT"]
        if config["TRAIN.LR.SCHEDULE"]:
            kind, warmup, total = config["TRAIN.LR.SCHEDULER"], config["TRAIN.LR.WARMUP"], config["TRAIN.NUM_UPDATES"]
            lr *= factor(kind, self.update, warmup, total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        order = torch.randperm(len(self._train_heldin), generator=self._generator, device=self.device)
        total_loss = torch.zeros((), device=self.device)
        batches = order.split(config["TRAIN.BATCH_SIZE"])
        for rows in batches:
            heldin = self._train_heldin[rows]
            inputs, masked = self._masker(heldin, self.update, self._generator)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self.loss(inputs, self._train_labels[rows], masked)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._parameters, config["TRAIN.MAX_GRAD_NORM"])
            self._optimizer.step()
            if config["TRAIN.WEIGHT_DECAY"]:
                # decoupled, after the step, by the step's own rate
                torch._foreach_mul_([p.data for p in self._parameters], 1.0 - lr * config["TRAIN.WEIGHT_DECAY"])
            total_loss += loss.detach() * len(rows)
        self.update += 1
        mean = float(total_loss) / len(order)
        if not math.isfinite(mean):
            raise Diverged(f"training loss is {mean} at update {self.update}")
        return {"train_loss": mean, "lr": lr}

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        self.network.eval()
        metrics: dict[str, float] = {}
        outputs = self._outputs(self._eval_heldin)
        rates = self.network.rates(outputs)
        labels = self._eval_labels
        if labels is not None:
            bins, heldin = self.bins, self.heldin_units
            metrics["co-bps"] = bits_per_spike_tensor(rates[:, :bins, heldin:], labels[:, :bins, heldin:])
            if self.length > bins and not bool(labels[:, bins:].isnan().any()):
                metrics["fp-bps"] = bits_per_spike_tensor(rates[:, bins:], labels[:, bins:])
            metrics["masked_loss"] = self._masked_loss(labels)
            metrics["unmasked_loss"] = self._unmasked_loss(outputs, labels)
            smooth = metrics["masked_loss"]
            self._smooth = smooth if self._smooth is None else 0.8 * self._smooth + 0.2 * smooth
            metrics["smth_masked_loss"] = self._smooth
            if not math.isfinite(metrics["masked_loss"]):
                raise Diverged(f"validation loss is {metrics['masked_loss']} at update {self.update}")
        if self._eval.truth is not None:
            truth = self._eval.truth
            metrics["r2"] = r2(rates[:, : truth.shape[1]].cpu().numpy(), truth)
        self._note_best(metrics)
        return metrics

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        by_score = self.config["TRAIN.EARLY_STOP"] == "co-bps" and not self.config["TRAIN.PARITY"]
        metric = Metric("co-bps", "max") if by_score else Metric("masked_loss", "min")
        value = metrics.get(metric.name, math.nan)
        if metric.better(value, self._best.get(metric.name, math.nan)):
            self._best[metric.name] = value
            self._best_update = self.update

    def _outputs(self, heldin: Tensor) -> Tensor:
        return torch.cat([self.network(self._pad(part)) for part in heldin.split(PREDICT_BATCH)])

    def _masked_loss(self, labels: Tensor) -> float:
        """Loss under a mask that is the same at every validation (a new one each time with PARITY)."""
        seed = VAL_SEED + (self.update if self.config["TRAIN.PARITY"] else 0)
        generator = torch.Generator(self.device).manual_seed(seed)
        inputs, masked = self._masker(self._eval_heldin, 0, generator)
        total = 0.0
        for rows in torch.arange(len(inputs)).split(PREDICT_BATCH):
            total += float(self.loss(inputs[rows], labels[rows], masked[rows])) * len(rows)
        return total / len(inputs)

    def _unmasked_loss(self, outputs: Tensor, labels: Tensor) -> float:
        """Mean loss with all held-in counts in sight, over every entry.

        The original scored all held-out units but one against zeros; PARITY does so too.
        """
        if self.config["TRAIN.PARITY"] and self.units > self.heldin_units:
            labels = labels[..., :-1].clone()
            labels[:, : self.bins, self.heldin_units :] = 0
            outputs = outputs[:, :, : labels.shape[2]]
        counted = ~labels.isnan()
        return float(self._elementwise(outputs, torch.nan_to_num(labels))[counted].mean())

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "network": {k: v.detach().clone() for k, v in self.network.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "bits": self._bits.state(),
            "update": self.update,
            "best": dict(self._best),
            "best_update": self._best_update,
            "smooth": self._smooth,
        }
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        saved = dict(state["optimizer"])
        # file formats know only text keys
        saved["state"] = {int(k): v for k, v in saved["state"].items()}
        self._optimizer.load_state_dict(saved)
        self._generator.set_state(state["generator"].cpu())
        self._bits.load_state(state["bits"])
        self.update = state["update"]
        self._best = dict(state["best"])
        self._best_update = state["best_update"]
        self._smooth = state["smooth"]
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)

    def weights(self) -> dict[str, Any]:
        return {
            "network": {k: v.detach().clone() for k, v in self.network.state_dict().items()},
            "length": self.length,
            "bins": self.bins,
            "units": self.units,
            "heldin_units": self.heldin_units,
            "max_spikes": self.max_spikes,
        }

    def start_from(self, weights: Mapping[str, Any]) -> None:
        fit_network(self.network, weights)

    def predict(self, data: SpikeData) -> Prediction:
        return Predictor(self.network, self.max_spikes, self.bins, self.heldin_units)(data)


class Predictor:
    """A trained network as a function from data to rates.

    Args:
        network: in evaluation mode.
        max_spikes: held-in counts are clipped to it.
        bins, heldin_units: the observed bins and held-in units it was trained on; the rest of its output is
            forward bins and held-out units.
        batch: trials at a time.
    """

    def __init__(self, network: NDT, max_spikes: int, bins: int, heldin_units: int, batch: int | None = None) -> None:
        self.network, self.max_spikes = network, max_spikes
        self.bins, self.heldin_units = bins, heldin_units
        self.batch = batch or PREDICT_BATCH

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def __call__(self, data: SpikeData) -> Prediction:
        """Rates (expected spikes a bin, float32) of the eval trials, under the names of NLB submissions.

        Raises:
            BadInput: the trials are not of the bins and held-in units that the network was trained on.
        """
        network = self.network
        heldin = data.eval.heldin
        trials, bins, units = heldin.shape
        if (bins, units) != (self.bins, self.heldin_units):
            raise BadInput(
                f"{data.source}: trials of {bins} bins x {units} held-in units do not fit a network trained on "
                f"{self.bins} bins x {self.heldin_units} held-in units"
            )
        network.eval()
        device = self.device
        rates = np.empty((trials, network.length, network.units), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, trials, self.batch):
                part = torch.from_numpy(heldin[start : start + self.batch]).clamp(max=self.max_spikes).to(device)
                padded = F.pad(part, (0, network.units - units, 0, network.length - bins))
                rates[start : start + self.batch] = network.rates(network(padded)).float().cpu().numpy()
        return split_rates(rates, bins, units)


def split_rates(rates: np.ndarray, bins: int, heldin: int) -> Prediction:
    """(trials, T, units) into observed and forward bins, held-in and held-out units; empty parts are left out."""
    parts = {
        "eval_rates_heldin": rates[:, :bins, :heldin],
        "eval_rates_heldout": rates[:, :bins, heldin:],
        "eval_rates_heldin_forward": rates[:, bins:, :heldin],
        "eval_rates_heldout_forward": rates[:, bins:, heldin:],
    }
    return {name: np.ascontiguousarray(part) for name, part in parts.items() if part.size}
