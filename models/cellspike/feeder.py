"""Training batches of one rank: its shard of the rows, shuffled anew in each epoch, from memory or from the files.

What does not fit into memory is read in blocks of consecutive rows; some blocks of different places make a window,
within which samples are shuffled. The order depends on the seed, the rank and the epoch alone, so training goes on at
any step of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ground.errors import BadInput
from models.cellspike.packs import kept_open
from models.cellspike.traces import MB, Batch, Segment, Traces, sequence

_WINDOW = 256 * MB
_BLOCKS, _FEWEST = 16, 16  # of a window; rows of one: opening a file takes longer than reading a row
SHARE = 0.25
"""Of the free memory, where nobody says how much traces may take."""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a segment that are read at once."""

    segment: Segment
    start: int
    stop: int
    sample: int  # number of its first sample in the shard


class Feeder:
    """Batches of training samples.

    Args:
        traces: all training samples.
        batch: samples a step, on this rank.
        seed: of the order.
        rank, ranks: which shard.
        limit: bytes that may be held.
        device: where samples go; they stay there between epochs if half of it is free.

    Raises:
        BadInput: a rank has no row.
    """

    def __init__(
        self,
        traces: Traces,
        batch: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        limit: float = math.inf,
        device: torch.device | None = None,
    ) -> None:
        self.shard = _kept_shard(traces, rank, ranks)
        if not len(self.shard):
            raise BadInput(
                f"{len(traces)} training samples in {len(traces.segments)} files are too few for {ranks} ranks"
            )
        self.batch = min(batch, len(self.shard))
        self.steps = len(self.shard) // self.batch
        """Steps of an epoch: as many on each rank, left-over samples are others in each epoch."""
        self.seed, self.rank = seed, rank
        self.device = device or torch.device("cpu")
        self._window = int(min(_WINDOW, max(limit / 4, 1)))
        self.in_memory = "held" in self.shard._memory or self.shard.bytes() <= limit
        self._near: Batch | None = None
        if self.in_memory:
            held = self.shard.held()
            if not held[2].shape[1]:
                raise BadInput("the training rows hold no parameters to learn")
            near = self.device.type == "cuda" and (self.shard.bytes() < 0.5 * torch.cuda.mem_get_info(self.device)[0])
            x, more, y = (array.to(self.device) if near else array for array in held)
            self._near = Batch(x, more, y, np.arange(len(self.shard)))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        return self._from_memory(epoch, start) if self._near is not None else self._from_files(epoch, start)

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.rank, epoch])

    def _from_memory(self, epoch: int, start: int) -> Iterator[Batch]:
        assert self._near is not None
        generator = torch.Generator().manual_seed(sequence([self.seed, self.rank, epoch]))
        order = torch.randperm(len(self.shard), generator=generator)
        for step in range(start, self.steps):
            yield self._near.at(order[step * self.batch : (step + 1) * self.batch])

    # ---- from files

    def windows(self, epoch: int) -> list[list[Part]]:
        """The blocks of an epoch in the order they are read, window by window."""
        size = max(1, self.shard.bytes() // len(self.shard)) * self.shard.reading.per_row
        # many blocks, but such that reading one takes longer than asking for it
        block = max(self._window // _BLOCKS, min(4 * MB, self._window // 4))
        rows = max(_FEWEST, block // size)
        parts, sample = [], 0
        for segment in self.shard.segments:
            for start in range(0, len(segment), rows):
                parts.append(Part(segment, start, min(start + rows, len(segment)), sample))
                sample += (parts[-1].stop - start) * self.shard.reading.per_row
        order = self._rng(epoch).permutation(len(parts))
        return [[parts[i] for i in order[a : a + _BLOCKS]] for a in range(0, len(parts), _BLOCKS)]

    def _from_files(self, epoch: int, start: int) -> Iterator[Batch]:
        windows, each = self.windows(epoch), self.shard.reading.per_row
        sizes = [sum(part.stop - part.start for part in window) * each for window in windows]
        first, skip = 0, start * self.batch
        while first < len(windows) and skip >= sizes[first]:
            skip -= sizes[first]
            first += 1
        left: Batch | None = None
        given = start
        sample = self.shard.block(self.shard.segments[0], 0, 1, targets=False)[0]
        kind = torch.from_numpy(np.empty(0, self.shard.dtype)).dtype
        places = [torch.empty((max(sizes), *sample.shape[1:]), dtype=kind) for _ in range(min(2, len(windows)))]
        # the next window is read while this one is trained on
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, windows[first], places[0]) if first < len(windows) else None
            for number in range(first, len(windows)):
                assert coming is not None
                window = coming.result()
                coming = None
                if number + 1 < len(windows):
                    coming = reader.submit(self._read, windows[number + 1], places[(number + 1 - first) % 2])
                rng = np.random.default_rng([self.seed, self.rank, epoch, number])
                order = torch.from_numpy(rng.permutation(sizes[number])[skip:])
                skip = 0
                while given < self.steps:
                    missing = self.batch - (len(left.where) if left is not None else 0)
                    rows, order = order[:missing], order[missing:]
                    left = _joined(left, window.at(rows))
                    if len(left.where) < self.batch:
                        break
                    yield left
                    given, left = given + 1, None
                if given == self.steps:
                    if coming is not None:
                        coming.cancel()
                    return

    def _read(self, window: list[Part], place: Tensor | None = None) -> Batch:
        """A window's samples, their traces at the beginning of `place`."""
        each, done, blocks = self.shard.reading.per_row, 0, []
        with kept_open(part.segment.pack.path for part in window):
            for part in window:
                count = (part.stop - part.start) * each
                into = None if place is None else place[done : done + count]
                blocks.append(self.shard.block(part.segment, part.start, part.stop, into=into))
                done += count
        where = [
            np.arange(part.sample, part.sample + len(block[0])) for part, block in zip(window, blocks, strict=True)
        ]
        extras, targets = (torch.cat([block[i] for block in blocks]) for i in (1, 2))
        traces = place[:done] if place is not None else torch.cat([block[0] for block in blocks])
        return Batch(traces, extras, targets, np.concatenate(where))


def _joined(left: Batch | None, more: Batch) -> Batch:
    if left is None:
        return more
    traces, extras, targets = (torch.cat([getattr(left, n), getattr(more, n)]) for n in ("traces", "extras", "targets"))
    return Batch(traces, extras, targets, np.concatenate([left.where, more.where]))


def _kept_shard(traces: Traces, rank: int, ranks: int) -> Traces:
    """The rank's shard, the same object for all learners that follow each other: what it holds is read once."""
    if ranks == 1:
        return traces
    name = f"shard {rank} of {ranks}"
    if name not in traces._memory:
        traces._memory[name] = traces.shard(rank, ranks)
    return traces._memory[name]


def sweep(traces: Traces, batch: int = 128, limit: float = math.inf, seed: int = 0) -> tuple[int, int]:
    """Read one shuffled epoch from the files, as training does; (samples, bytes of traces) that were given out."""
    samples = size = 0
    feeder = Feeder(traces, batch, seed, limit=min(limit, traces.bytes() - 1))
    for found in feeder.epoch(0):
        samples += len(found.where)
        size += found.traces.numel() * found.traces.element_size()
    return samples, size


def local_batch(batch: int, ranks: int, constant: bool) -> int:
    """Samples a rank's step takes.

    Raises:
        BadInput: a global batch that the ranks cannot share.
    """
    if constant:
        return batch
    if batch % ranks:
        raise BadInput(
            f"BATCH_SIZE {batch} cannot be shared by {ranks} ranks (CONST_LOCAL_BATCH: false makes it global)"
        )
    return batch // ranks
