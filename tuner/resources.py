"""How many trials run at once, and why they could never start."""

from __future__ import annotations

from ground.errors import BadInput


def plan(
    cpus: float, gpus: float, workers: int | None, cpus_per_trial: float, gpus_per_trial: float, ranks: int = 1
) -> int:
    """How many trials run side by side on a machine or cluster of `cpus` cores and `gpus` GPUs.

    Packing single-threaded trials beats giving one trial more threads.

    Args:
        workers: as many as these, if they fit; None: as many as fit.
        cpus_per_trial, gpus_per_trial: of each of a trial's ranks.

    Raises:
        BadInput: no trial could ever start, or not so many; in one line that says why.
    """
    if ranks < 1:
        raise BadInput(f"--ranks {ranks}: at least one is needed")
    if cpus_per_trial <= 0:
        raise BadInput(f"--cpus-per-trial {cpus_per_trial:g}: a trial needs a share of a core")
    if gpus_per_trial < 0:
        raise BadInput(f"--gpus-per-trial {gpus_per_trial:g}: cannot be negative")
    if gpus_per_trial != int(gpus_per_trial) and (gpus_per_trial > 1 or ranks > 1):
        case = "above 1" if ranks == 1 else "with several ranks"
        raise BadInput(f"--gpus-per-trial {gpus_per_trial:g}: {case} only whole GPUs can be given")
    each = "trial" if ranks == 1 else f"trial of {ranks} ranks"
    for what, wanted, there in (("CPUs", cpus_per_trial * ranks, cpus), ("GPUs", gpus_per_trial * ranks, gpus)):
        if wanted > there:
            raise BadInput(f"each {each} wants {wanted:g} {what} but there are {there:g}: no trial could start")
    fit = int(cpus / (cpus_per_trial * ranks) + 1e-9)
    if gpus_per_trial:
        per_gpu = int(1 / gpus_per_trial + 1e-9) if gpus_per_trial <= 1 and ranks == 1 else 0
        fit = min(fit, int(gpus) * per_gpu if per_gpu else int(gpus // (gpus_per_trial * ranks)))
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: at least one is needed")
    if workers is not None and workers > fit:
        raise BadInput(
            f"--workers {workers} at {cpus_per_trial * ranks:g} CPUs and {gpus_per_trial * ranks:g} GPUs each do not "
            f"fit into {cpus:g} CPUs and {gpus:g} GPUs (at most {fit} do)"
        )
    return workers or fit
