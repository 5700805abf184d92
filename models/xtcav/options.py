"""The keys of a `data` block, checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ground.errors import BadInput

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
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
    generator: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    image: str = "xtcavimg"
    label: str = "acq.peaksLabel"
    targets: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    mask: str = ""
    run: str = "run"
    seconds: str = "evt.seconds"
    nanoseconds: str = "evt.nanoseconds"
    fiducials: str = "evt.fiducials"
    task: Task = "classification"
    classes: int = 0
    ratio: float = 0.0
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    block: int = 20
    seed: int = 0
    strict: bool = False
    cache_mb: float = 1024.0
    cache: Literal["float32", "float16", "raw"] = "float32"
    preprocess: tuple[Any, ...] = ("log", "standardise")
    dark: str = ""
    fit_rows: int = 2000


_KNOWN = {f.name: f for f in fields(Options)}
_DEFAULTS = Options()
_WORDS = {"task": ("classification", "regression"), "cache": ("float32", "float16", "raw"), "generator": ("", "xtcav")}
_LEAST = {"classes": 0, "ratio": 0, "block": 1, "seed": 0, "cache_mb": 0, "fit_rows": 1}


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, or nothing to read.
    """
    values: dict[str, Any] = {}
    for name, value in block.items():
        if name not in _KNOWN:
            near = difflib.get_close_matches(str(name), _KNOWN, n=1)
            raise BadInput(f"unknown data key {name}; " + (f"did you mean {near[0]}?" if near else _all()))
        values[name] = _checked(name, value)
    options = Options(**values)
    if bool(options.path) == bool(options.generator):
        raise BadInput("the data block must name either path or generator: xtcav")
    if options.options and not options.generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    if options.task == "regression" and not options.targets:
        raise BadInput("task: regression needs the names of its datasets (data key targets)")
    return options


def _all() -> str:
    return f"known are {', '.join(sorted(_KNOWN))}"


def _checked(name: str, value: Any) -> Any:
    default = getattr(_DEFAULTS, name)
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise BadInput(f"data key {name} is {value!r}; it takes one of {', '.join(w for w in _WORDS[name] if w)}")
        return value
    if name == "split":
        return _shares(value)
    if isinstance(default, tuple):
        items = (value,) if isinstance(value, (str, dict)) else value
        if not isinstance(items, (list, tuple)) or (
            name != "preprocess" and any(not isinstance(i, str) for i in items)
        ):
            raise BadInput(f"data key {name} is {value!r}; it takes a list of names")
        return tuple(items)
    if isinstance(default, (bool, str, dict)):
        if not isinstance(value, type(default)):
            kind = {bool: "true or false", str: "a text", dict: "a mapping"}[type(default)]
            raise BadInput(f"data key {name} is {value!r}; it takes {kind}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"data key {name} is {value!r}; it takes a number")
    if isinstance(default, int) and value != int(value):
        raise BadInput(f"data key {name} is {value!r}; it takes a whole number")
    if value < _LEAST[name]:
        raise BadInput(f"data key {name} is {value!r}; it must be at least {_LEAST[name]}")
    return type(default)(value)


def _shares(value: Any) -> tuple[float, ...]:
    wrong = BadInput(
        f"data key split is {value!r}; it takes the shares of training, validation and test: [0.8, 0.1, 0.1]"
    )
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise wrong
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= 1 for v in value):
        raise wrong
    if abs(sum(value) - 1) > 1e-6 or value[0] <= 0 or value[1] <= 0:
        raise BadInput(f"data key split is {value!r}; shares sum to 1, and training and validation are above 0")
    return tuple(float(v) for v in value)
