"""How many trials run at once, and why they could never start."""

from __future__ import annotations

from dataclasses import dataclass

from ground.errors import BadInput


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run side by side."""

    workers: int
    cpus_per_trial: float
    gpus_per_trial: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_trial > 0 else "cpu"

    @property
    def threads(self) -> int:
        """Threads of one trial: packing single-threaded trials beats giving one trial more threads."""
        return max(1, int(self.cpus_per_trial))


def plan(cpus: float, gpus: float, workers: int | None, cpus_per_trial: float, gpus_per_trial: float) -> Resources:
    """Resources for a machine or cluster of `cpus` cores and `gpus` GPUs.

    Raises:
        BadInput: no trial could ever start, in one line that says why.
    """
    if cpus_per_trial <= 0:
        raise BadInput(f"--cpus-per-trial {cpus_per_trial:g}: a trial needs a share of a core")
    if gpus_per_trial < 0:
        raise BadInput(f"--gpus-per-trial {gpus_per_trial:g}: cannot be negative")
    if gpus_per_trial > 1 and gpus_per_trial != int(gpus_per_trial):
        raise BadInput(f"--gpus-per-trial {gpus_per_trial:g}: above 1 only whole GPUs can be given")
    if cpus_per_trial > cpus:
        raise BadInput(f"each trial wants {cpus_per_trial:g} CPUs but there are {cpus:g}: no trial could start")
    if gpus_per_trial > gpus:
        raise BadInput(f"each trial wants {gpus_per_trial:g} GPUs but there are {gpus:g}: no trial could start")
    fit = int(cpus / cpus_per_trial + 1e-9)
    if gpus_per_trial:
        per_gpu = int(1 / gpus_per_trial + 1e-9) if gpus_per_trial <= 1 else 0
        fit = min(fit, int(gpus) * per_gpu if per_gpu else int(gpus // gpus_per_trial))
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: at least one is needed")
    if workers is not None and workers > fit:
        raise BadInput(
            f"--workers {workers} at {cpus_per_trial:g} CPUs and {gpus_per_trial:g} GPUs each do not fit into "
            f"{cpus:g} CPUs and {gpus:g} GPUs (at most {fit} do)"
        )
    return Resources(workers or fit, cpus_per_trial, gpus_per_trial)
