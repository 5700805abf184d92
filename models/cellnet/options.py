"""The keys of a `data` block, checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ground.errors import BadInput
from models.cellnet.config import TASKS, Task
from models.cellnet.transforms import Transforms
from models.cellnet.transforms import parse as parse_transforms

Range = tuple[int, int] | None
PARTS = ("train", "val", "test")
TRUTH: dict[Task, float] = {"ghost": 0.17, "charge": 0.0}


@dataclass(frozen=True)
class Options:
    """What to read, and what to make of it.

    Attributes:
        path: folders, globs or xy files.
        generator, options: `lartpc` makes events and tiles them (see `generate.py` for its options).
        task: "ghost" (which voxels are real) or "charge" (how much is in them).
        tpcs: of each path, the TPCs whose files count; None: any.
        train, val, test: of each path, the first and last file index of the part, both included; None: no file of it.
            Empty: the part has no ranges.
        split: shares of training, validation and test, where no ranges are given. All files of one index stay together.
        seed: of the split.
        threshold: a voxel is real, for training, if its truth is above this.
        truth: the same for scores: at least this.
        transforms: see `transforms.py`.
        limit: at most so many files of each part; 0: all.
        cache_mb: memory for what was read and for kernel maps, MiB.
    """

    path: tuple[str, ...] = ()
    generator: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    task: Task = "ghost"
    tpcs: tuple[tuple[int, ...] | None, ...] = ()
    train: tuple[Range, ...] = ()
    val: tuple[Range, ...] = ()
    test: tuple[Range, ...] = ()
    split: tuple[float, ...] = (0.7, 0.15, 0.15)
    seed: int = 0
    threshold: float = 0.001
    truth: float = 0.17
    transforms: Transforms = field(default_factory=Transforms)
    limit: int = 0
    cache_mb: float = 1024.0

    @property
    def ranged(self) -> bool:
        """Whether ranges of file indices make the parts."""
        return bool(self.train or self.val or self.test)


_KNOWN = {f.name: f for f in fields(Options)}


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, nothing to read, ranges of
            some parts only.
    """
    for name in block:
        if name not in _KNOWN:
            near = difflib.get_close_matches(str(name), _KNOWN, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(_KNOWN))}"
            raise BadInput(f"unknown data key {name}; {known}")
    values: dict[str, Any] = {"path": _paths(block.get("path"))}
    count = max(1, len(values["path"]))
    task = block.get("task", "ghost")
    if task not in TASKS:
        raise BadInput(f"data key task is {task!r}; it takes one of {', '.join(TASKS)}")
    values["task"] = task
    generator = block.get("generator", "")
    if generator not in ("", "lartpc"):
        raise BadInput(f"data key generator is {generator!r}; it takes lartpc")
    if bool(values["path"]) == bool(generator):
        raise BadInput("the data block must name either path or generator: lartpc")
    values["generator"] = generator
    values["options"] = block.get("options", {})
    if not isinstance(values["options"], Mapping):
        raise BadInput(f"data key options is {values['options']!r}; it takes a mapping")
    if values["options"] and not generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    values["tpcs"] = tpcs(block.get("tpcs"), count, "path" in block and isinstance(block["path"], (list, tuple)))
    for part in PARTS:
        values[part] = ranges(part, block.get(part), count)
    if "split" in block:
        values["split"] = _shares(block["split"])
    values["truth"] = TRUTH[task]
    for name, least in (("seed", 0), ("threshold", 0), ("truth", 0), ("limit", 0), ("cache_mb", 0)):
        if name in block:
            values[name] = _number(name, block[name], least, name in ("seed", "limit"))
    values["transforms"] = parse_transforms(block.get("transforms"), count)
    options = Options(**values)
    if options.ranged and not (options.train and options.val):
        missing = "val" if options.train else "train"
        raise BadInput(f"the data block has ranges of file indices, but none for {missing} (data key {missing})")
    return options


def _paths(given: Any) -> tuple[str, ...]:
    paths = [given] if isinstance(given, str) else given
    if paths is None:
        return ()
    if not isinstance(paths, (list, tuple)) or not all(isinstance(p, str) and p for p in paths):
        raise BadInput(f"data key path is {given!r}; it takes a file, folder or glob, or a list of such")
    return tuple(paths)


def ranges(name: str, given: Any, count: int) -> tuple[Range, ...]:
    """The range of file indices of each of `count` paths; empty where `given` is None.

    Args:
        name: the key, for messages.
        given: [first, last], both included, or a list with one such or null for each path.

    Raises:
        BadInput: anything else.
    """
    if given is None:
        return ()
    wrong = BadInput(
        f"data key {name} is {given!r}; it takes [first, last] file index, both included, or a list of one such or "
        f"null for each of the {count} paths"
    )
    if not isinstance(given, (list, tuple)) or not given:
        raise wrong
    each = [given] if count == 1 and all(isinstance(v, int) for v in given) else list(given)
    if len(each) != count:
        raise wrong
    out: list[Range] = []
    for value in each:
        if value is None:
            out.append(None)
            continue
        whole = isinstance(value, (list, tuple)) and len(value) == 2
        if not whole or any(isinstance(v, bool) or not isinstance(v, int) for v in value) or value[0] > value[1]:
            raise wrong
        out.append((int(value[0]), int(value[1])))
    if all(value is None for value in out):
        raise BadInput(f"data key {name} is {given!r}: every path is skipped")
    return tuple(out)


def tpcs(given: Any, count: int, several: bool) -> tuple[tuple[int, ...] | None, ...]:
    """The TPCs of each of `count` paths; None means any.

    Args:
        given: a list of TPCs for a single path, or a list with one such or null for each path.
        several: whether the paths were given as a list.

    Raises:
        BadInput: anything else.
    """
    if given is None:
        return (None,) * count
    wrong = BadInput(f"data key tpcs is {given!r}; it takes a list of TPCs or null for each of the {count} paths")
    if not isinstance(given, (list, tuple)):
        raise wrong
    each = list(given) if several and not all(isinstance(v, int) for v in given) else [given]
    if len(each) != count:
        raise wrong
    out: list[tuple[int, ...] | None] = []
    for value in each:
        if value is None:
            out.append(None)
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, int) for v in value):
            out.append(tuple(value))
        else:
            raise wrong
    return tuple(out)


def _number(name: str, value: Any, least: float, whole: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"data key {name} is {value!r}; it takes a number")
    if whole and value != int(value):
        raise BadInput(f"data key {name} is {value!r}; it takes a whole number")
    if value < least:
        raise BadInput(f"data key {name} is {value!r}; it must be at least {least}")
    return int(value) if whole else float(value)


def _shares(value: Any) -> tuple[float, ...]:
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= 1 for v in value):
        raise BadInput(
            f"data key split is {value!r}; it takes shares of training, validation and test: [0.7, 0.15, 0.15]"
        )
    if abs(sum(value) - 1) > 1e-6 or value[0] <= 0 or value[1] <= 0:
        raise BadInput(f"data key split is {value!r}; shares sum to 1, and training and validation are above 0")
    return tuple(float(v) for v in value)
