"""Events of xy files, read as they are used: what is kept in memory, and the batches of a step."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ground.ahead import ahead
from ground.errors import BadInput
from models.cellnet import xy
from models.cellnet.config import Triple
from models.cellnet.files import File
from models.cellnet.transforms import Transforms

MOST_VOXELS = 400_000
"""Of a file with more, some events at a time are evaluated."""
_DEPTH = 2  # batches that wait for the step
_EVALUATED = 0xE7A1  # noise of evaluated files: the same each time


@dataclass(frozen=True)
class Voxels:
    """What a file holds.

    Attributes:
        coords: (N, 3) int32 x, y, z.
        event: (N,) int32 which event of the file each row is of, ascending.
        planes: (N, 3) float32 charge that each plane gives the voxel.
        y: (N,) float32 truth, or None.
        truth: of each event (M, 4+) all its true voxels; None where it was not asked for.
        extent: the largest x, y, z + 1.
    """

    coords: np.ndarray
    event: np.ndarray
    planes: np.ndarray
    y: np.ndarray | None
    truth: list[np.ndarray] | None
    extent: tuple[int, ...]

    @property
    def bytes(self) -> int:
        arrays = [self.coords, self.event, self.planes, *([] if self.y is None else [self.y]), *(self.truth or ())]
        return sum(array.nbytes for array in arrays)

    def of(self, rows: np.ndarray) -> Voxels:
        """Some of the rows; the truth of all true voxels stays as it is."""
        y = None if self.y is None else self.y[rows]
        return replace(self, coords=self.coords[rows], event=self.event[rows], planes=self.planes[rows], y=y)


@dataclass(frozen=True)
class Batch:
    """What one step, or one prediction, works on.

    Attributes:
        files: whose events these are.
        coords: (N, 4) int64 x, y, z, event; events are counted from 0.
        features: (N, F) float32.
        y: (N,) float32 truth in its units times the transform's scale, or None.
        ids: (events,) int64 the number of each event among all of its part.
        truth: of each event, all its true voxels, where they were asked for.
    """

    files: tuple[File, ...]
    coords: Tensor
    features: Tensor
    y: Tensor | None
    ids: np.ndarray
    truth: list[np.ndarray] | None = None

    @property
    def events(self) -> int:
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.coords)


class Store:
    """What was read last, within a limit of memory; used by several threads.

    Args:
        limit: bytes. What is larger by itself is not kept.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """What is kept under `key`, or what `make` gives; `size` tells its bytes."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        needed = size(value)
        with self._lock:
            if key not in self._kept and needed <= self.limit:
                self._kept[key] = (value, needed)
                self.held += needed
                while self.held > self.limit:
                    _, (_, freed) = self._kept.popitem(last=False)
                    self.held -= freed
        return value

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.held = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]


class Events:
    """Some events of some files, in the order of the files; a lazy handle.

    Args:
        files: with at least one event each that counts, or an empty file.
        store: what was read is kept there.
        source: what to call them.
    """

    def __init__(self, files: Sequence[File], store: Store, source: str) -> None:
        self.files, self.store, self.source = tuple(files), store, source
        self.ids = np.concatenate([np.zeros(0, np.int64), *(file.first + file.numbers for file in self.files)])

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, samples: np.ndarray) -> Events:
        """Some of the events (ascending indices)."""
        files, begin = [], 0
        for file in self.files:
            numbers = file.numbers
            mine = samples[(samples >= begin) & (samples < begin + len(numbers))] - begin
            begin += len(numbers)
            if len(mine):
                files.append(replace(file, chosen=tuple(numbers[mine].tolist())))
        return Events(files, self.store, self.source)

    def each(self) -> Iterator[Events]:
        """File by file."""
        for file in self.files:
            yield Events([file], self.store, self.source)

    def of_file(self) -> np.ndarray:
        """(events,) the number of each event's file in `files`."""
        return np.repeat(np.arange(len(self.files)), [len(file.numbers) for file in self.files])

    def groups(self) -> np.ndarray:
        """(events,) integers: TPCs of one recorded event are told apart by nothing else, and belong together."""
        keys = [
            (file.name.event_type, file.name.index, -1 if file.name.batch is None else file.name.batch, int(number))
            for file in self.files
            for number in file.numbers
        ]
        known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([known[key] for key in keys], np.int64)

    def voxels(self, file: File, full: bool = False) -> Voxels:
        """The voxels of a file's events that count; events are counted anew from 0.

        Args:
            full: also all true voxels (`Voxels.truth`).

        Raises:
            BadInput: the file is missing, damaged or has changed.
        """
        whole: Voxels = self.store.get((file.path, full), lambda: _read(file, full), lambda v: v.bytes)
        if file.chosen is None:
            return whole
        new = np.full(file.events, -1, np.int32)
        new[file.numbers] = np.arange(len(file.chosen), dtype=np.int32)
        rows = np.flatnonzero(new[whole.event] >= 0)
        part = whole.of(rows)
        truth = None if whole.truth is None else [whole.truth[number] for number in file.chosen]
        return replace(part, event=new[part.event], truth=truth)

    # ---- batches

    def training(
        self,
        transforms: Transforms,
        spatial: Triple,
        each: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
        full: bool = False,
    ) -> Iterator[Batch]:
        """One epoch in an order that depends on (seed, epoch) alone, read ahead; closing it ends the reading.

        Args:
            each: files of a step, of each rank.
            start: how many steps to skip; nothing is read for them.
            rank, ranks: this rank's part of each step: every so many-th of its files, possibly none.
            full: also all true voxels.

        Raises:
            BadInput: a file cannot be used.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self.files))
        step = each * ranks
        parts = [order[n : n + step][rank::ranks] for n in range(start * step, len(order), step)]

        def made(stop: threading.Event) -> Iterator[Batch]:
            for part in parts:
                if stop.is_set():
                    return
                files = [self.files[i] for i in part]
                yield self._batch(files, transforms, spatial, [seed, epoch], training=True, full=full)

        return ahead(made, _DEPTH)

    def steps(self, each: int, ranks: int = 1) -> int:
        """Steps of an epoch."""
        return -(-len(self.files) // (each * ranks))

    def evaluated(
        self, transforms: Transforms, spatial: Triple, most: int | None = None, full: bool = False
    ) -> Iterator[Batch]:
        """File by file in order, read ahead; of a file at most `most` events at a time, by default as many as fit."""

        def made(stop: threading.Event) -> Iterator[Batch]:
            for file in self.files:
                for some in _pieces(file, most or max(1, file.events * MOST_VOXELS // max(1, file.voxels))):
                    if stop.is_set():
                        return
                    yield self._batch([some], transforms, spatial, [_EVALUATED], training=False, full=full)

        return ahead(made, _DEPTH)

    def _batch(
        self,
        files: Sequence[File],
        transforms: Transforms,
        spatial: Triple,
        seed: list[int],
        training: bool,
        full: bool,
    ) -> Batch:
        coords, features, targets = [np.zeros((0, 4), np.int64)], [np.zeros((0, transforms.features), np.float32)], []
        ids, truth, events = [np.zeros(0, np.int64)], [], 0
        for file in files:
            voxels = self.voxels(file, full)
            if any(reach > size for reach, size in zip(voxels.extent, spatial, strict=True)):
                extent, size = ("x".join(map(str, shape)) for shape in (voxels.extent, spatial))
                raise BadInput(f"{file.path}: reaches over {extent} voxels, beyond SPATIAL ({size})")
            if training and (inside := transforms.inside(voxels.coords)) is not None:
                voxels = voxels.of(np.flatnonzero(inside))
            rng = np.random.default_rng([*seed, zlib.crc32(file.path.name.encode())])
            coords.append(np.column_stack([voxels.coords, voxels.event + events]).astype(np.int64))
            features.append(transforms.charges(voxels.coords, voxels.planes, rng))
            factor = np.float32(transforms.truth_factor(file.folder))
            if voxels.y is not None:
                targets.append(voxels.y * factor)
            elif training:
                raise BadInput(f"{file.path}: holds no truth (Y) to train on")
            if full:
                truth += [_scaled(t, factor) for t in _truth_of(file, voxels)]
            ids.append(file.first + file.numbers)
            events += len(file.numbers)
        known = len(targets) == len(files)
        return Batch(
            files=tuple(files),
            coords=torch.from_numpy(np.concatenate(coords)),
            features=torch.from_numpy(np.concatenate(features)),
            y=torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *targets])) if known else None,
            ids=np.concatenate(ids),
            truth=truth if full else None,
        )


def _pieces(file: File, most: int) -> list[File]:
    """A file, or its events `most` at a time."""
    numbers = file.numbers
    if len(numbers) <= most:
        return [file]
    return [replace(file, chosen=tuple(numbers[at : at + most].tolist())) for at in range(0, len(numbers), most)]


def _truth_of(file: File, voxels: Voxels) -> list[np.ndarray]:
    if not voxels.truth:
        raise BadInput(f"{file.path}: holds no Y_truth, the true voxels that are not active, too")
    return voxels.truth


def _scaled(truth: np.ndarray, factor: np.float32) -> np.ndarray:
    out = truth[:, :4].astype(np.float32)
    out[:, 3] *= factor
    return out


def _read(file: File, full: bool) -> Voxels:
    read = xy.read(file.path, with_truth=full)
    if (len(read.starts), len(read.x)) != (file.events, file.voxels):
        raise BadInput(f"{file.path}: has changed since it was first looked at")
    coords = read.x[:, :3].astype(np.int32)
    return Voxels(
        coords=coords,
        event=read.events.astype(np.int32),
        planes=np.ascontiguousarray(read.x[:, 4:7]),
        y=None if read.y is None else read.y[:, 0].copy(),
        truth=list(read.truth) if full else None,
        extent=tuple(int(reach) + 1 for reach in coords.max(0)),
    )
