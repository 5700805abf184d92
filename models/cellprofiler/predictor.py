"""Trained networks as functions from crops to features, and from data to profiles of wells."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ground.errors import BadInput
from ground.machine import available_memory
from models.base import Prediction
from models.cellprofiler import choices, pixels, stream
from models.cellprofiler.choices import Choice
from models.cellprofiler.config import resolve
from models.cellprofiler.data import CellData
from models.cellprofiler.network import LAYOUT, CellNetwork, placed
from models.cellprofiler.scorers import cosines
from models.cellprofiler.sphering import Sphering
from models.cellprofiler.stream import Cells
from models.cellprofiler.wells import profiles

SHARE = 0.3
"""Of the free memory, for the features of all judged cells; what is more lies in a file."""


def prepared(crops: Tensor, device: torch.device) -> Tensor:
    """Crops (n, C, box, box) as networks see them, where they are to be seen."""
    return pixels.normalise(crops.to(device)).contiguous(memory_format=LAYOUT)


class Extractor:
    """A network that looks at crops.

    Args:
        network: which.
        about: what it was made for: classes, channels, box.
        device: where it runs.
    """

    def __init__(self, network: CellNetwork, about: Mapping[str, Any], device: torch.device) -> None:
        self.network, self.about, self.device = network, dict(about), device

    def __call__(self, crops: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (n, classes) and features (n, d) of each layer.

        Args:
            crops: (n, C, box, box) as stored or cut.
        """
        return self.of_prepared(prepared(crops, self.device), layers)

    @torch.inference_mode()
    def of_prepared(self, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of crops that `prepared` gave, float32, in full precision: what is predicted here and on another
        machine is to agree."""
        self.network.eval()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits, seen = self.network.looked_at(x, layers)
        return logits.float(), {layer: found.float() for layer, found in seen.items()}

    def cells(
        self, cells: Cells, rows: np.ndarray, layers: Sequence[str], batch: int
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """(rows, {layer: (n, d) float32}) of some cells, batch by batch, read ahead."""
        parts = stream.in_order(rows, batch)
        for part, crops in zip(parts, stream.batches(cells, parts), strict=True):
            yield part, {layer: found.cpu().numpy() for layer, found in self(crops, layers)[1].items()}

    def fit(self, box: int, channels: Sequence[str], source: str) -> None:
        """Raises BadInput where crops are not what the network was trained on."""
        side, trained = int(self.about["box"]), tuple(self.about["channels"])
        if box != side:
            raise BadInput(f"{source}: crops of {box} pixels do not fit a network trained on {side} (box_size)")
        if len(channels) != len(trained):
            raise BadInput(
                f"{source}: {len(channels)} channels ({', '.join(channels)}) do not fit a network trained "
                f"on {len(trained)} ({', '.join(trained)})"
            )
        if tuple(channels) != trained and set(channels) == set(trained):
            raise BadInput(
                f"{source}: channels are in the order {', '.join(channels)}, the network was trained on "
                f"{', '.join(trained)}"
            )


@dataclass
class Seen:
    """What a network saw in the judged cells.

    Attributes:
        features: of each layer, (cells, d) float32.
        probabilities: (wells, K) float32, means over cells.
        loss, accuracy, top_k: means over cells of known classes; NaN where there are none.
    """

    features: dict[str, np.ndarray]
    probabilities: np.ndarray
    loss: float
    accuracy: float
    top_k: float


def look(
    extractors: Sequence[Extractor], layers: Sequence[Sequence[str]], data: CellData, batch: int, top_k: int = 5
) -> list[Seen]:
    """What several networks see in the judged cells of the data; every crop is read and normalised once for all.

    Args:
        extractors: all on one device.
        layers: of each network, whose features are kept.
        top_k: how many classes `Seen.top_k` counts.
    """
    share = SHARE / max(1, sum(map(len, layers)))
    tallies = [_Tally(one, some, data, top_k, share) for one, some in zip(extractors, layers, strict=True)]
    places = stream.in_order(np.arange(len(data.eval)), batch)
    crops = stream.batches(data.store, [data.eval[part] for part in places])
    for part, some in zip(places, crops, strict=True):
        x = prepared(some, extractors[0].device)
        for tally in tallies:
            tally.add(part, x)
    return [tally.seen() for tally in tallies]


class _Tally:
    """Features kept and sums taken batch by batch."""

    def __init__(self, extractor: Extractor, layers: Sequence[str], data: CellData, top_k: int, share: float) -> None:
        self.share, self.extractor, self.layers, self.data = share, extractor, tuple(layers), data
        classes = len(extractor.about["classes"])
        self._top = min(top_k, classes)
        self._features: dict[str, np.ndarray] = {}
        self._sum = torch.zeros((len(data.wells), classes), dtype=torch.float64)
        self._well = torch.from_numpy(data.well_of)
        numbers = {name: number for number, name in enumerate(extractor.about["classes"])}
        # classes of the data may be others than the network's
        of_class = np.array([numbers.get(name, -1) for name in data.classes] + [-1], dtype=np.int64)
        self._targets = torch.from_numpy(of_class[data.targets[data.eval]])
        self._counts = np.zeros(4)  # of known cells: how many, loss, right, among the first k

    def add(self, part: np.ndarray, x: Tensor) -> None:
        logits, found = self.extractor.of_prepared(x, self.layers)
        for layer, values in found.items():
            if layer not in self._features:
                self._features[layer] = _room(len(self.data.eval), values.shape[1], self.share)
            self._features[layer][part] = values.cpu().numpy()
        logits = logits.cpu()
        self._sum.index_add_(0, self._well[part], logits.double().softmax(1))
        targets = self._targets[part]
        known = targets >= 0
        if known.any():
            logits, targets = logits[known], targets[known]
            right = logits.topk(self._top, 1).indices == targets[:, None]
            loss = float(F.cross_entropy(logits.double(), targets, reduction="sum"))
            self._counts += (len(targets), loss, float(right[:, 0].sum()), float(right.any(1).sum()))

    def seen(self) -> Seen:
        count, *sums = self._counts.tolist()
        loss, accuracy, top = (value / count if count else math.nan for value in sums)
        cells = torch.from_numpy(self.data.wells.cells)[:, None]
        return Seen(self._features, (self._sum / cells).float().numpy(), loss, accuracy, top)


def _room(cells: int, width: int, share: float) -> np.ndarray:
    """An array (cells, width) float32, in memory or, where that would take more than a share of what is free, in a file
    without a name."""
    if 4 * cells * width <= share * available_memory():
        return np.empty((cells, width), np.float32)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the array holds it open)
    return np.memmap(file, np.float32, "w+", shape=(cells, width))


class CellPredictor:
    """A snapshot as a function from data to profiles and probabilities of wells.

    Args:
        extractor: its network.
        choice: the layer, aggregate and λ that were best on the validation wells.
        sphering: fitted on the validation controls; used where new data has none.
        batch: cells at a time.
    """

    def __init__(self, extractor: Extractor, choice: Choice, sphering: Sphering, batch: int) -> None:
        self.extractor, self.choice, self.sphering, self.batch = extractor, choice, sphering, batch

    def __call__(self, data: CellData) -> Prediction:
        """`profile` (samples, d) float32, rows of unit length; `probabilities` (samples, K) float32, means over cells;
        and, where the samples are not the whole gallery, `similarity` (samples, gallery) float32.

        Raises:
            BadInput: crops of another size or of other channels than the network was trained on.
        """
        (prediction,) = predict_all([self], data)
        return prediction


def predict_all(members: Sequence[CellPredictor], data: CellData) -> list[Prediction]:
    """Predictions of several members; every crop is read once for all of them."""
    for member in members:
        member.extractor.fit(data.store.box, data.store.channels, data.source)
    data.model_classes[:] = members[0].extractor.about["classes"]
    layers = [[member.choice.layer] for member in members]
    found = look([member.extractor for member in members], layers, data, min(member.batch for member in members))
    return [_told(member, seen, data) for member, seen in zip(members, found, strict=True)]


def _told(member: CellPredictor, seen: Seen, data: CellData) -> Prediction:
    choice = member.choice
    profile = profiles(seen.features[choice.layer], data.well_of, len(data.wells), choice.aggregate)
    gallery = choices.apply(choice, member.sphering, profile, data.wells, data.gallery)
    queries = gallery[data.queries]
    prediction = {"profile": queries, "probabilities": seen.probabilities[data.samples]}
    if len(data.samples) < len(data.gallery):
        prediction["similarity"] = cosines(queries, gallery)
    return prediction


def many(members: Sequence[CellPredictor], data: CellData, together: int = 8) -> Iterator[Prediction]:
    """`predict_all`, some members at a time."""
    for start in range(0, len(members), together):
        yield from predict_all(members[start : start + together], data)


def restore(
    config: Mapping[str, Any], weights: Mapping[str, Any], device: str, batch: int | None = None
) -> CellPredictor:
    """A predictor from a snapshot (`CellLearner.weights`)."""
    config, about = resolve(config), weights["about"]
    network = CellNetwork(config, len(about["channels"]), int(about["box"]), len(about["classes"]))
    network.load_state_dict(weights["network"])
    extractor = Extractor(placed(network, device), about, torch.device(device))
    choice = weights["choice"]
    lam = None if choice["lam"] is None else float(choice["lam"])
    chosen = Choice(str(choice["layer"]), str(choice["aggregate"]), lam)
    return CellPredictor(extractor, chosen, Sphering.from_state(weights["sphering"]), batch or config["EVAL_BATCH"])
