"""The Neural Data Transformer as one pure module (Ye & Pandarinath 2021; settings as in `config`).

Parameter names and shapes are those of the published checkpoints, so their weights load unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import BadInput
from ground.limits import shown
from models.ndt.attention import Band, Dropout, Linear, RandomBits, SelfAttention, make_band
from models.ndt.config import resolve
from models.ndt.data import LONGEST

MOST_UNITS = 100_000


class ScaleNorm(nn.Module):
    """g * x / ||x|| with one learned g (Nguyen & Salazar 2019)."""

    def __init__(self, scale: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale / torch.norm(x, dim=-1, keepdim=True).clamp(min=self.eps))


class PositionalEncoding(nn.Module):
    """Learned or sinusoidal positions, added, then dropout.

    A learned table has T rows and is indexed by the saved buffer `pe`; an offset would only rename its rows,
    so fresh models count from 0.
    """

    pe: Tensor

    def __init__(self, config: Mapping[str, Any], length: int, d_model: int, bits: RandomBits) -> None:
        super().__init__()
        self.dropout = Dropout(config["MODEL.DROPOUT_EMBEDDING"], bits)
        self.learnable = config["MODEL.LEARNABLE_POSITION"]
        position = torch.arange(length).unsqueeze(1)
        if self.learnable:
            self.register_buffer("pe", position)
            self.pos_embedding = nn.Embedding(length, d_model)
        else:
            if config["MODEL.POSITION.OFFSET"]:
                position = position + 1
            rate = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
            pe = torch.zeros(length, d_model)
            pe[:, 0::2] = torch.sin(position * rate)
            pe[:, 1::2] = torch.cos(position * rate[: d_model // 2])
            self.register_buffer("pe", pe.unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, D)."""
        table = self.pos_embedding(self.pe) if self.learnable else self.pe
        out: Tensor = self.dropout(x + table.transpose(0, 1))
        return out


class EncoderLayer(nn.Module):
    def __init__(self, config: Mapping[str, Any], d_model: int, bits: RandomBits) -> None:
        super().__init__()
        p = config["MODEL.DROPOUT"]
        self.pre_norm = config["MODEL.PRE_NORM"]
        self.activation = F.gelu if config["MODEL.ACTIVATION"] == "gelu" else F.relu
        self.self_attn = SelfAttention(d_model, config["MODEL.NUM_HEADS"], p, bits)
        self.linear1 = Linear(d_model, config["MODEL.HIDDEN_SIZE"])
        self.dropout = Dropout(p, bits)
        self.linear2 = Linear(config["MODEL.HIDDEN_SIZE"], d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = Dropout(p, bits)
        self.dropout2 = Dropout(p, bits)

    def _feed(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        hidden = self.dropout.relu(hidden) if self.activation is F.relu else self.dropout(self.activation(hidden))
        out: Tensor = self.linear2(hidden)
        return out

    def forward(self, x: Tensor, band: Band) -> Tensor:
        if self.pre_norm:
            x = self.dropout1.add(x, self.self_attn(self.norm1(x), band))
            return self.dropout2.add(x, self._feed(self.norm2(x)))
        x = self.norm1(self.dropout1.add(x, self.self_attn(x, band)))
        x = self.norm2(self.dropout2.add(x, self._feed(x)))
        return x


class Encoder(nn.Module):
    def __init__(self, config: Mapping[str, Any], d_model: int, bits: RandomBits) -> None:
        super().__init__()
        layers = [EncoderLayer(config, d_model, bits) for _ in range(config["MODEL.NUM_LAYERS"])]
        self.layers = nn.ModuleList(layers)
        self.norm: nn.Module = ScaleNorm(d_model**0.5) if config["MODEL.SCALE_NORM"] else nn.LayerNorm(d_model)

    def forward(self, x: Tensor, band: Band) -> Tensor:
        for layer in self.layers:
            x = layer(x, band)
        out: Tensor = self.norm(x)
        return out


class _Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-2)


class NDT(nn.Module):
    """Spike counts (B, T, N) in, the decoder's output (B, T, N) out: log-rates, or rates without LOGRATE.

    T is observed plus forward bins, N held-in plus held-out units; what is to be predicted enters as zeros.
    With the cross-entropy loss the output is (B, T, N, MAX_SPIKE_COUNT) logits of the count.

    Args:
        config: complete settings (`config.resolve`).
        length: T.
        units: N.
        max_spikes: largest count the embedder knows; inputs must be clipped to it.
        bits: the source of dropout masks on the CPU.
        initialize: whether initial weights are drawn; not worth its time where saved ones follow.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        length: int,
        units: int,
        max_spikes: int,
        bits: RandomBits | None = None,
        initialize: bool = True,
    ) -> None:
        super().__init__()
        bits = bits or RandomBits(0)
        self.config = dict(config)
        self.length, self.units = length, units
        embed = config["MODEL.EMBED_DIM"]
        d_model = units * max(embed, 1)
        self.d_model = d_model
        if config["MODEL.LINEAR_EMBEDDER"]:
            self.embedder: nn.Module = nn.Sequential(nn.Linear(units, d_model))
        elif embed:
            self.embedder = nn.Sequential(nn.Embedding(max_spikes + 2, embed), _Flatten())
        else:
            self.embedder = nn.Identity()
        self.embeds_counts = bool(embed) and not config["MODEL.LINEAR_EMBEDDER"]
        self.scale = math.sqrt(d_model)
        self.pos_encoder = PositionalEncoding(config, length, d_model, bits)
        self.transformer_encoder = Encoder(config, d_model, bits)
        self.rate_dropout = Dropout(config["MODEL.DROPOUT_RATES"], bits)
        self.counts = config["MODEL.MAX_SPIKE_COUNT"] if config["MODEL.LOSS.TYPE"] == "cel" else 0
        out = units * max(self.counts, 1)
        if config["MODEL.DECODER.LAYERS"] == 1:
            decoder: list[nn.Module] = [Linear(d_model, out)]
        else:
            decoder = [nn.Linear(d_model, 16), nn.ReLU(), nn.Linear(16, out)]
        if not config["MODEL.LOGRATE"] and not self.counts:
            decoder.append(nn.ReLU())
        self.decoder = nn.Sequential(*decoder)
        self._bands: dict[torch.device, Band] = {}
        if initialize:
            self._initialize()

    def _initialize(self) -> None:
        config = self.config
        first: Any = self.transformer_encoder.layers[0]
        if config["MODEL.FIXUP_INIT"]:
            factor = 0.67 * config["MODEL.NUM_LAYERS"] ** -0.25
            with torch.no_grad():
                for linear in (first.linear1, first.linear2, first.self_attn.out_proj):
                    linear.weight.mul_(factor)
        # every layer starts as a copy of the first, as published
        for layer in list(self.transformer_encoder.layers)[1:]:
            layer.load_state_dict(first.state_dict())
        for module in self.decoder:
            if isinstance(module, nn.Linear):
                nn.init.uniform_(module.weight, -0.1, 0.1)
                nn.init.zeros_(module.bias)
        if not config["MODEL.LOGRATE"] and not self.counts:
            # rates behind a relu must start above zero, or a dead unit never learns
            nn.init.constant_(self.decoder[-2].bias, 0.1)  # type: ignore[arg-type]
        if isinstance(self.embedder, nn.Sequential):
            embedding: Any = self.embedder[0]
            weight = embedding.weight
            nn.init.uniform_(weight, -0.1, 0.1)
            if self.embeds_counts and config["MODEL.SPIKE_LOG_INIT"]:
                rows = torch.arange(1, weight.shape[0] + 1).float().log().unsqueeze(1)
                with torch.no_grad():
                    weight.mul_(0.1).add_(rows - rows.mean())

    def start_at(self, rates: Tensor) -> None:
        """Set the decoder's bias so that the untrained network infers `rates`, each unit's mean (N,).

        From a bias of zero (one spike a bin) hundreds of updates go into nothing but finding the mean.
        """
        if self.counts:
            return
        last: Any = self.decoder[-1 if self.config["MODEL.LOGRATE"] else -2]
        rates = rates.clamp(min=1e-4)
        with torch.no_grad():
            last.bias.copy_(rates.log() if self.config["MODEL.LOGRATE"] else rates)

    def band(self, device: torch.device) -> Band:
        if device not in self._bands:
            config = self.config
            self._bands[device] = make_band(
                self.length,
                config["MODEL.CONTEXT_FORWARD"],
                config["MODEL.CONTEXT_BACKWARD"],
                config["MODEL.FULL_CONTEXT"],
                config["MODEL.CONTEXT_WRAP_INITIAL"],
                device,
            )
        return self._bands[device]

    def forward(self, spikes: Tensor) -> Tensor:
        inputs = spikes.long() if self.embeds_counts else spikes.to(self._dtype())
        x = self.pos_encoder(self.embedder(inputs) * self.scale)
        x = self.rate_dropout(self.transformer_encoder(x, self.band(x.device)))
        out: Tensor = self.decoder(x)
        return out.unflatten(-1, (self.units, self.counts)) if self.counts else out

    def _dtype(self) -> torch.dtype:
        return self.transformer_encoder.layers[0].linear1.weight.dtype  # type: ignore[union-attr,return-value]

    def rates(self, output: Tensor) -> Tensor:
        """Expected spikes a bin (B, T, N), from the network's output."""
        if self.counts:
            support = torch.arange(self.counts, device=output.device, dtype=output.dtype)
            return (output.softmax(-1) * support).sum(-1)
        return output.exp() if self.config["MODEL.LOGRATE"] else output


def build(config: Mapping[str, Any], weights: Mapping[str, Any], device: str) -> NDT:
    """A network holding `weights`, ready to predict; its initial weights are never drawn.

    Raises:
        BadInput: its sizes are no whole numbers, or larger than any that was trained.
        RuntimeError: the tensors are not of these sizes.
    """
    for name, most in (("length", LONGEST), ("units", MOST_UNITS), ("max_spikes", 2**20)):
        if type(weights[name]) is not int or not 0 <= weights[name] <= most:
            raise BadInput(f"its {name} is {shown(weights[name])}; it takes a whole number up to {most}")
    with torch.device("meta"):
        network = NDT(resolve(config), weights["length"], weights["units"], weights["max_spikes"], initialize=False)
    positions = weights["network"].get("pos_encoder.pos_embedding.weight")
    if positions is not None and network.pos_encoder.learnable:
        # a saved table may hold more rows than there are bins; the saved `pe` says which are used
        network.pos_encoder.pos_embedding = nn.Embedding(positions.shape[0], positions.shape[1], device="meta")
    network.load_state_dict(weights["network"], assign=True)
    return network.to(device).eval()
