"""Trained networks as functions from traces to predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ground.errors import BadInput
from models.base import Prediction
from models.cellspike.data import CellData, NewTraces
from models.cellspike.metrics import TARGET
from models.cellspike.network import build
from models.cellspike.traces import Batch, prepared

PREDICT_BATCH = 128
SQUARE = "square"
"""Squares of what is predicted: with the mean of several members' squares goes the spread of the members."""


class Inverse:
    """A network with what its inputs need.

    Args:
        network: see `models.cellspike.network.build`.
        about: of the data it was made for (`CellData.about`), with `extras`: means and deviations of the features.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, about: Mapping[str, Any], device: torch.device) -> None:
        self.network, self.device = network.to(device), device
        self.names = tuple(about["names"])
        self._normalisation = str(about["reading"]["normalisation"])
        stims = len(about["reading"]["stims"])
        self._joined = stims if about["reading"]["stimuli"] == "append" else 1
        self._extras = tuple(torch.tensor(numbers, device=device) for numbers in about["extras"])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Traces and features where the network is, in single precision."""
        x = prepared(batch.traces.to(self.device, non_blocking=True), self._normalisation, self._joined)
        if not batch.extras.shape[1]:
            return x, None
        mean, deviation = self._extras
        # what has no value, such as the time of a spike that did not come, is as good as the mean
        return x, torch.nan_to_num((batch.extras.to(self.device) - mean) / deviation, 0.0, 0.0, 0.0)

    def outputs(self, batch: Batch) -> Tensor:
        """(n, P) float32 in full precision: predictions here and on another machine are to agree."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(*self.inputs(batch)).float()


class CellPredictor:
    """A snapshot's network as a function from data to predictions.

    Args:
        inverse: the network.
        about: as the snapshot has it.
        batch: samples at a time.
    """

    def __init__(self, inverse: Inverse, about: Mapping[str, Any], batch: int | None = None) -> None:
        self.inverse, self.about, self.batch = inverse, about, batch or PREDICT_BATCH

    def __call__(self, data: CellData | NewTraces) -> Prediction:
        """`ustar` (N, P), its `square`, and the samples' ids.

        Raises:
            BadInput: the traces are not of the shape, or the parameters not those, that it was trained on.
        """
        (prediction,) = predict_all([self], data)
        return prediction

    def fit(self, data: CellData | NewTraces) -> CellData:
        """The data, checked.

        Raises:
            BadInput: see `__call__`.
        """
        data = data.opened(self.about) if isinstance(data, NewTraces) else data
        found, wanted = data.about(), self.about
        if list(found["shape"]) != list(wanted["shape"]):
            told, trained = ("x".join(str(n) for n in shape) for shape in (found["shape"], wanted["shape"]))
            raise BadInput(
                f"{data.source}: samples of {told} (bins, probes, towers, features) do not fit a network trained on "
                f"{trained}"
            )
        if abs(found["step_ms"] - wanted["step_ms"]) > 1e-6:
            told, trained = found["step_ms"], wanted["step_ms"]
            raise BadInput(f"{data.source}: bins of {told:g} ms do not fit a network trained on {trained:g} ms")
        if found["names"] != list(wanted["names"]):
            raise BadInput(
                f"{data.source}: its parameters are not those that the network was trained on, in that order"
            )
        for key in ("stimuli", "normalisation", "starred"):
            if found["reading"][key] != wanted["reading"][key]:
                raise BadInput(
                    f"{data.source}: read with {key} {found['reading'][key]}, the network was trained with "
                    f"{wanted['reading'][key]}"
                )
        return data


def predict_all(members: Sequence[CellPredictor], data: CellData | NewTraces) -> list[Prediction]:
    """Predictions of several members; every trace is read once for all of them."""
    opened = [member.fit(data) for member in members]
    rows, ids = opened[0].eval, opened[0].eval.ids()
    out = [np.empty((len(rows), len(member.inverse.names)), np.float32) for member in members]
    for batch in rows.batches(min(member.batch for member in members)):
        for array, member in zip(out, members, strict=True):
            array[batch.where] = member.inverse.outputs(batch).cpu().numpy()
    return [{TARGET: array, SQUARE: array.astype(np.float64) ** 2, **ids} for array in out]


def many(members: Sequence[CellPredictor], data: CellData | NewTraces, together: int = 8) -> Iterator[Prediction]:
    """`predict_all`, some members at a time."""
    for start in range(0, len(members), together):
        yield from predict_all(members[start : start + together], data)


def restore(
    config: Mapping[str, Any], weights: Mapping[str, Any], device: str, batch: int | None = None
) -> CellPredictor:
    """A predictor from a snapshot (`CellSpikeLearner.weights`)."""
    about = weights["about"]
    bins, probes, towers, features = (int(n) for n in about["shape"])
    network = build(config, bins, probes, len(about["names"]), features, towers)
    network.load_state_dict(weights["network"])
    return CellPredictor(Inverse(network, about, torch.device(device)), about, batch)
