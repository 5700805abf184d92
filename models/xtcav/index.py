"""Which shots there are: labels, times and scalars of many files in one table, without reading an image."""

from __future__ import annotations

import itertools
import posixpath
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.xtcav.options import Options


@dataclass(frozen=True)
class Index:
    """One entry a usable shot, in the order of run, time, file and row: whatever order the files were named in.

    Attributes:
        files, groups: the files that are used, sorted by name, and the HDF5 group of each ("": the file itself). A file
            is named once for each of its groups.
        file, row: (n,) the number in `files`, and the row in the file (several leading axes counted as one).
        label: (n,) int64, -1 where there is no usable label.
        targets, scalars: (n, T), (n, S) float32 as stored; NaN where absent.
        run: (n,) int64; where a file knows none, the rank of its name.
        time: (n, 3) int64: seconds, nanoseconds, fiducials; 0 where unknown.
        group: (n,) int64, equal for the shots of one entry of the first axis where images have several leading axes.
        image_shape, dtype: of the raw images.
        leading: the leading axes of each file's images.
        target_names, scalar_names: the columns.
        report: what was found and skipped, ready for JSON.
    """

    files: tuple[Path, ...]
    groups: tuple[str, ...]
    file: np.ndarray
    row: np.ndarray
    label: np.ndarray
    targets: np.ndarray
    scalars: np.ndarray
    run: np.ndarray
    time: np.ndarray
    group: np.ndarray
    image_shape: tuple[int, int]
    dtype: np.dtype
    leading: tuple[tuple[int, ...], ...]
    target_names: tuple[str, ...]
    scalar_names: tuple[str, ...]
    report: dict[str, Any]

    def __len__(self) -> int:
        return len(self.file)

    def take(self, chosen: np.ndarray) -> Index:
        """The same of some shots."""
        names = ("file", "row", "label", "targets", "scalars", "run", "time", "group")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


@dataclass(frozen=True)
class _Scanned:
    """One file's part of the table; `leading` and `shape` are those of its images."""

    path: Path
    group: str
    leading: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    label: np.ndarray
    targets: list[np.ndarray]
    scalars: list[np.ndarray]
    run: np.ndarray | None
    time: np.ndarray
    keep: np.ndarray


def scan(paths: Sequence[Path], options: Options, *, labels_needed: bool = True, repeated: int = 0) -> Index:
    """The table of all usable shots. What cannot be used is skipped and counted in the report (strict: refused).

    Args:
        labels_needed: leave out files that hold none of the labels (a prediction does without).
        repeated: files named twice, for the report.

    Raises:
        BadInput: nothing usable; strict: anything unusable.
    """
    begun = time.perf_counter()
    skipped_files: dict[str, str] = {}
    skipped_rows: Counter[str] = Counter()
    scanned: list[_Scanned] = []
    for path, group in itertools.product(paths, options.groups or ("",)):
        try:
            scanned.append(_scan_file(path, group, options, labels_needed, skipped_rows))
        except BadInput as error:
            if options.strict:
                raise
            skipped_files[_name(path, group)] = str(error)
    scanned = _of_one_shape(scanned, options, skipped_files)
    if not scanned:
        raise BadInput(f"no usable file among {len(paths)}; the first: {next(iter(skipped_files.values()))}")
    index = _joined(scanned, options)
    if options.strict and skipped_rows:
        raise BadInput(f"strict: {sum(skipped_rows.values())} rows cannot be used ({next(iter(skipped_rows))})")
    report = {
        "files": len({one.path for one in scanned}),
        "rows": len(index),
        "skipped_files": skipped_files,
        "skipped_rows": dict(skipped_rows),
        "repeated_files": repeated,
        "scan_seconds": round(time.perf_counter() - begun, 3),
    }
    return replace(index, report=report)


def _name(path: Path, group: str) -> str:
    return f"{path.name}/{group}" if group else path.name


def _scan_file(path: Path, group: str, options: Options, labels_needed: bool, skipped: Counter[str]) -> _Scanned:
    with reading_hdf5(path) as whole:
        file = whole.get(group or "/")
        if not isinstance(file, h5py.Group):
            raise BadInput(f"{path}: has no group {group}; has {', '.join(sorted(whole)[:8]) or 'nothing'}")
        images = _dataset(file, path, options.image, kinds="iuf", filled=True)
        if images.ndim < 3:
            raise BadInput(f"{path}: {options.image} has shape {images.shape}; images are (shots, rows, columns)")
        leading, shape = images.shape[:-2], images.shape[-2:]
        count = int(np.prod(leading))
        keep = np.ones(count, bool)
        if options.task == "classification" and (labels_needed or options.label in file):
            label = _labels(_column(file, path, options.label, leading), path, options.label)
            outside = (label >= options.classes) & (options.classes > 0)
            label[outside] = -1
            if labels_needed:
                skipped["label out of range"] += int(outside.sum())
                keep &= ~outside
        else:
            label = np.full(count, -1)
        if options.mask:
            masked = _column(file, path, options.mask, leading)[:, 0] != 1
            keep &= ~masked
        targets = [_numbers(file, path, name, leading, needed=labels_needed) for name in options.targets]
        scalars = [_numbers(file, path, name, leading, needed=True) for name in options.scalars]
        run = _integers(file, options.run, count)
        times = [_integers(file, name, count) for name in (options.seconds, options.nanoseconds, options.fiducials)]
        stamped = np.stack([np.zeros(count, np.int64) if t is None else t for t in times], 1)
        skipped += Counter()  # drops the zeros
        return _Scanned(path, group, leading, shape, images.dtype, label, targets, scalars, run, stamped, keep)


def _dataset(file: h5py.Group, path: Path, name: str, **wanted: Any) -> h5py.Dataset:
    if not isinstance(file.get(name), h5py.Dataset):
        has = sorted(file)[:8]
        whole = posixpath.join(file.name, name).lstrip("/")
        raise BadInput(f"{path}: has no dataset {whole}; has {', '.join(has) or 'nothing'}")
    return hdf5.described(file, path, name, **wanted)


def _column(file: h5py.Group, path: Path, name: str, leading: tuple[int, ...]) -> np.ndarray:
    """A dataset of one or several numbers a shot as (shots, columns)."""
    dataset = _dataset(file, path, name)
    shape = dataset.shape
    if shape[: len(leading)] != leading or len(shape) > len(leading) + 1:
        raise BadInput(f"{path}: {name} has shape {shape}, the images {leading} shots")
    return hdf5.array(file, path, name).reshape(int(np.prod(leading)), -1)


def _labels(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    if values.shape[1] != 1 or values.dtype.kind not in "iu":
        raise BadInput(f"{path}: {name} holds {values.dtype} in {values.shape[1]} columns; labels are integers, 1-D")
    return np.maximum(values[:, 0].astype(np.int64), -1)


def _numbers(file: h5py.Group, path: Path, name: str, leading: tuple[int, ...], needed: bool) -> np.ndarray:
    if name not in file and not needed:
        return np.full((int(np.prod(leading)), 1), np.nan, np.float32)
    values = _column(file, path, name, leading).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def _integers(file: h5py.Group, name: str, count: int) -> np.ndarray | None:
    found = file.get(name)
    if isinstance(found, h5py.Dataset) and found.dtype.kind in "iu" and found.shape in ((count,), (count, 1), ()):
        hdf5.described(file, Path(file.file.filename), name)
        return np.broadcast_to(np.asarray(found[()], np.int64).reshape(-1), (count,))
    return None


def _of_one_shape(scanned: list[_Scanned], options: Options, skipped: dict[str, str]) -> list[_Scanned]:
    """Only the files with the commonest image size and number of columns."""
    if not scanned:
        return scanned

    def kind(one: _Scanned) -> tuple[Any, ...]:
        return (one.shape, tuple(a.shape[1] for a in (*one.targets, *one.scalars)))

    rows: Counter[tuple[Any, ...]] = Counter()
    for one in scanned:
        rows[kind(one)] += len(one.label)
    common = rows.most_common(1)[0][0]
    for one in scanned:
        if kind(one) != common:
            line = f"{one.path}: images are {one.shape[0]}x{one.shape[1]}, most others {common[0][0]}x{common[0][1]}"
            if one.shape == common[0]:
                line = f"{one.path}: targets or scalars have {kind(one)[1]} columns, most others {common[1]}"
            if options.strict:
                raise BadInput(line)
            skipped[_name(one.path, one.group)] = line
    return [one for one in scanned if kind(one) == common]


def _joined(scanned: list[_Scanned], options: Options) -> Index:
    counts = [len(one.label) for one in scanned]
    file = np.repeat(np.arange(len(scanned)), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    inner = np.repeat([int(np.prod(one.leading[1:])) for one in scanned], counts)
    group = row // inner
    # ranks of names are kept clear of real run numbers
    run = np.concatenate(
        [
            np.full(count, -1 - n) if one.run is None else one.run
            for n, (one, count) in enumerate(zip(scanned, counts, strict=True))
        ]
    )

    def columns(arrays: list[list[np.ndarray]]) -> np.ndarray:
        parts = [
            np.concatenate(a, 1) if a else np.zeros((n, 0), np.float32) for a, n in zip(arrays, counts, strict=True)
        ]
        return np.concatenate(parts).astype(np.float32)

    def names(chosen: tuple[str, ...], arrays: list[np.ndarray]) -> tuple[str, ...]:
        widths = [array.shape[1] for array in arrays]
        return tuple(n if w == 1 else f"{n}[{i}]" for n, w in zip(chosen, widths, strict=True) for i in range(w))

    stamped = np.concatenate([one.time for one in scanned])
    first = scanned[0]
    index = Index(
        files=tuple(one.path for one in scanned),
        groups=tuple(one.group for one in scanned),
        file=file,
        row=row,
        label=np.concatenate([one.label for one in scanned]),
        targets=columns([one.targets for one in scanned]),
        scalars=columns([one.scalars for one in scanned]),
        run=run,
        time=stamped,
        group=group,
        image_shape=(int(first.shape[0]), int(first.shape[1])),
        dtype=np.result_type(*{one.dtype for one in scanned}),
        leading=tuple(one.leading for one in scanned),
        target_names=names(options.targets, first.targets),
        scalar_names=names(options.scalars, first.scalars),
        report={},
    )
    order = np.lexsort((row, file, stamped[:, 2], stamped[:, 1], stamped[:, 0], run))
    keep = np.concatenate([one.keep for one in scanned])
    return index.take(order[keep[order]])
