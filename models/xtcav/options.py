"""The keys of a `data` block, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ground import schemas
from ground.errors import BadInput
from ground.schemas import Several, Shares, Whole

Names = Annotated[tuple[str, ...], Several]
Task = Literal["classification", "regression"]


@dataclass(frozen=True, config=schemas.BLOCK)
class Options:
    """What to read, and what to make of it.

    Attributes:
        path: a glob, a folder, a text file that lists files (globs), one a line, or one HDF5 file.
        generator, options: `xtcav` makes a collection and reads that (see `generate.py` for its options).
        groups: HDF5 groups that each hold a set of shots; datasets are named within them. Empty: the file itself.
        image: the dataset of images: (shots, H, W), or with several leading axes, whose shots stay together.
        label: integers, one a shot; below zero means no usable label.
        targets: what a regression predicts; datasets of one number (or several columns) a shot, NaN where absent: a
            shot without any counts as one, of what `mask` leaves.
        scalars: datasets of one number a shot that go into the network beside the image.
        mask: a dataset; only shots where it is 1 are used.
        run, seconds, nanoseconds, fiducials: datasets that say when a shot was. Where a file has none, its name and
            the order of its rows stand for them.
        task: "classification", or "regression" (then labels are optional).
        classes: how many labels there are; 0: the largest label found + 1.
        ratio: cut each class of the training rows to at most round(rarest x ratio) rows; 0: use all.
        split: shares of training, validation and test.
        block: shots of one run, consecutive in time, that are never split between the parts.
        seed: of the split and of the rows that statistics are fitted on.
        strict: refuse the collection where a file or row cannot be used, instead of skipping and counting it.
        cache_mb: memory for rows read once, MiB.
        cache: what is kept: preprocessed rows as "float32" or "float16", or "raw" images.
        preprocess: steps in order (see `preprocess.py`).
        dark: files (as `path`) whose mean image is the background of the step `dark`.
        fit_rows: at most so many training rows fit the statistics of `preprocess`.
    """

    path: str = ""
    generator: Literal["", "xtcav"] = ""
    options: dict[str, Any] = field(default_factory=dict)
    groups: Names = ()
    image: str = "xtcavimg"
    label: str = "acq.peaksLabel"
    targets: Names = ()
    scalars: Names = ()
    mask: str = ""
    run: str = "run"
    seconds: str = "evt.seconds"
    nanoseconds: str = "evt.nanoseconds"
    fiducials: str = "evt.fiducials"
    task: Task = "classification"
    classes: Annotated[Whole, Field(ge=0)] = 0
    ratio: Annotated[float, Field(ge=0)] = 0.0
    split: Shares = (0.8, 0.1, 0.1)
    block: Annotated[Whole, Field(ge=1)] = 20
    seed: Annotated[Whole, Field(ge=0)] = 0
    strict: bool = False
    cache_mb: Annotated[float, Field(ge=0)] = 1024.0
    cache: Literal["float32", "float16", "raw"] = "float32"
    preprocess: Annotated[tuple[Any, ...], Several] = ("log", "standardise")
    dark: str = ""
    fit_rows: Annotated[Whole, Field(ge=1)] = 2000


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, or nothing to read.
    """
    options = schemas.block(Options, block)
    if bool(options.path) == bool(options.generator):
        raise BadInput("the data block must name either path or generator: xtcav")
    if options.options and not options.generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    if options.task == "regression" and not options.targets:
        raise BadInput("task: regression needs the names of its datasets (data key targets)")
    return options
