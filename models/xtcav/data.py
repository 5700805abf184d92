"""Beam images of many HDF5 files as one data set: scanned, split, balanced, preprocessed, read as it is used.

What the rest of the family works with. The keys of a `data` block are those of `options.Options`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from models.xtcav.files import files_of
from models.xtcav.fingerprint import fingerprint
from models.xtcav.index import Index, scan
from models.xtcav.options import Options, Task, resolve
from models.xtcav.passes import finite, fitted, reader_of
from models.xtcav.preprocess import Chain
from models.xtcav.rows import Batch, Rows
from models.xtcav.split import balance, blocks, class_weights, split
from models.xtcav.store import ImageStore

__all__ = [
    "Batch",
    "Chain",
    "Rows",
    "XtcavData",
    "fingerprint",
    "load",
    "open_for_prediction",
]

_PARTS = ("train", "val", "test")
_NAMES = ("groups", "image", "label", "targets", "scalars", "run", "seconds", "nanoseconds", "fiducials", "task")


@dataclass(frozen=True)
class XtcavData:
    """A lazy handle: images are read as they are asked for.

    Attributes:
        task: what is learned.
        classes: how many labels there are (0..classes-1); 0 for regression.
        shares: (classes,) float32, how frequent each is among the training rows before `ratio` cuts them.
        targets: names of the columns of `Rows.targets`.
        scalars: names of the columns of `Rows.scalars`.
        image_shape: (h, w) after preprocessing.
        chain: fitted on training rows only; `chain.state()` goes into each snapshot and preprocesses new files.
        files: the files, sorted.
        report: what the scan found, ready for JSON.
        train, val, test: the three parts. Training rows are cut to `ratio` where the block asks for it.
        eval: the rows that predictions are made for: `val` in phase "val", `test` in phase "test".
        source: where it comes from, for messages.
        reading: what datasets are called and `shares`; with `chain.state()` all that is needed to read new files alike.
    """

    task: Task
    classes: int
    shares: np.ndarray
    targets: tuple[str, ...]
    scalars: tuple[str, ...]
    image_shape: tuple[int, int]
    chain: Chain
    files: tuple[Path, ...]
    report: dict[str, Any]
    train: Rows
    val: Rows
    test: Rows
    eval: Rows
    source: str
    reading: dict[str, Any]

    def counts(self, rows: Rows) -> np.ndarray:
        """(classes,) rows of each label."""
        return np.bincount(rows.labels[rows.labels >= 0], minlength=self.classes)

    def class_weights(self) -> np.ndarray:
        """(classes,) float32 inverse to the training counts; their mean over training rows is 1."""
        return class_weights(self.counts(self.train))

    def subset(self, samples: np.ndarray) -> XtcavData:
        """The same data with only these of the evaluated rows."""
        return replace(self, eval=self.eval.take(np.asarray(samples)))

    def scanned(self) -> dict[str, str]:
        """What the scan found and skipped, in words."""
        report = self.report
        said = {"scan": f"{report['rows']} shots of {report['files']} files in {report['scan_seconds']:.2f} s"}
        if report.get("labels"):
            labels = " / ".join(map(str, report["labels"]))
            said["usable labels"] = f"{report['labelled']} ({100 * report['labelled_share']:.1f} %): {labels}"
        for reason, count in report["skipped_rows"].items():
            said[f"skipped, {reason}"] = str(count)
        if report["skipped_files"]:
            first = next(iter(report["skipped_files"].values()))
            said["skipped files"] = f"{len(report['skipped_files'])}; the first: {first}"
        if report["repeated_files"]:
            said["files named twice"] = str(report["repeated_files"])
        return said

    def close(self) -> None:
        """Close the files; the handle may be used again, it then opens them anew."""
        for rows in (self.train, self.val, self.test, self.eval):
            rows.store.close()


def load(config: Mapping[str, Any], phase: str) -> XtcavData:
    """Scan, split, fit the preprocessing on training rows.

    Args:
        phase: "val" or "test": which part is `eval`.

    Raises:
        BadInput: nothing usable, a class without training rows, or (strict) anything unusable.
    """
    options = resolve(config)
    found, source = _scanned(options, labels_needed=True)
    reader, block = reader_of(found, options), _blocks(found, options)
    labelled = found.label >= 0 if options.task == "classification" else np.isfinite(found.targets).any(1)
    if not labelled.any():
        raise BadInput(f"{source}: not one of {len(found)} shots has a usable {_wanted(options)}")
    # a shot without any target tells that there is none
    usable = labelled.copy() if options.task == "classification" else np.ones(len(found), bool)
    usable[usable] = finite(found.take(np.flatnonzero(usable)), reader, options, found.report)
    index, block = found.take(np.flatnonzero(usable)), block[usable]
    classes = (options.classes or int(index.label.max()) + 1) if options.task == "classification" else 0
    strata = index.label if classes else labelled[usable].astype(np.int64)
    part = split(strata, block, options.split, options.seed)
    which = [np.flatnonzero(part == number) for number in range(3)]
    if phase == "test" and not len(which[2]):
        raise BadInput(f"{source}: the data block keeps no test rows (split: {list(options.split)})")
    if classes:
        _every_class(index.label, which[0], classes, source)
    else:
        _every_target(index, which[0], source)
    shares = np.bincount(index.label[which[0]], minlength=classes) / len(which[0]) if classes else np.zeros(0)
    if options.ratio and classes:
        rng = np.random.default_rng([options.seed, 1])
        which[0] = which[0][balance(index.label[which[0]], classes, options.ratio, rng)]
    chain = fitted(options, index, reader, which[0])
    report = {
        **found.report,
        "labelled": int(labelled.sum()),
        "labelled_share": round(float(labelled.mean()), 4),
        "labels": np.bincount(index.label, minlength=classes).tolist() if classes else [],
        "parts": {n: _counted(index, rows, classes) for n, rows in zip(_PARTS, which, strict=True)},
    }
    store = ImageStore(index, reader, chain, options.cache_mb, options.cache)
    train, val, test = (Rows(store, rows, block[rows], classes) for rows in which)
    parts = {"train": train, "val": val, "test": test, "eval": test if phase == "test" else val}
    return _data(options, store, parts, classes, shares, report, source)


def _scanned(options: Options, *, labels_needed: bool) -> tuple[Index, str]:
    """The shots that a block means, and what to call their files."""
    paths, repeated, source = files_of(options)
    return scan(paths, options, labels_needed=labels_needed, repeated=repeated), source


def _blocks(index: Index, options: Options) -> np.ndarray:
    return blocks(index.run, index.group, index.file, options.block, any(len(a) > 1 for a in index.leading))


def _data(
    options: Options,
    store: ImageStore,
    parts: Mapping[str, Rows],
    classes: int,
    shares: np.ndarray,
    report: dict[str, Any],
    source: str,
) -> XtcavData:
    names = {n: list(v) if isinstance(v := getattr(options, n), tuple) else v for n in _NAMES}
    return XtcavData(
        task=options.task,
        classes=classes,
        shares=shares.astype(np.float32),
        targets=store.index.target_names,
        scalars=store.index.scalar_names,
        image_shape=store.chain.output_shape,
        chain=store.chain,
        files=store.index.files,
        report=report,
        source=source,
        reading={**names, "classes": classes, "shares": shares.tolist()},
        **parts,
    )


def _wanted(options: Options) -> str:
    return f"label ({options.label})" if options.task == "classification" else f"target ({', '.join(options.targets)})"


def _counted(index: Index, rows: np.ndarray, classes: int) -> dict[str, Any]:
    return {"rows": len(rows), "labels": np.bincount(index.label[rows], minlength=classes).tolist() if classes else []}


def _every_class(labels: np.ndarray, train: np.ndarray, classes: int, source: str) -> None:
    empty = np.flatnonzero(np.bincount(labels[train], minlength=classes) == 0)
    if classes < 2:
        raise BadInput(f"{source}: all usable labels are 0; a classification needs two classes")
    if len(empty):
        raise BadInput(f"{source}: class {empty[0]} of 0..{classes - 1} has no training rows after the split")


def _every_target(index: Index, train: np.ndarray, source: str) -> None:
    absent = np.flatnonzero(~np.isfinite(index.targets[train]).any(0))
    if len(absent):
        raise BadInput(f"{source}: target {index.target_names[absent[0]]} is absent in all {len(train)} training rows")


def _fits(chain: Chain, index: Index, source: str) -> None:
    if index.image_shape != chain.input_shape:
        (h, w), (a, b) = chain.input_shape, index.image_shape
        raise BadInput(f"{source}: images are {a}x{b}, the model was trained on {h}x{w}")


def open_for_prediction(
    path: str,
    chain_state: Mapping[str, Any],
    *,
    classes: int = 0,
    shares: Sequence[float] = (),
    cache_mb: float = 1024.0,
    **reading: Any,
) -> XtcavData:
    """All rows of new files (`eval`; labels where there are some), preprocessed by a stored chain.

    Args:
        classes: how many labels the model knows; labels beyond are unknown.
        shares: of the classes among the model's training rows.
        reading: names of datasets, as `XtcavData.reading` has them.

    Raises:
        BadInput: nothing usable, or images of another shape than the chain was fitted on.
    """
    chain = Chain.from_state(chain_state)
    options = resolve({**reading, "path": path, "classes": classes, "cache_mb": cache_mb})
    index, source = _scanned(options, labels_needed=False)
    _fits(chain, index, source)
    reader = reader_of(index, options)
    index = index.take(np.flatnonzero(finite(index, reader, options, index.report)))
    store = ImageStore(index, reader, chain, options.cache_mb, options.cache)
    block = _blocks(index, options)
    empty, everything = (Rows(store, some, block[some], classes) for some in (np.arange(0), np.arange(len(index))))
    parts = dict.fromkeys(_PARTS, empty) | {"eval": everything}
    return _data(options, store, parts, classes, np.asarray(shares), index.report, source)
