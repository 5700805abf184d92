"""Passes over the images of a data block before anything is trained: are they numbers, and what the chain learns."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ground.errors import BadInput
from models.xtcav import generate
from models.xtcav.files import resolve_files
from models.xtcav.index import Index, scan
from models.xtcav.options import Options
from models.xtcav.preprocess import Chain
from models.xtcav.reader import ImageReader

_PASS = 64  # rows that are read and preprocessed at once


def reader_of(index: Index, options: Options) -> ImageReader:
    """What reads the images of an index."""
    return ImageReader(index.files, options.image, index.image_shape, index.dtype, index.groups)


def finite(index: Index, reader: ImageReader, options: Options, report: dict[str, Any]) -> np.ndarray:
    """(n,) which images hold numbers only. Integers always do; others are read once. `report` counts those that do not.

    Raises:
        BadInput: none does; strict: one does not.
    """
    good = np.ones(len(index), bool)
    if index.dtype.kind != "f":
        return good
    for which, images in reader.portions(index.file, index.row):
        good[which] = np.isfinite(images).all((1, 2))
    bad = int((~good).sum())
    if bad and options.strict:
        first = int(np.flatnonzero(~good)[0])
        path, row = index.files[index.file[first]], index.row[first]
        raise BadInput(f"{path}: image {row} has pixels that are not numbers")
    if bad:
        report["skipped_rows"]["image with pixels that are not numbers"] = bad
    if bad == len(good):
        raise BadInput(f"{index.files[0]}: each image has pixels that are not numbers")
    return good


def fitted(options: Options, index: Index, reader: ImageReader, train: np.ndarray) -> Chain:
    """The chain, its statistics from a seeded choice of the training rows, its scalars' from all of them."""
    chain = Chain(options.preprocess, index.image_shape)
    chosen = train
    if len(train) > options.fit_rows:
        rng = np.random.default_rng([options.seed, 2])
        chosen = np.sort(rng.choice(train, options.fit_rows, replace=False))
    streams = {"train": functools.partial(_stream, index, reader, chosen)}
    if "dark" in chain.sources:
        streams["dark"] = _dark(options, index)
    chain.fit(streams)
    chain.fit_scalars(index.scalars[train])
    return chain


def _stream(index: Index, reader: ImageReader, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rows in np.array_split(chosen, max(1, -(-len(chosen) // _PASS))):
        yield reader.read(index.file[rows], index.row[rows]), index.label[rows]


def _dark(options: Options, index: Index) -> Any:
    pattern = options.dark
    if options.generator and not pattern:
        pattern = str(generate.ensure(options.options) / generate.DARK)
    if not pattern:
        raise BadInput("preprocess step dark needs files of a dark run (data key dark), or lasing_free or train")
    plain = replace(options, task="classification", targets=(), scalars=(), mask="", strict=True)
    found = scan(resolve_files(pattern)[0], plain, labels_needed=False)
    if found.image_shape != index.image_shape:
        (h, w), (a, b) = index.image_shape, found.image_shape
        raise BadInput(f"{pattern}: dark images are {a}x{b}, the others {h}x{w}")
    reader = reader_of(found, options)
    rows = np.unique(np.linspace(0, len(found) - 1, options.fit_rows).astype(int))
    return functools.partial(_stream, found, reader, rows)
