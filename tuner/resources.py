"""How many trials run at once, and why they could never start."""

from __future__ import annotations

from collections.abc import Sequence

from ground.errors import BadInput


def plan(
    cpus: float, gpus: float, workers: int | None, cpus_per_trial: float, gpus_per_trial: float, ranks: int = 1
) -> int:
    """How many trials run side by side on a machine of `cpus` cores and `gpus` GPUs: `plan_nodes` of one node."""
    return plan_nodes([(cpus, gpus)], workers, cpus_per_trial, gpus_per_trial, ranks)


def plan_nodes(
    nodes: Sequence[tuple[float, float]],
    workers: int | None,
    cpus_per_trial: float,
    gpus_per_trial: float,
    ranks: int = 1,
) -> int:
    """How many trials run side by side on a cluster.

    A trial, or each of its ranks, lies on one node. Packing single-threaded trials beats giving one trial more threads.

    Args:
        nodes: the cores and GPUs of each.
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
    cpus, gpus = (sum(there) for there in zip(*nodes, strict=True)) if nodes else (0.0, 0.0)
    for what, wanted, there in (("CPUs", cpus_per_trial * ranks, cpus), ("GPUs", gpus_per_trial * ranks, gpus)):
        if wanted > there:
            raise BadInput(f"each {each} wants {wanted:g} {what} but there are {there:g}: no trial could start")
    fit = sum(_places(*node, cpus_per_trial, gpus_per_trial) for node in nodes) // ranks
    if not fit:
        one = each if ranks == 1 else "rank"
        raise BadInput(
            f"each {one} wants {cpus_per_trial:g} CPUs and {gpus_per_trial:g} GPUs of one node, and no "
            "node has such room left: no trial could start"
        )
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: at least one is needed")
    if workers is not None and workers > fit:
        raise BadInput(
            f"--workers {workers} at {cpus_per_trial * ranks:g} CPUs and {gpus_per_trial * ranks:g} GPUs each do not "
            f"fit into {cpus:g} CPUs and {gpus:g} GPUs (at most {fit} do)"
        )
    return workers or fit


def _places(cpus: float, gpus: float, cpus_each: float, gpus_each: float) -> int:
    """How many processes of that size a node takes; a share of a GPU is a share of one."""
    by_cpus = int(cpus / cpus_each + 1e-9)
    if not gpus_each:
        return by_cpus
    by_gpus = int(gpus) * int(1 / gpus_each + 1e-9) if gpus_each <= 1 else int(gpus // gpus_each)
    return min(by_cpus, by_gpus)
