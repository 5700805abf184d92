"""NDT: a transformer encoder that infers firing rates from spike counts (Ye & Pandarinath 2021)."""

from models.ndt.family import NDTFamily

FAMILY = NDTFamily()
