"""The textbook training loop of a trace inverter, kept plain on purpose: what our own is measured against.

nn.Conv1d, nn.MaxPool1d, nn.ReLU, nn.Linear, nn.Dropout; a Dataset over the file's arrays in memory, a DataLoader that
shuffles it; Adam; the loss asked for at every step. Settings are those of `models.cellspike.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class PlainTraces(Dataset[tuple[Tensor, Tensor]]):
    """Rows of one pack, read at the start, one at a time."""

    def __init__(self, path: Path, split: str = "train") -> None:
        with h5py.File(path) as file:
            self.frames = file[f"{split}_frames"][:].astype("float32")
            self.parameters = file[f"{split}_unitStar_par"][:].astype("float32")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.frames[row]), torch.from_numpy(self.parameters[row])


class PlainNet(nn.Module):
    """Convolution, pool, ReLU in blocks; dense layers with ReLU and dropout; linear outputs."""

    def __init__(self, config: Mapping[str, Any], bins: int, probes: int, outputs: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = probes
        for number in range(1, config["CONV_DEPTH"] + 1):
            filters, kernel, pool = (config[f"{name}_{number}"] for name in ("FILTERS", "KERNEL", "POOL"))
            blocks += [nn.Conv1d(width, filters, kernel), nn.MaxPool1d(pool), nn.ReLU()]
            width, bins = filters, (bins - kernel + 1) // pool
        self.cnn = nn.Sequential(*blocks)
        layers: list[nn.Module] = []
        width *= bins
        for number in range(1, config["FC_DEPTH"] + 1):
            units = config[f"FC_{number}"]
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(config["DROPOUT"])]
            width = units
        self.dense = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.cnn(x.transpose(1, 2)).flatten(1))


class PlainLoop:
    """One call of `epoch` is one pass over the training rows."""

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        rows = PlainTraces(path)
        self.loader = DataLoader(rows, config["BATCH_SIZE"], shuffle=True, drop_last=True)
        _, bins, probes = rows.frames.shape
        self.model = PlainNet(config, bins, probes, rows.parameters.shape[1])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["LR"])
        self.loss = nn.MSELoss()

    def epoch(self) -> float:
        self.model.train()
        total = 0.0
        for traces, parameters in self.loader:
            self.optimizer.zero_grad()
            loss = self.loss(self.model(traces), parameters)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.loader)
