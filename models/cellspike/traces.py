"""Rows of many packs as one sequence of samples: read in order, in blocks, or held in memory.

A sample is a row, or where each stimulus is a sample of its own a row under one stimulus. Arrays of traces stay in
the type they are stored in (`arranged`); the device makes numbers of them that a network takes (`prepared`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ground.errors import BadInput
from models.cellspike.packs import SPLITS, UNKNOWN, Pack, Split, kept_open

MB = 2**20
_BLOCK = 32 * MB  # traces that are read at once
_F4 = (torch.float32, torch.float32)


@dataclass(frozen=True)
class Reading:
    """How traces become samples; the same for training and for all that is predicted later.

    Attributes:
        probes, stims: names, in order.
        stimuli: "append", "samples" or "towers".
        normalisation: "stored", "sample" or "probe".
        starred: whether targets are u* (else u).
        extras: kinds of features beside the traces.
    """

    probes: tuple[str, ...]
    stims: tuple[str, ...]
    stimuli: str
    normalisation: str
    starred: bool
    extras: tuple[str, ...]

    @property
    def per_row(self) -> int:
        """Samples that a row makes."""
        return len(self.stims) if self.stimuli == "samples" else 1


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one split of one pack, with the positions of the probes and stimuli read.

    Attributes:
        file: the pack's number in the data set.
        cells: the number in the data set of each of the pack's cells.
    """

    pack: Pack
    file: int
    cells: tuple[int, ...]
    split: Split
    start: int
    stop: int
    probes: tuple[int, ...]
    stims: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start


def arranged(raw: np.ndarray, stimuli: str) -> np.ndarray:
    """Traces (n, bins, probes, stims) as samples: (n, bins, probes) of one stimulus, (n·stims, bins, probes) of
    "samples", (n, stims·bins, probes) of "append", as they are of "towers"."""
    if raw.shape[3] == 1:
        return raw[..., 0]
    if stimuli == "towers":
        return raw
    n, bins, probes, stims = raw.shape
    by_stimulus = raw.transpose(0, 3, 1, 2)
    shape = (n * stims, bins, probes) if stimuli == "samples" else (n, stims * bins, probes)
    return np.ascontiguousarray(by_stimulus).reshape(shape)


def prepared(x: Tensor, normalisation: str, joined: int = 1) -> Tensor:
    """Samples in single precision, normalised where that is asked for.

    Args:
        x: (n, bins, probes) or (n, bins, probes, stims), of any type.
        normalisation: of each sample under one stimulus: over time and probes ("sample") or time ("probe"). What is
            constant is only shifted.
        joined: how many stimuli follow each other in time.
    """
    x = x.float()
    if normalisation == "stored":
        return x
    shape = x.shape
    if joined > 1:
        x = x.reshape(shape[0] * joined, shape[1] // joined, *shape[2:])
    axes = (1, 2) if normalisation == "sample" else (1,)
    deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    return ((x - mean) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))).reshape(shape)


@dataclass(frozen=True)
class Batch:
    """Samples as they were read.

    Attributes:
        traces: (n, ...) in the stored type; see `arranged`.
        extras: (n, F) float32.
        targets: (n, P) float32, empty where not asked for.
        where: (n,) sample numbers in the `Traces` they were read from.
    """

    traces: Tensor
    extras: Tensor
    targets: Tensor
    where: np.ndarray

    def at(self, rows: Tensor) -> Batch:
        """Some of them, copied; half the time of indexing."""
        near = rows.to(self.traces.device)
        traces, extras, targets = (a.index_select(0, near) for a in (self.traces, self.extras, self.targets))
        return Batch(traces, extras, targets, self.where[rows.numpy()])


@dataclass(frozen=True)
class Traces:
    """Samples of segments, one segment after another.

    Args:
        segments: of packs that share bins and parameters.
        reading: how rows become samples.
        chosen: ascending sample numbers; None: all.
    """

    segments: tuple[Segment, ...]
    reading: Reading
    chosen: np.ndarray | None = None
    _memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return self._all if self.chosen is None else len(self.chosen)

    @property
    def _all(self) -> int:
        return sum(map(len, self.segments)) * self.reading.per_row

    def take(self, samples: np.ndarray) -> Traces:
        """Only these samples (ascending)."""
        samples = np.asarray(samples)
        part = replace(self, chosen=samples if self.chosen is None else self.chosen[samples], _memory={})
        held = self._memory.get("held")
        if held is not None:
            rows = torch.from_numpy(samples)
            part._memory["held"] = tuple(array[rows] for array in held)
        return part

    def shard(self, rank: int, ranks: int) -> Traces:
        """The rank's part of each segment: contiguous, and as large as every other rank's."""
        if ranks == 1:
            return self
        assert self.chosen is None
        parts = []
        for segment in self.segments:
            share = len(segment) // ranks
            start = segment.start + rank * share
            parts.append(replace(segment, start=start, stop=start + share))
        return replace(self, segments=tuple(parts), _memory={})

    # ---- what is known without reading traces

    def bytes(self) -> int:
        """What holding the traces would take."""
        each = 0
        for segment in self.segments:
            size = segment.pack.bins * len(segment.probes) * len(segment.stims) * segment.pack.dtype.itemsize
            each = max(each, size // self.reading.per_row)
        return each * len(self)

    def ids(self) -> dict[str, np.ndarray]:
        """Where each sample comes from: `file`, `split` (0 train, 1 val, 2 test), `row`, `cell` (−1: unknown), and of
        samples under one stimulus each `stim`; integers (N,)."""
        if "ids" not in self._memory:
            self._memory["ids"] = self._ids()
        return dict(self._memory["ids"])

    def _ids(self) -> dict[str, np.ndarray]:
        each = self.reading.per_row
        columns: dict[str, list[np.ndarray]] = {"file": [], "split": [], "row": [], "cell": []}
        for s in self.segments:
            cells = s.pack.cells(s.split, slice(s.start, s.stop))
            columns["file"].append(np.full(len(s), s.file, np.int32))
            columns["split"].append(np.full(len(s), SPLITS.index(s.split), np.int32))
            columns["row"].append(np.arange(s.start, s.stop, dtype=np.int64))
            columns["cell"].append(np.where(cells == UNKNOWN, UNKNOWN, np.array(s.cells)[cells]).astype(np.int32))
        out = {
            name: np.repeat(np.concatenate(parts or [np.zeros(0, np.int64)]), each) for name, parts in columns.items()
        }
        if each > 1:
            out["stim"] = np.tile(np.arange(each, dtype=np.int32), len(out["file"]) // each)
        return out if self.chosen is None else {name: array[self.chosen] for name, array in out.items()}

    def targets(self) -> np.ndarray | None:
        """(N, P) float32 in the space that is learned; None where the packs hold none.

        Raises:
            BadInput: values that cannot be; some packs hold targets and others none.
        """
        if "targets" not in self._memory:
            self._memory["targets"] = self._targets()
        return self._memory["targets"]

    def _targets(self) -> np.ndarray | None:
        parts: list[np.ndarray] = []
        for s in self.segments:
            part = self._target(s, slice(s.start, s.stop))
            if part is None:
                return None
            parts.append(part)
        if not parts:
            return None
        found = np.repeat(np.concatenate(parts), self.reading.per_row, axis=0)
        return found if self.chosen is None else found[self.chosen]

    def _target(self, segment: Segment, rows: slice) -> np.ndarray | None:
        if segment.pack.world == "experiment":
            return None
        return (segment.pack.star if self.reading.starred else segment.pack.unit)(segment.split, rows)

    def of_rows(self, what: str) -> np.ndarray | None:
        """(N, P) of each sample: "u" of its cell, or "physical" values, as the packs have or know them."""
        parts = []
        for s in self.segments:
            if s.pack.world == "experiment":
                return None
            found = (s.pack.unit if what == "u" else s.pack.physical)(s.split, slice(s.start, s.stop))
            if found is None:
                return None
            parts.append(found)
        whole = np.repeat(np.concatenate(parts), self.reading.per_row, axis=0)
        return whole if self.chosen is None else whole[self.chosen]

    def extras_moments(self) -> list[list[float]]:
        """Means and deviations of the features over all samples, where they have values: [(F,), (F,)]."""
        kinds, parts = self.reading.extras, []
        for s in self.segments if kinds else ():
            found = s.pack.extras(s.split, slice(s.start, s.stop), kinds, s.probes, s.stims)
            parts.append(found.reshape(len(found) * self.reading.per_row, -1).astype(np.float64))
        whole = np.concatenate(parts) if parts else np.zeros((1, 0))
        known = np.isfinite(whole)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, whole, 0).sum(0) / count
        deviation = np.sqrt(np.where(known, (whole - mean) ** 2, 0).sum(0) / count)
        return [mean.tolist(), np.where(deviation > 0, deviation, 1).tolist()]

    # ---- reading

    @property
    def dtype(self) -> np.dtype[Any]:
        """A type that all packs' traces fit into."""
        return np.result_type(*{segment.pack.dtype for segment in self.segments})

    def block(
        self, segment: Segment, start: int, stop: int, targets: bool = True, into: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Traces, extras and targets of consecutive rows of a segment, counted from its start, as samples.

        Args:
            into: where the traces are to lie (None: somewhere new).
        """
        rows, each = slice(segment.start + start, segment.start + stop), self.reading.per_row
        with kept_open([segment.pack.path]):
            return self._block(segment, rows, each, targets, into)

    def _block(
        self, segment: Segment, rows: slice, each: int, targets: bool, into: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        as_stored = len(segment.stims) == 1 or self.reading.stimuli == "towers"
        place = None
        if into is not None and as_stored and segment.pack.dtype == self.dtype:
            place = into.numpy().reshape(
                rows.stop - rows.start, segment.pack.bins, len(segment.probes), len(segment.stims)
            )
        raw = segment.pack.raw(segment.split, rows, segment.probes, segment.stims, place)
        traces = torch.from_numpy(arranged(raw, self.reading.stimuli))
        if into is not None and place is None:
            traces = into.copy_(traces)
        extras = torch.zeros(len(traces), 0)
        if self.reading.extras:
            found = segment.pack.extras(segment.split, rows, self.reading.extras, segment.probes, segment.stims)
            extras = torch.from_numpy(found.reshape(len(traces), -1))
        wanted = self._target(segment, rows) if targets else None
        y = torch.zeros(len(traces), 0) if wanted is None else torch.from_numpy(np.repeat(wanted, each, axis=0))
        return traces, extras, y

    def at_once(self) -> int:
        """Rows of a block."""
        size = self.bytes() * self.reading.per_row // max(1, len(self))
        return max(1, _BLOCK // max(1, size))

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        """Traces, extras and targets of all samples, read once and kept.

        Raises:
            BadInput: a trace is not finite (it names the row).
        """
        if "held" not in self._memory:
            self._memory["held"] = self._read_all()
        return self._memory["held"]

    def _read_all(self) -> tuple[Tensor, Tensor, Tensor]:
        if not len(self):
            raise BadInput("no rows to read")
        one = self.block(self.segments[0], 0, 1)
        kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
        out = [torch.empty((len(self), *part.shape[1:]), dtype=d) for part, d in zip(one, (kind, *_F4), strict=True)]
        done = 0
        for batch in self._blocks(self.at_once(), out[0]):
            refuse_not_finite(self, batch)
            rows = slice(done, done + len(batch.where))
            out[1][rows], out[2][rows] = batch.extras, batch.targets
            done = rows.stop
        return out[0], out[1], out[2]

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Samples `start` to `stop`, in order, `size` at a time; from memory where they are held."""
        stop = len(self) if stop is None else stop
        if "held" in self._memory:
            traces, extras, targets = self._memory["held"]
            for a in range(start, stop, size):
                b = min(a + size, stop)
                yield Batch(traces[a:b], extras[a:b], targets[a:b], np.arange(a, b))
            return
        part = self if (start, stop) == (0, len(self)) else self.take(np.arange(start, stop))
        for batch in part._blocks(max(1, -(-size // self.reading.per_row))):
            yield replace(batch, where=batch.where + start)

    def _blocks(self, rows: int, into: Tensor | None = None) -> Iterator[Batch]:
        """In order, `rows` rows of a segment at a time; of those only the chosen samples, their traces in `into`."""
        each, first, told = self.reading.per_row, 0, 0
        for segment in self.segments:
            for start in range(0, len(segment), rows):
                stop = min(start + rows, len(segment))
                low, high = first + start * each, first + stop * each
                if self.chosen is None:
                    inside = np.arange(low, high)
                else:
                    a, b = np.searchsorted(self.chosen, (low, high))
                    inside = self.chosen[a:b]
                if not len(inside):
                    continue
                place = None if into is None else into[told : told + len(inside)]
                if len(inside) == high - low:
                    traces, extras, targets = self.block(segment, start, stop, into=place)
                else:
                    at = torch.from_numpy(inside - low)
                    traces, extras, targets = (array[at] for array in self.block(segment, start, stop))
                    traces = traces if place is None else place.copy_(traces)
                yield Batch(traces, extras, targets, np.arange(told, told + len(inside)))
                told += len(inside)
            first += len(segment) * each


def refuse_not_finite(traces: Traces, batch: Batch) -> None:
    """Raises BadInput that names the first row of a batch whose traces are not finite."""
    if not batch.traces.is_floating_point():
        return
    flat = batch.traces.flatten(1)
    if bool(torch.isfinite(flat.sum(dtype=torch.float32))):
        return
    # seldom: a value that is not finite, or a sum that is too large
    good = torch.isfinite(flat).all(1)
    if bool(good.all()):
        return
    sample = int(batch.where[int((~good).nonzero()[0])])
    ids = {name: int(array[sample]) for name, array in traces.ids().items()}
    segment = next(s for s in traces.segments if s.file == ids["file"])
    split = SPLITS[ids["split"]]
    raise BadInput(f"{segment.pack.path}: {segment.pack.keys[split]['frames']} row {ids['row']} is not finite")


def sequence(numbers: Sequence[int]) -> int:
    """A seed of torch made of several numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1))
