"""Learning rates over steps, counted from 0."""

from __future__ import annotations

import math


def rate(schedule: str, base: float, step: int, total: int, warmup: int) -> float:
    """The rate of a step.

    Args:
        schedule: "constant", or "cosine" (to 0 at `total`).
        base: the largest rate.
        warmup: steps of linear rise before it; the first step already moves.
    """
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule == "constant":
        return base
    passed = (step - warmup) / max(1, total - warmup)
    return base * 0.5 * (1.0 + math.cos(math.pi * min(1.0, passed)))
