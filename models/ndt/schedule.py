"""Learning rates over updates, as factors of LR.INIT; one update is one pass over the trials."""

from __future__ import annotations

import math


def factor(kind: str, update: int, warmup: int, total: int) -> float:
    """The factor at `update`, counted from 0.

    Both rise linearly over `warmup` updates (so the first is 0), then "cosine" falls to 0 at `total` and
    "invsqrt" falls as sqrt(warmup / update).
    """
    if update < warmup:
        return update / max(1, warmup)
    if kind == "invsqrt":
        return math.sqrt(max(1, warmup) / max(1, update))
    passed = (update - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * passed)))
