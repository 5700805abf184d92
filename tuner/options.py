"""How a study is searched, as opposed to what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How to search; none of it changes what a study is, so all may differ when it is continued."""

    samples: int
    searcher: str = "skopt"
    scheduler: str = "none"
    workers: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    address: str | None = None
    keep: int = 60
    checkpoint_seconds: float = 30.0
    verbose: bool = False
    warm_start: Path | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus_per_trial))
