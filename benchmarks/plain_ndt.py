"""The textbook NDT training loop, kept plain on purpose: what our own is measured against.

torch.nn building blocks, `nn.Dropout`, a float band mask, attention weights returned from every layer, a
`DataLoader` in the loop. Weights have the names of `models.ndt.network`, so both can run the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class PlainLayer(nn.Module):
    def __init__(self, config: Mapping[str, Any], d_model: int) -> None:
        super().__init__()
        p = config["MODEL.DROPOUT"]
        self.self_attn = nn.MultiheadAttention(d_model, config["MODEL.NUM_HEADS"], dropout=p)
        self.linear1 = nn.Linear(d_model, config["MODEL.HIDDEN_SIZE"])
        self.dropout = nn.Dropout(p)
        self.linear2 = nn.Linear(config["MODEL.HIDDEN_SIZE"], d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(p)
        self.dropout2 = nn.Dropout(p)

    def forward(self, src: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        normed = self.norm1(src)
        attended, weights = self.self_attn(normed, normed, normed, attn_mask=mask, need_weights=True)
        src = src + self.dropout1(attended)
        fed = self.linear2(self.dropout(F.relu(self.linear1(self.norm2(src)))))
        return src + self.dropout2(fed), weights


class PlainNDT(nn.Module):
    """EMBED_DIM 0, learned positions, pre-norm, log-rates: the settings of the mc_maze datasets."""

    def __init__(self, config: Mapping[str, Any], length: int, units: int) -> None:
        super().__init__()
        self.scale = math.sqrt(units)
        self.pos_encoder: Any = nn.Module()
        self.pos_encoder.register_buffer("pe", torch.arange(length).unsqueeze(1))
        self.pos_encoder.pos_embedding = nn.Embedding(length, units)
        self.pos_dropout = nn.Dropout(config["MODEL.DROPOUT_EMBEDDING"])
        self.transformer_encoder: Any = nn.Module()
        self.transformer_encoder.layers = nn.ModuleList(
            [PlainLayer(config, units) for _ in range(config["MODEL.NUM_LAYERS"])]
        )
        self.transformer_encoder.norm = nn.LayerNorm(units)
        self.rate_dropout = nn.Dropout(config["MODEL.DROPOUT_RATES"])
        self.decoder = nn.Sequential(nn.Linear(units, units))
        i, j = torch.arange(length).unsqueeze(1), torch.arange(length).unsqueeze(0)
        back, ahead = config["MODEL.CONTEXT_BACKWARD"], config["MODEL.CONTEXT_FORWARD"]
        ahead = length if ahead < 0 else ahead
        back = length if back <= 0 else back
        visible = (j >= i - back) & (j <= i + ahead)
        banded = torch.zeros(length, length).masked_fill(~visible, float("-inf"))
        self.mask = None if config["MODEL.FULL_CONTEXT"] else banded

    def forward(self, spikes: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = spikes.permute(1, 0, 2) * self.scale
        x = self.pos_dropout(x + self.pos_encoder.pos_embedding(self.pos_encoder.pe))
        all_weights = []
        for layer in self.transformer_encoder.layers:
            x, weights = layer(x, self.mask)
            all_weights.append(weights)
        x = self.rate_dropout(self.transformer_encoder.norm(x))
        return self.decoder(x).permute(1, 0, 2), all_weights


class PlainLoop:
    """One call of `epoch` is one update of the textbook program: one pass over the trials."""

    def __init__(self, config: Mapping[str, Any], arrays: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.config = config
        self.heldin, self.heldout = arrays["heldin"], arrays["heldout"]
        self.forward_bins = arrays["forward"]
        length = self.heldin.shape[1] + self.forward_bins.shape[1]
        self.model = PlainNDT(config, length, self.forward_bins.shape[2])
        self.model.load_state_dict(state)
        self.loader = DataLoader(
            TensorDataset(self.heldin, self.heldout, self.forward_bins), config["TRAIN.BATCH_SIZE"], shuffle=True
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["TRAIN.LR.INIT"])

    def mask(self, heldin: Tensor, heldout: Tensor, forward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and which labels count."""
        config = self.config
        masked = torch.bernoulli(torch.full(heldin.shape[:2], config["TRAIN.MASK_RATIO"])).bool()
        masked = masked.unsqueeze(2).expand_as(heldin)
        inputs = heldin.clone()
        zeroed = torch.bernoulli(torch.full(heldin.shape, config["TRAIN.MASK_TOKEN_RATIO"])).bool() & masked
        inputs[zeroed] = 0
        random = torch.bernoulli(torch.full(heldin.shape, config["TRAIN.MASK_RANDOM_RATIO"])).bool()
        random &= masked & ~zeroed
        counts = torch.randint(int(heldin.max()), heldin.shape).float()
        inputs[random] = counts[random]
        inputs = torch.cat([inputs, torch.zeros_like(heldout)], 2)
        inputs = torch.cat([inputs, torch.zeros_like(forward)], 1)
        labels = torch.cat([torch.cat([heldin, heldout], 2), forward], 1)
        counted = torch.ones_like(labels, dtype=torch.bool)
        counted[:, : heldin.shape[1], : heldin.shape[2]] = masked
        return inputs, labels, counted

    def loss(self, inputs: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        lograte, _ = self.model(inputs)
        return F.poisson_nll_loss(lograte, labels, log_input=True, reduction="none")[counted].mean()

    def epoch(self) -> float:
        self.model.train()
        loss = torch.zeros(())
        for heldin, heldout, forward in self.loader:
            self.optimizer.zero_grad()
            loss = self.loss(*self.mask(heldin, heldout, forward))
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["TRAIN.MAX_GRAD_NORM"])
            self.optimizer.step()
        return float(loss.detach())
