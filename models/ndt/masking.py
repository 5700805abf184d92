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
        drawn = self._mask(heldin, width, generator)
        masked = drawn.expand(heldin.shape)
        most = max(int(heldin.max()), 1)
        if self.mode == "timestep" and heldin.device.type == "cpu":
            # random numbers for the hidden bins only: on a CPU they cost more than picking those bins
            inputs, hidden = heldin.clone(), drawn[:, :, 0]
            inputs[hidden] = self._corrupt(heldin[hidden], most, generator)
            return inputs, masked
        return torch.where(masked, self._corrupt(heldin, most, generator), heldin), masked

    def _corrupt(self, counts: Tensor, most: int, generator: torch.Generator) -> Tensor:
        """What stands in the place of hidden counts: the token, a random count below `most`, or the count itself."""
        # one uniform number decides both: token below token_ratio, else random with random_ratio
        u = torch.rand(counts.shape, generator=generator, device=counts.device)
        random = torch.randint(0, most, counts.shape, generator=generator, device=counts.device, dtype=counts.dtype)
        out = torch.where(u < self.token_ratio + (1 - self.token_ratio) * self.random_ratio, random, counts)
        return torch.where(u < self.token_ratio, self.token, out)

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
        return drawn
