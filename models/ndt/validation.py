"""Does a submission come from the published checkpoints? Recompute it and compare every number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.tables import read_table
from ground.typed import command
from models.base import Family, Place, Prediction
from models.ndt import original
from models.ndt.data import SpikeData
from models.ndt.submission import ARRAYS, submission_arrays

SIZES = {
    "mc_maze": 8,
    "mc_rtt": 13,
    "area2_bump": 21,
    "dmfc_rsg": 13,
    "mc_maze_large": 8,
    "mc_maze_medium": 8,
    "mc_maze_small": 7,
}
# after taking the top, the published submission had one trial in the place of another
SWAPS = {"dmfc_rsg": ("a6c8e99c", "91fde75c")}
RTOL, ATOL = 1e-5, 1e-8
_MOST_TIES = 64


@dataclass(frozen=True)
class Difference:
    """Where a tensor differs: how many numbers, and the worst of them."""

    tensor: str
    message: str

    def __str__(self) -> str:
        return f"{self.tensor}: {self.message}"


def members(frame: pd.DataFrame, dataset: str, size: int) -> Iterator[list[tuple[str, str]]]:
    """The checkpoints of the ensemble; where the last places are tied, every way to fill them.

    The first is in the table's order (a stable sort).
    """
    ranked = frame.sort_values("co-bps", ascending=False, kind="stable").reset_index(drop=True)
    size = min(size, len(ranked))
    cut = ranked.loc[size - 1, "co-bps"]
    sure = ranked[ranked["co-bps"] > cut]
    tied = ranked[ranked["co-bps"] == cut]
    for chosen in itertools.islice(itertools.combinations(range(len(tied)), size - len(sure)), _MOST_TIES):
        rows = pd.concat([sure, tied.iloc[list(chosen)]])
        yield _swap(list(zip(rows["trial_id"], rows["val_ckpt"], strict=True)), frame, dataset)


def _swap(chosen: list[tuple[str, str]], frame: pd.DataFrame, dataset: str) -> list[tuple[str, str]]:
    if dataset not in SWAPS:
        return chosen
    out, into = SWAPS[dataset]
    replacement = frame[frame["trial_id"] == into]
    if replacement.empty or not any(trial_id == out for trial_id, _ in chosen):
        return chosen
    best = replacement.sort_values("co-bps", ascending=False, kind="stable").iloc[0]
    return [(into, str(best["val_ckpt"])) if trial_id == out else (trial_id, s) for trial_id, s in chosen]


def recompute(
    family: Family, root: Path, dataset: str, chosen: list[tuple[str, str]], data: SpikeData
) -> dict[str, np.ndarray]:
    """The six arrays of the mean of some published checkpoints.

    A run with RANDOM_SUBSET_TRIALS below 1 has rates for its own training trials only, in the order in which its
    own seed drew them; the published mean took the rows as they came.

    Raises:
        BadInput: a checkpoint that cannot be used, or subsets of different sizes.
    """
    parts: list[Prediction] = []
    for trial_id, snapshot in chosen:
        config, weights = family.import_checkpoint(root / f"{trial_id}.{snapshot}.pth", dataset)
        arrays = submission_arrays(family.restore(config, weights, Place()), data)
        seen = original.subset_of_trials(config, weights["seed"], data.train.trials)
        for name in ("train_rates_heldin", "train_rates_heldout"):
            arrays[name] = arrays[name][seen]
        parts.append(arrays)
    shapes = {part["train_rates_heldin"].shape for part in parts}
    if len(shapes) > 1:
        raise BadInput(f"{root}: checkpoints of training subsets of different sizes cannot be averaged")
    return family.combine(parts, [1.0] * len(parts))


def compare(expected: dict[str, np.ndarray], submission: Path, dataset: str) -> list[Difference]:
    """What differs between recomputed arrays and a submission file; nothing if it is the same.

    Raises:
        BadInput: the file is no submission for the dataset.
    """
    found = []
    for name, wanted in expected.items():
        given = read_array(submission, dataset, name)
        if given.shape != wanted.shape:
            found.append(Difference(name, f"shape {given.shape}, recomputed {wanted.shape}"))
            continue
        wrong = ~np.isclose(given, wanted, rtol=RTOL, atol=ATOL)
        if wrong.any():
            gap = np.where(wrong, np.abs(given.astype(float) - wanted), -1.0)
            gap[~np.isfinite(gap)] = np.inf
            at = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
            detail = f"{int(wrong.sum())} of {wrong.size} numbers differ, most at [trial, bin, unit] {list(at)}"
            found.append(Difference(name, f"{detail}: {given[at]:.8g}, recomputed {wanted[at]:.8g}"))
    return found


def read_array(submission: Path, dataset: str, name: str) -> np.ndarray:
    with reading_hdf5(submission) as file:
        if dataset not in file:
            raise BadInput(f"{submission}: has no group {dataset} (has {', '.join(file) or 'nothing'})")
        if f"{dataset}/{name}" not in file:
            raise BadInput(f"{submission}: {dataset} has no {name}")
        return hdf5.array(file, submission, f"{dataset}/{name}", kinds="fiu", finite=True)


def validate(
    family: Family,
    dataset: str,
    submission: Path,
    root: Path,
    size: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Difference]:
    """Compare a submission with the published checkpoints' ensemble.

    Args:
        family: the NDT's.
        root: the archive, unpacked.
        size: of the ensemble (default: the published one).
        say: told the members, and that all agrees.

    Returns:
        The differences (of the tie's best filling).

    Raises:
        BadInput: anything is missing or damaged.
    """
    if dataset not in SIZES:
        raise BadInput(f"{dataset!r} is not a dataset of the archive; there are {', '.join(SIZES)}")
    folder = root / dataset
    if not folder.is_dir():
        raise BadInput(f"{folder}: no checkpoints there; get them with: {command('-m', 'download', 'checkpoints')}")
    for name in ARRAYS:  # a wrong file is told before minutes of inference
        read_array(submission, dataset, name)
    frame = read_table(folder / "models.csv", ("trial_id", "val_ckpt"), ("co-bps",))
    if frame.empty:
        raise BadInput(f"{folder / 'models.csv'}: ranks no models")
    if size is not None and not 1 <= size <= len(frame):
        raise BadInput(f"--n {size}: there are {len(frame)} checkpoints")
    data = family.load({"dataset": dataset}, "test")
    best: tuple[list[Difference], list[tuple[str, str]]] | None = None
    for chosen in members(frame, dataset, size or SIZES[dataset]):
        found = compare(recompute(family, folder, dataset, chosen, data), submission, dataset)
        if best is None or len(found) < len(best[0]):
            best = found, chosen
        if not found:
            break
    assert best is not None
    found, chosen = best
    say(f"{dataset}: mean of {len(chosen)} checkpoints: {', '.join('.'.join(member) for member in chosen)}")
    if not found:
        say("all six tensors agree")
    return found
