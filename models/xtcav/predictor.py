"""Trained networks as functions from shots to predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ground.errors import BadInput
from models.base import Prediction
from models.xtcav import heads
from models.xtcav.build import LAYOUT, build, placed
from models.xtcav.data import XtcavData, open_for_prediction
from models.xtcav.rows import Batch

PREDICT_BATCH = 64
IDS = ("run", "seconds", "nanoseconds", "fiducials")


class NewShots:
    """Files that a user hands over: what is in them is read once a snapshot says how it is to be preprocessed.

    Args:
        path: a file, folder, glob or list.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: XtcavData | None = None

    def opened(self, weights: Mapping[str, Any]) -> XtcavData:
        """The shots, preprocessed as the members of one study all do: the first one's chain serves for all."""
        if self._opened is None:
            self._opened = open_for_prediction(self.path, weights["chain"], **weights["reading"])
        return self._opened

    @property
    def data(self) -> XtcavData:
        """What was opened.

        Raises:
            BadInput: nothing yet.
        """
        if self._opened is None:
            raise BadInput(f"{self.path}: no model has said yet how these shots are to be read")
        return self._opened


class Network:
    """A network with its head.

    Args:
        network: (n, 1, h, w), (n, S) -> (n, outputs).
        head: what the outputs mean.
        config: complete settings.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, head: heads.Head, config: Mapping[str, Any], device: torch.device) -> None:
        self.network, self.head, self.device = network, head, device
        self.joined = bool(config["SCALARS"])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and scalars where the network is."""
        images = batch.images.to(self.device, non_blocking=True).contiguous(memory_format=LAYOUT)
        scalars = batch.scalars if self.joined else batch.scalars[:, :0]
        return images, scalars.to(self.device, non_blocking=True)

    def __call__(self, batch: Batch) -> Prediction:
        """Predictions of one batch."""
        return self.head.predict(self.outputs(batch))

    def outputs(self, batch: Batch) -> Tensor:
        """(n, outputs) float32; the network is in evaluation mode afterwards."""
        self.network.eval()
        with torch.inference_mode():
            # full precision also on a GPU: predictions there and here are to agree
            return self.network(*self.inputs(batch)).float()


class ShotPredictor:
    """A snapshot's network as a function from data to predictions.

    Args:
        network: the network and its head.
        weights: the snapshot: how images are preprocessed, which shape and scalars it was trained on.
        batch: shots at a time.
    """

    def __init__(self, network: Network, weights: Mapping[str, Any], batch: int | None = None) -> None:
        self.network, self.weights, self.batch = network, weights, batch or PREDICT_BATCH

    def __call__(self, data: XtcavData | NewShots) -> Prediction:
        """`likelihood` (n, K), or `values` (n, T) and `presence`; with the shots' ids.

        Raises:
            BadInput: images or scalars are not those that the network was trained on.
        """
        (prediction,) = predict_all([self], data)
        return prediction

    def fit(self, data: XtcavData | NewShots) -> XtcavData:
        """The data, checked.

        Raises:
            BadInput: see `__call__`.
        """
        data = data.opened(self.weights) if isinstance(data, NewShots) else data
        shape, scalars = tuple(self.weights["shape"]), tuple(self.weights["scalars"])
        if tuple(data.image_shape) != shape:
            raise BadInput(
                f"{data.source}: images of {data.image_shape[0]}x{data.image_shape[1]} pixels do not fit a network "
                f"trained on {shape[0]}x{shape[1]}"
            )
        if len(data.scalars) != len(scalars):
            raise BadInput(
                f"{data.source}: {len(data.scalars)} scalars do not fit a network trained with {len(scalars)} "
                f"({', '.join(scalars) or 'none'})"
            )
        return data


def predict_all(members: Sequence[ShotPredictor], data: XtcavData | NewShots) -> list[Prediction]:
    """Predictions of several members; every image is read once for all of them."""
    opened = [member.fit(data) for member in members]
    rows = opened[0].eval
    parts: list[list[Prediction]] = [[] for _ in members]
    for batch in rows.batches(min(member.batch for member in members)):
        for part, member in zip(parts, members, strict=True):
            part.append(member.network(batch))
    return [{**_joined(part, member, len(rows)), **ids(opened[0])} for part, member in zip(parts, members, strict=True)]


def _joined(parts: list[Prediction], member: ShotPredictor, rows: int) -> Prediction:
    if not rows:
        empty = member.network.head.predict(torch.zeros(0, member.network.head.outputs))
        return empty
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ids(data: XtcavData) -> Prediction:
    """The shots' identity: run, seconds, nanoseconds, fiducials."""
    return {name: np.asarray(data.eval.ids[name]) for name in IDS}


def restore(
    config: Mapping[str, Any], weights: Mapping[str, Any], device: str, batch: int | None = None
) -> ShotPredictor:
    """A predictor from a snapshot (`XtcavLearner.weights`)."""
    head = heads.from_state(weights["head"])
    shape = (int(weights["shape"][0]), int(weights["shape"][1]))
    network = build(config, shape, len(weights["scalars"]), head.outputs)
    network.load_state_dict(weights["network"])
    placed(network, device).eval()
    return ShotPredictor(Network(network, head, config, torch.device(device)), weights, batch)


def many(members: Sequence[ShotPredictor], data: XtcavData | NewShots, together: int = 8) -> Iterator[Prediction]:
    """`predict_all`, some members at a time."""
    for start in range(0, len(members), together):
        yield from predict_all(members[start : start + together], data)
