"""The keys of a `data` block, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ground import schemas
from ground.errors import BadInput
from ground.limits import shown
from ground.schemas import Several, Shares, Whole
from models.cellnet.config import Task
from models.cellnet.transforms import Transforms
from models.cellnet.transforms import parse as parse_transforms

Path = Annotated[str, Field(min_length=1)]
Least = Annotated[float, Field(ge=0)]
Range = tuple[int, int] | None
PARTS = ("train", "val", "test")
TRUTH: dict[Task, float] = {"ghost": 0.17, "charge": 0.0}


@dataclass(frozen=True, config=schemas.BLOCK)
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

    path: Annotated[tuple[Path, ...], Several] = ()
    generator: Literal["", "lartpc"] = ""
    options: dict[str, Any] = field(default_factory=dict)
    task: Task = "ghost"
    tpcs: tuple[tuple[int, ...] | None, ...] = ()
    train: tuple[Range, ...] = ()
    val: tuple[Range, ...] = ()
    test: tuple[Range, ...] = ()
    split: Shares = (0.7, 0.15, 0.15)
    seed: Annotated[Whole, Field(ge=0)] = 0
    threshold: Least = 0.001
    truth: Least = 0.17
    transforms: Transforms = field(default_factory=Transforms)
    limit: Annotated[Whole, Field(ge=0)] = 0
    cache_mb: Least = 1024.0

    @property
    def ranged(self) -> bool:
        """Whether ranges of file indices make the parts."""
        return bool(self.train or self.val or self.test)


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, nothing to read, ranges of
            some parts only.
    """
    several = isinstance(block.get("path"), (list, tuple))
    count = max(1, len(block["path"])) if several else 1
    values: dict[str, Any] = {name: value for name, value in block.items() if value is not None}
    values |= {part: ranges(part, block.get(part), count) for part in PARTS}
    values["tpcs"] = tpcs(block.get("tpcs"), count, several)
    values["transforms"] = parse_transforms(block.get("transforms"), count)
    options = schemas.block(Options, {"truth": TRUTH["charge" if block.get("task") == "charge" else "ghost"], **values})
    if bool(options.path) == bool(options.generator):
        raise BadInput("the data block must name either path or generator: lartpc")
    if options.options and not options.generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    if options.ranged and not (options.train and options.val):
        missing = "val" if options.train else "train"
        raise BadInput(f"the data block has ranges of file indices, but none for {missing} (data key {missing})")
    return options


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
        f"data key {name} is {shown(given)}; it takes [first, last] file index, both included, or a list of "
        f"one such or null for each of the {count} paths"
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
        raise BadInput(f"data key {name} is {shown(given)}: every path is skipped")
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
    wrong = BadInput(f"data key tpcs is {shown(given)}; it takes a list of TPCs or null for each of the {count} paths")
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
