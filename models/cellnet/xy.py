"""xy files: tiled events, one row an active voxel, in numpy's npz format.

`X` float32 (N, 7) is x, y, z, event and the charge that each of the three planes gives the voxel; `Y` float32 (N, 1)
the true value there (0: a ghost); `starts` (events) the first row of each event; `Y_truth` an array of arrays, one
an event, of all true voxels (M, 4 or more): x, y, z, value and whatever identities the truth has. Without truth there
are `X` and `starts` only. An event without active voxels starts where the next one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.files import atomic_path
from models.cellnet import npz

COLUMNS = ("x", "y", "z", "event", "v0", "v1", "v2")


@dataclass(frozen=True)
class XY:
    """The events of one file.

    Attributes:
        x: (N, 7) float32, columns COLUMNS; coordinates are whole numbers from 0.
        y: (N, 1) float32, or None without truth.
        starts: (events,) int64, the first row of each event.
        truth: (M, 4+) float32 an event; empty without truth.
        path: where it was read.
    """

    x: np.ndarray
    y: np.ndarray | None
    starts: np.ndarray
    truth: list[np.ndarray]
    path: Path

    @property
    def counts(self) -> np.ndarray:
        """(events,) rows of each event."""
        return np.diff(self.starts, append=len(self.x))

    @property
    def events(self) -> np.ndarray:
        """(N,) which event of the file each row is of: 0, 1, ..."""
        return np.repeat(np.arange(len(self.starts)), self.counts)


def read(path: Path, spatial: Sequence[int] | None = None, with_truth: bool = True) -> XY:
    """The events of a file, checked.

    Args:
        path: an xy file.
        spatial: voxels along x, y, z that the coordinates must lie within.
        with_truth: whether to read `Y_truth` (`Y` is read in any case).

    Raises:
        BadInput: it is missing or damaged, has no X, no rows, arrays that disagree, values that are not finite, or
            coordinates that are no voxel's.
    """
    with npz.opened(path) as file:
        for name in ("X", "starts"):
            if name not in file.names:
                raise BadInput(f"{path}: has no {name}: it is no xy file (it holds {', '.join(file.names[:8])})")
        _expect(path, "X", file.header("X")[0], (None, 7))
        x = file.array("X").astype(np.float32, copy=False)
        if not len(x):
            raise BadInput(f"{path}: X has no rows: there is no active voxel in it")
        _finite(path, "X", x)
        starts = file.array("starts")
        y: np.ndarray | None = None
        truth: list[np.ndarray] = []
        if "Y" in file.names:
            _expect(path, "Y", file.header("Y")[0], (len(x), 1))
            y = file.array("Y").astype(np.float32, copy=False)
            _finite(path, "Y", y)
        if with_truth and "Y_truth" in file.names:
            truth = [_rows(event) for event in file.arrays("Y_truth")]
    return _checked(XY(x, y, _starts(path, starts, x), truth, path), spatial)


def _rows(voxels: np.ndarray) -> np.ndarray:
    return voxels.astype(np.float32, copy=False) if voxels.size else np.zeros((0, 4), np.float32)


def _expect(path: Path, name: str, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(shape) != len(wanted) or any(w not in (None, s) for s, w in zip(shape, wanted, strict=True)):
        shown = ", ".join("N" if w is None else str(w) for w in wanted)
        raise BadInput(f"{path}: {name} has shape {shape}; it takes ({shown})")


def _finite(path: Path, name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise BadInput(f"{path}: {name} holds values that are not finite")


def _starts(path: Path, starts: np.ndarray, x: np.ndarray) -> np.ndarray:
    if starts.ndim != 1 or not len(starts) or not np.all(starts == np.floor(starts)):
        raise BadInput(f"{path}: starts has shape {starts.shape}; it takes a whole number an event")
    starts = starts.astype(np.int64)
    if starts[0] != 0 or np.any(np.diff(starts) < 0) or starts[-1] > len(x):
        raise BadInput(f"{path}: starts does not rise from 0 to at most the {len(x)} rows of X")
    event = x[:, 3]
    changes = np.flatnonzero(event[1:] != event[:-1]) + 1
    if not np.array_equal(changes, np.unique(starts[(starts > 0) & (starts < len(x))])):
        raise BadInput(f"{path}: the event column of X changes elsewhere than starts says")
    return starts


def _checked(file: XY, spatial: Sequence[int] | None) -> XY:
    path, voxels = file.path, file.x[:, :4]
    for event, truth in enumerate(file.truth):
        _finite(path, f"Y_truth of event {event}", truth)
    wrong = (voxels < 0) | (voxels != np.floor(voxels)) | (voxels >= 2**20)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise BadInput(
            f"{path}: X has {COLUMNS[column]} = {voxels[row, column]:g} in row {row}; voxels count 0, 1, ..."
        )
    if spatial is not None and np.any(voxels[:, :3].max(0) >= np.asarray(spatial)):
        extent = " × ".join(str(int(m) + 1) for m in voxels[:, :3].max(0))
        raise BadInput(f"{path}: X reaches over {extent} voxels; the spatial size is {' × '.join(map(str, spatial))}")
    if file.truth:
        if len(file.truth) != len(file.starts):
            raise BadInput(f"{path}: Y_truth has {len(file.truth)} events, starts {len(file.starts)}")
        for event, truth in enumerate(file.truth):
            if truth.ndim != 2 or truth.shape[1] < 4:
                raise BadInput(f"{path}: Y_truth of event {event} has shape {truth.shape}; it takes (M, 4 or more)")
    return file


def write(
    path: Path, x: np.ndarray, starts: np.ndarray, y: np.ndarray | None = None, truth: Sequence[np.ndarray] = ()
) -> None:
    """Write an xy file, whole or not at all.

    Args:
        path: an existing file is replaced; whether that is meant, the caller knows.
        x, starts, y, truth: as in `XY`.

    Raises:
        BadInput: it would not be readable.
    """
    file = XY(np.asarray(x, np.float32), None if y is None else np.asarray(y, np.float32),
              np.asarray(starts, np.int64), [np.asarray(t, np.float32) for t in truth], path)  # fmt: skip
    _expect(path, "X", file.x.shape, (None, 7))
    _finite(path, "X", file.x)
    arrays: dict[str, Any] = {"X": file.x, "starts": _starts(path, file.starts, file.x)}
    if file.y is not None:
        _expect(path, "Y", file.y.shape, (len(file.x), 1))
        _finite(path, "Y", file.y)
        arrays["Y"] = file.y
        # one by one: numpy would make a block of events that happen to have as many true voxels
        arrays["Y_truth"] = np.empty(len(file.truth), dtype=object)
        for event, voxels in enumerate(file.truth):
            arrays["Y_truth"][event] = voxels
    _checked(file, None)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def describe(path: Path) -> dict[str, str]:
    """What a file holds, in words.

    Raises:
        BadInput: as `read`.
    """
    file = read(path)
    extent = " × ".join(str(int(side) + 1) for side in file.x[:, :3].max(0))
    said = {
        "events": str(len(file.starts)),
        "active voxels": f"{len(file.x)} ({file.counts.min()} to {file.counts.max()} an event), within {extent}",
        "charge of each plane": " / ".join(f"{v:.4g}" for v in file.x[:, 4:].sum(0, dtype=np.float64)),
    }
    if file.y is None:
        return {**said, "truth": "none"}
    true = int((file.y > 0).sum())
    said["truth"] = f"{true} active voxels are true, sum {file.y.sum(dtype=np.float64):.4g}"
    if file.truth:
        everywhere = sum(len(t) for t in file.truth)
        said["all true voxels"] = f"{everywhere}, {100 * true / max(everywhere, 1):.1f} % of them active"
    return {**said, "ghosts per true active voxel": f"{(len(file.x) - true) / max(true, 1):.1f}"}
