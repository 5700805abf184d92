"""Voltage traces of one cell or of many as one data set: opened, checked, split, read as they are used.

What the rest of the family works with. The keys of a `data` block are those of `options.Options`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.listing import resolve_files
from ground.paths import expanded
from models.cellspike import generate
from models.cellspike.feeder import sweep
from models.cellspike.options import Options, resolve
from models.cellspike.packs import SPLITS, Pack, Split, constant_channel
from models.cellspike.traces import MB, Reading, Segment, Traces
from models.cellspike.units import Units
from models.cellspike.worlds import open_pack

__all__ = ["CellData", "NewTraces", "fingerprint", "load", "shape", "sweep"]

_SAMPLED, _WHOLE = 8, 4096  # rows of a dataset that count for the fingerprint; numbers up to which all do
_PART = 500_000  # samples predicted at once


@dataclass(frozen=True)
class CellData:
    """A lazy handle: traces are read as they are asked for.

    Attributes:
        source: where it comes from, for messages.
        names: the parameters.
        reading: how rows become samples.
        cells: names of all cells, in the order of the files.
        bins, probes, towers, features: a sample's shape as the network takes it.
        step_ms: milliseconds of a bin.
        units: what targets mean, where one meaning holds for all rows.
        train, val, test: rows of the cells that are trained on.
        witness: rows of cells that are not.
        eval: the samples that predictions are made for: `val` in phase "val", `test` in phase "test".
        limit: bytes that traces may take in memory; 0: a share of what is free.
    """

    source: str
    names: tuple[str, ...]
    reading: Reading
    cells: tuple[str, ...]
    bins: int
    probes: int
    towers: int
    features: int
    step_ms: float
    units: Units | None
    train: Traces
    val: Traces
    test: Traces
    witness: Traces
    eval: Traces
    limit: float

    def subset(self, samples: np.ndarray) -> CellData:
        """The same data with only these of the evaluated samples."""
        return replace(self, eval=self.eval.take(np.asarray(samples)))

    def parts(self) -> Iterable[CellData]:
        """The evaluated samples, some at a time."""
        if len(self.eval) <= _PART:
            yield self
            return
        for start in range(0, len(self.eval), _PART):
            yield self.subset(np.arange(start, min(start + _PART, len(self.eval))))

    def about(self) -> dict[str, Any]:
        """What a snapshot keeps of it, JSON values: how new files are to be read, and what predictions mean."""
        return {
            "names": list(self.names),
            "reading": asdict(self.reading),
            "shape": [self.bins, self.probes, self.towers, self.features],
            "step_ms": self.step_ms,
            "units": None if self.units is None else self.units.as_dict(),
        }


class NewTraces:
    """Files that a user hands over: what of them is read, a snapshot says.

    Args:
        path: a file, folder, glob or list.
        split: the rows that are predicted (None: the test rows of a file that has some, else all).
    """

    def __init__(self, path: str, split: Split | None = None) -> None:
        self.path, self.split = path, split
        self._opened: CellData | None = None

    def opened(self, about: Mapping[str, Any]) -> CellData:
        """The samples, read as the members of one study all do.

        Raises:
            BadInput: the files lack what the models take.
        """
        if self._opened is None:
            self._opened = _for_prediction(self.path, about, self.split)
        return self._opened

    @property
    def data(self) -> CellData:
        """What was opened.

        Raises:
            BadInput: nothing yet.
        """
        if self._opened is None:
            raise BadInput(f"{self.path}: no model has said yet how these traces are to be read")
        return self._opened


# ---- which files


def _files(options: Options) -> tuple[list[Path], str]:
    if options.generator:
        place = generate.demo(options.options)
        return resolve_files(str(place))[0], f"generated neurons ({place.name})"
    found = [file for path in options.path for file in resolve_files(path)[0]]
    return list(dict.fromkeys(found)), ", ".join(options.path)


def _packs(options: Options) -> tuple[list[Pack], str]:
    paths, source = _files(options)
    return _opened(paths, options), source


def _opened(paths: Sequence[Path], options: Options) -> list[Pack]:
    meta = expanded(options.meta) if options.meta else None
    return [open_pack(path, options.ranges, meta) for path in paths]  # type: ignore[arg-type]


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of the files that a block means (names, sizes, sampled content) and of what it makes of them."""
    options = resolve(config)
    meaning = {k: v for k, v in asdict(options).items() if k not in ("path", "limit_mb", "meta")}
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    for pack in _packs(options)[0]:
        told = [pack.path.name, pack.path.stat().st_size, pack.names, pack.probes, pack.stims, pack.witness]
        units = None if pack.units is None else pack.units.as_dict()
        digest.update(json.dumps([*told, units], sort_keys=True).encode())
        with reading_hdf5(pack.path) as file:
            for split in pack.sizes:
                for name in pack.keys[split].values():
                    _sample(file[name], digest)
    return digest.hexdigest()


def _sample(dataset: h5py.Dataset, digest: Any) -> None:
    """Some rows, evenly spread; all of a small dataset. A few thousand files take seconds."""
    digest.update(repr((dataset.name, dataset.shape, str(dataset.dtype))).encode())
    if dataset.size <= _WHOLE:
        digest.update(np.ascontiguousarray(dataset[()]).tobytes())
        return
    for row in np.unique(np.linspace(0, dataset.shape[0] - 1, _SAMPLED).astype(int)):
        digest.update(np.ascontiguousarray(dataset[row]).tobytes())


def shape(config: Mapping[str, Any]) -> tuple[tuple[int, int, int, int], int]:
    """What a network must fit to, from the first file alone: bins, probes, towers, features of a sample; outputs."""
    return _shape(json.dumps(config, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _shape(text: str) -> tuple[tuple[int, int, int, int], int]:
    options = resolve(json.loads(text))
    pack = _opened(_files(options)[0][:1], options)[0]
    probes, stims = (len(pack.positions(what, getattr(options, what))) for what in ("probes", "stims"))  # type: ignore[arg-type]
    bins = pack.bins * (stims if options.stimuli == "append" else 1)
    return (bins, probes, stims if options.stimuli == "towers" else 1, 0), len(pack.names)


# ---- reading


def load(config: Mapping[str, Any], phase: str) -> CellData:
    """Open the files of a block and check them.

    Args:
        phase: "val" or "test": which rows are `eval`.

    Raises:
        BadInput: unreadable files, files that do not belong together, rows missing, parameters that cannot be.
    """
    options = resolve(config)
    packs, source = _packs(options)
    _alike(packs)
    first = packs[0]
    probes, stims = (first.positions(w, getattr(options, w)) for w in ("probes", "stims"))  # type: ignore[arg-type]
    starred = _starred(packs, options.target)
    reading = Reading(
        probes=tuple(first.probes[i] for i in probes),
        stims=tuple(first.stims[i] for i in stims),
        stimuli=options.stimuli,
        normalisation=options.normalisation,
        starred=starred,
        extras=options.extras,
    )
    held_out = set(options.witness) or {name for pack in packs for name in pack.witness}
    apart = [_apart(pack, held_out) for pack in packs]
    if options.witness and not any(apart):
        raise BadInput(f"{source}: no file is of a witness cell ({', '.join(options.witness)})")
    known = list(dict.fromkeys(name for pack in packs for name in pack.cell_names))
    practice = [i for i, out in enumerate(apart) if not out]
    most = _rows_a_cell(options, [packs[i] for i in practice], reading)
    segments = {
        split: _segments(packs, practice, split, reading, known, most if split == "train" else None) for split in SPLITS
    }
    beyond = [i for i, out in enumerate(apart) if out]
    parts = {split: Traces(found, reading) for split, found in segments.items()}
    witness = Traces(
        tuple(s for i in beyond for s in _segments(packs, [i], _evaluated(packs[i]), reading, known)), reading
    )
    for split in ("train", "val") if phase == "val" else ("test",):
        if not len(parts[split]):  # type: ignore[index]
            raise BadInput(f"{source}: no {split} rows{' of practice cells' if beyond else ''}")
    for segment in segments["train"]:
        constant_channel(segment.pack, "train", segment.probes, segment.stims)
    evaluated = parts["test"] if phase == "test" else parts["val"]
    found = _data(source, packs, reading, known, parts, witness, evaluated, options.limit_mb * MB)
    found.eval.targets()  # refuses parameters that cannot be
    return found


def _data(
    source: str,
    packs: Sequence[Pack],
    reading: Reading,
    known: Sequence[str],
    parts: Mapping[Split, Traces],
    witness: Traces,
    evaluated: Traces,
    limit: float,
) -> CellData:
    first, stims = packs[0], len(reading.stims)
    return CellData(
        source=source,
        names=first.names,
        reading=reading,
        cells=tuple(known),
        bins=first.bins * (stims if reading.stimuli == "append" else 1),
        probes=len(reading.probes),
        towers=stims if reading.stimuli == "towers" else 1,
        features=_features(evaluated),
        step_ms=first.step_ms,
        units=_common_units(packs, reading.starred),
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        witness=witness,
        eval=evaluated,
        limit=limit,
    )


def _for_prediction(path: str, about: Mapping[str, Any], split: Split | None) -> CellData:
    told = about["reading"]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
    reading = Reading(**values)
    packs = [open_pack(file) for file in resolve_files(path)[0]]
    names = tuple(about["names"])
    for pack in packs:
        if pack.world != "experiment" and pack.names != names:
            raise BadInput(
                f"{pack.path}: its parameters ({len(pack.names)}, the first {pack.names[0]}) are not those that the "
                f"models predict ({len(names)}, the first {names[0]})"
            )
    _alike(packs)
    known = list(dict.fromkeys(name for pack in packs for name in pack.cell_names))
    wanted = [[split] if split else [_evaluated(pack)] if pack.rows("test") else list(pack.sizes) for pack in packs]
    segments = tuple(
        segment
        for i, splits in enumerate(wanted)
        for s in splits
        for segment in _segments(packs, [i], s, reading, known)
    )
    rows = Traces(segments, reading)
    if not len(rows):
        raise BadInput(f"{path}: no rows to predict")
    none = Traces((), reading)
    parts: dict[Split, Traces] = {"train": none, "val": none, "test": none}
    units = about["units"]
    found = _data(path, packs, reading, known, parts, none, rows, 0)
    return replace(found, names=names, units=None if units is None else Units.of(units))


def _alike(packs: Sequence[Pack]) -> None:
    """Refuse files that do not belong together."""
    first = packs[0]
    for pack in packs[1:]:
        if pack.bins != first.bins:
            raise BadInput(f"{pack.path}: traces of {pack.bins} bins, {first.path.name} has {first.bins}")
        if abs(pack.step_ms - first.step_ms) > 1e-6:
            raise BadInput(f"{pack.path}: bins of {pack.step_ms} ms, {first.path.name} has {first.step_ms}")
        if "experiment" not in (pack.world, first.world) and pack.names != first.names:
            raise BadInput(f"{pack.path}: its parameters are not those of {first.path.name}, in that order")


def _starred(packs: Sequence[Pack], target: str) -> bool:
    """Whether targets are u*."""
    if target == "u":
        for pack in packs:
            if not pack.whole_units and not all("unit" in keys for keys in pack.keys.values()):
                raise BadInput(f"{pack.path}: knows u* only, not the cell's own u (data key target)")
        return False
    starred = [pack.starred for pack in packs]
    if target == "ustar" and not all(starred):
        raise BadInput(f"{packs[starred.index(False)].path}: has no u* (data key target)")
    if any(starred) and not all(starred):
        raise BadInput(f"{packs[starred.index(False)].path}: has no u*, other files have (data key target: u)")
    return all(starred)


def _apart(pack: Pack, witness: set[str]) -> bool:
    """Whether a file is of witness cells."""
    inside = [name in witness for name in pack.cell_names]
    if any(inside) and not all(inside):
        raise BadInput(f"{pack.path}: mixes witness cells ({pack.cell_names[inside.index(True)]}) with others")
    return all(inside)


def _evaluated(pack: Pack) -> Split:
    """The split that a file is judged by."""
    return next((s for s in ("test", "val", "train") if pack.rows(s)), "test")  # type: ignore[arg-type]


def _rows_a_cell(options: Options, packs: Sequence[Pack], reading: Reading) -> int | None:
    """Training rows of each cell, where `samples_per_epoch` limits them: as many of every one."""
    if not options.samples_per_epoch:
        return None
    cells = sum(len(pack.cell_names) for pack in packs)
    rows = options.samples_per_epoch // reading.per_row // max(1, cells)
    if not rows:
        raise BadInput(
            f"data key samples_per_epoch: {options.samples_per_epoch} samples are none for each of {cells} cells"
        )
    return rows


def _segments(
    packs: Sequence[Pack],
    chosen: Sequence[int],
    split: Split,
    reading: Reading,
    known: Sequence[str],
    most: int | None = None,
) -> tuple[Segment, ...]:
    out = []
    for i in chosen:
        pack = packs[i]
        rows = pack.rows(split) if most is None else min(pack.rows(split), most * len(pack.cell_names))
        if rows:
            cells = tuple(known.index(name) for name in pack.cell_names)
            probes, stims = (tuple(_same(pack, what, getattr(reading, what))) for what in ("probes", "stims"))
            out.append(Segment(pack, i, cells, split, 0, rows, probes, stims))
    return tuple(out)


def _same(pack: Pack, what: Any, wanted: tuple[str, ...]) -> list[int]:
    """Where a file has what was trained on: by name, or in order where it has as many but names none of them."""
    there = getattr(pack, what)
    unnamed = what == "stims" or not pack.named
    if unnamed and len(there) == len(wanted) and not set(there) & set(wanted):
        return list(range(len(there)))
    return pack.positions(what, wanted)


def _features(rows: Traces) -> int:
    """How many numbers go in beside a sample."""
    if not rows.reading.extras or not rows.segments:
        return 0
    return int(rows.block(rows.segments[0], 0, 1, targets=False)[1].shape[1])


def _common_units(packs: Sequence[Pack], starred: bool) -> Units | None:
    """What targets mean in every row: u* always means the same; u where all files agree."""
    units = [pack.units for pack in packs if pack.units is not None]
    if not units:
        return None
    found = [_direct(u) if starred else u for u in units]
    same = all(
        np.allclose(getattr(found[0], k), getattr(u, k), rtol=1e-5) for u in found[1:] for k in ("centre", "half")
    )
    return found[0] if same else None


def _direct(units: Units) -> Units:
    """The meaning of u* without the detour by u: p = 10^(u* delP + centP)."""
    zeros = np.zeros(len(units.names))
    step = units.half * units.bias
    centre = np.where(units.linear, units.centre + step, units.centre * 10.0 ** np.where(units.linear, 0.0, step))
    return replace(units, bias=zeros, scale=zeros + 1, centre=centre, half=units.half * units.scale)
