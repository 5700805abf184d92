"""Trained networks as functions from events to a probability or a charge for each voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ground.errors import BadInput
from models.base import Prediction
from models.cellnet.config import TASKS, network_settings, triple
from models.cellnet.data import CellData
from models.cellnet.events import Batch, Events, Store
from models.cellnet.losses import unscaled
from models.cellnet.network import SparseCellNet
from models.cellnet.sparse import Sites
from models.cellnet.transforms import PLANES, Transforms
from models.cellnet.transforms import parse as parse_transforms

OUTPUT = {"ghost": "probability", "charge": "charge"}
"""What the predicted array of each task is called."""


class Model:
    """A network with what goes before and after it.

    Args:
        network: (N, 4), (N, F) -> (N, 1).
        config: complete settings.
        task: what its output means.
        transforms: what is made of the voxels.
        device: where it runs.
    """

    def __init__(
        self, network: SparseCellNet, config: Mapping[str, Any], task: str, transforms: Transforms, device: torch.device
    ) -> None:
        self.network, self.config, self.task = network, config, task
        self.transforms, self.device = transforms, device
        self.spatial = triple("SPATIAL", config["SPATIAL"])

    def __call__(self, batch: Batch, store: Store, training: bool = False) -> Tensor:
        """(N,) logits, or what a charge head gives."""
        out = self.network(self._sites(batch, store, training), self._features(batch.features))
        return out[:, 0].float()

    def values(self, output: Tensor) -> Tensor:
        """Probabilities, or charges in the truth's units."""
        return torch.sigmoid(output) if self.task == "ghost" else unscaled(self.config, output)

    def _features(self, features: Tensor) -> Tensor:
        features = features.to(self.device, non_blocking=True)
        if self.config["INPUT_SCALE"] == "none":
            return features
        scaled = torch.log1p(features[:, :PLANES].clamp_min(0) / self.config["INPUT_UNIT"])
        return torch.cat([scaled, features[:, PLANES:]], 1)

    def _sites(self, batch: Batch, store: Store, training: bool) -> Sites:
        """Kernel maps; those of a single file are kept, for they come again in the next epoch or member."""

        def make() -> Sites:
            return self.network.sites(batch.coords.to(self.device))

        if len(batch.files) != 1:
            return make()
        (file,) = batch.files
        cut = training and any(self.transforms.coord_lim)
        limits = self.transforms.coord_lim if cut else ()
        key = ("sites", file.path, file.chosen, limits, self.spatial, self.config["CONV_KERNEL"], str(self.device))
        found: Sites = store.get(key, make, lambda sites: len(sites) * _map_bytes(self.config))
        return found


def _map_bytes(config: Mapping[str, Any]) -> int:
    """Bytes a voxel of what is kept with its sites: keys, coordinates and rows, neighbours and blocks; coarser levels
    hold about half as much again."""
    return int(1.5 * (48 + 4 * config["CONV_KERNEL"] ** 3 + 24))


def build(config: Mapping[str, Any], task: str, features: int) -> SparseCellNet:
    """A network with random weights.

    Raises:
        BadInput: settings that no network has.
    """
    return SparseCellNet(network_settings(config, task, features))


class CellPredictor:
    """A snapshot's network as a function from data to predictions.

    Args:
        model: with its network.
        batch: events at a time; None: a file, or what of it fits.
    """

    def __init__(self, model: Model, batch: int | None = None) -> None:
        self.model, self.batch = model, batch

    def __call__(self, data: CellData) -> Prediction:
        """`probability` or `charge` (N,) float32 of each row of X, with `voxel` (N, 3) int16 and `event` (N,) int32,
        the number of the row's event among all of its part.

        Raises:
            BadInput: a file cannot be used.
        """
        name = OUTPUT[self.model.task]
        values, voxels, events = [np.zeros(0, np.float32)], [np.zeros((0, PLANES), np.int16)], [np.zeros(0, np.int32)]
        for batch, output in self.outputs(data.eval):
            values.append(self.model.values(output).cpu().numpy())
            coords = batch.coords.numpy()
            voxels.append(coords[:, :3].astype(np.int16))
            events.append(batch.ids[coords[:, 3]].astype(np.int32))
        return {name: np.concatenate(values), "voxel": np.concatenate(voxels), "event": np.concatenate(events)}

    def outputs(self, events: Events, full: bool = False) -> Iterator[tuple[Batch, Tensor]]:
        """Batches in order, and what the network gives for them; it is in evaluation mode afterwards.

        Args:
            full: batches hold all true voxels, too.
        """
        model = self.model
        model.network.eval()
        for batch in events.evaluated(model.transforms, model.spatial, self.batch, full):
            with torch.inference_mode():
                output = model(batch, events.store)
            yield batch, output


def restore(config: Mapping[str, Any], weights: Mapping[str, Any], device: str, batch: int | None) -> CellPredictor:
    """A predictor from a snapshot (`CellNetLearner.weights`).

    Raises:
        BadInput: it is of no known task.
    """
    if weights["task"] not in TASKS:
        raise BadInput(f"the snapshot is of the task {weights['task']!r}; there are {', '.join(TASKS)}")
    transforms = parse_transforms(weights["transforms"], 1)
    network = build(config, weights["task"], transforms.features)
    network.load_state_dict(weights["network"])
    network.to(device).eval()
    return CellPredictor(Model(network, config, weights["task"], transforms, torch.device(device)), batch)
