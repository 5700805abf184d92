"""Masked modelling: which counts are hidden from the network, and what stands in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Masker:
    """Draws the masks of the original training loop from one generator, on the data's device.

    Args:
        config: complete NDT settings.
        max_spikes: stands for "masked" where USE_ZERO_MASK is off (as max_spikes + 1).
    """

    def __init__(self, config: Mapping[str, Any], max_spikes: int) -> None:
        self.ratio = config["TRAIN.MASK_RATIO"]
        self.mode = config["TRAIN.MASK_MODE"]
        self.token_ratio = config["TRAIN.MASK_TOKEN_RATIO"]
        self.random_ratio = config["TRAIN.MASK_RANDOM_RATIO"]
        self.max_span = config["TRAIN.MASK_MAX_SPAN"]
        self.ramp = (config["TRAIN.MASK_SPAN_RAMP_START"], config["TRAIN.MASK_SPAN_RAMP_END"])
        self.token = 0.0 if config["TRAIN.USE_ZERO_MASK"] else float(max_spikes + 1)

    def span_probability(self, update: int) -> float:
        """Chance that a batch of this update is masked in spans: a ramp from 0 to 1."""
        start, end = self.ramp
        if update <= start:
            return 0.0
        return min((update - start) / max(end - start, 1), 1.0)

    def __call__(self, heldin: Tensor, update: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hide part of `heldin` (B, T, N).

        Returns:
            The corrupted inputs, and the bool mask, both (B, T, N).
        """
        width = 1
        if self.max_span > 1:
            chance = torch.rand(1, generator=generator, device=heldin.device).item()
            if chance < self.span_probability(update):
                width = int(torch.randint(1, self.max_span + 1, (1,), generator=generator, device=heldin.device).item())
        masked = self._mask(heldin, width, generator)
        # one uniform number decides both: token below token_ratio, else random with random_ratio
        u = torch.rand(heldin.shape, generator=generator, device=heldin.device)
        zeroed = u < self.token_ratio
        random = (u < self.token_ratio + (1 - self.token_ratio) * self.random_ratio) & ~zeroed & masked
        inputs = torch.where(zeroed & masked, self.token, heldin)
        most = max(int(heldin.max()), 1)
        counts = torch.randint(0, most, heldin.shape, generator=generator, device=heldin.device, dtype=heldin.dtype)
        return torch.where(random, counts, inputs), masked

    def _mask(self, heldin: Tensor, width: int, generator: torch.Generator) -> Tensor:
        batch, length, units = heldin.shape
        shape = {"timestep": (batch, length, 1), "neuron": (batch, 1, units), "full": (batch, length, units)}
        drawn = torch.rand(shape[self.mode], generator=generator, device=heldin.device) < self.ratio / width
        if width > 1 and self.mode != "neuron":
            flat = drawn.float().transpose(1, 2)
            flat = torch.nn.functional.pad(flat, (width // 2, width - 1 - width // 2))
            drawn = torch.nn.functional.max_pool1d(flat, width, stride=1).transpose(1, 2) > 0
        if not bool(drawn.any()):
            drawn[0, 0, 0] = True  # a loss over nothing would be NaN
        return drawn.expand(batch, length, units)
