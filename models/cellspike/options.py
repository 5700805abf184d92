"""The keys of a `data` block, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ground.errors import BadInput
from ground.settings import Table
from ground.settings import resolve as checked


@dataclass(frozen=True)
class Options:
    """What to read, and what to make of it.

    Attributes:
        path: files, folders, globs or text files that list such.
        generator, options: `neurons` makes a collection and reads that (see `generate.py` for its options).
        meta: a training meta YAML, where it does not lie beside the files.
        probes, stims: which, by name or index, in this order; none named: all that the first file has.
        stimuli: traces under several stimuli are "samples" of their own, one after another ("append"), or each has a
            tower of its own in the network ("towers").
        target: "ustar" (one meaning in all cells), "u" (within the cell's own ranges), "auto": u* where there is one.
        ranges: what `phys_par_range` of an mlPack1 means: "centred", "ranged", or "auto": as its conductances prove.
        features: numbers beside the traces: "none", "efel", "stim" (how stimuli were adjusted) or "both".
        normalisation: "stored": as packed; else to mean 0 and deviation 1 over a "sample" under one stimulus, or each
            "probe" of it by itself.
        samples_per_epoch: training samples of an epoch, over all ranks and cells; 0: all there are.
        limit_mb: memory for traces, MiB; what does not fit is read as it is used. 0: a quarter of what is free.
        witness: cells that are kept out of training; where none are named, those that the training meta names.
    """

    path: tuple[str, ...] = ()
    generator: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    meta: str = ""
    probes: tuple[str | int, ...] = ()
    stims: tuple[str | int, ...] = ()
    stimuli: str = "append"
    target: str = "auto"
    ranges: str = "auto"
    features: str = "none"
    normalisation: str = "stored"
    samples_per_epoch: int = 0
    limit_mb: float = 0.0
    witness: tuple[str, ...] = ()

    @property
    def extras(self) -> tuple[str, ...]:
        """The kinds of features that are read."""
        return {"none": (), "both": ("efel", "stim")}.get(self.features, (self.features,))


_LISTS = {"path": (str,), "probes": (str, int), "stims": (str, int), "witness": (str,)}
_TABLE: Table = {
    "generator": ("", ("", "neurons"), None),
    "meta": ("", None, None),
    "stimuli": ("append", ("append", "samples", "towers"), None),
    "target": ("auto", ("auto", "u", "ustar"), None),
    "ranges": ("auto", ("auto", "centred", "ranged"), None),
    "features": ("none", ("none", "efel", "stim", "both"), None),
    "normalisation": ("stored", ("stored", "sample", "probe"), None),
    "samples_per_epoch": (0, 0, None),
    "limit_mb": (0.0, 0.0, None),
}


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, or nothing to read.
    """
    values: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in block.items():
        if name in _LISTS:
            values[name] = _list(name, value)
        elif name == "options":
            if not isinstance(value, dict):
                raise BadInput(f"data key options is {value!r}; it takes a mapping")
            values[name] = dict(value)
        elif name in _TABLE:
            plain[name] = value
        else:
            known = [*_TABLE, *_LISTS, "options"]
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise BadInput(f"unknown data key {name}; {hint}")
    try:
        values |= checked("cellspike data", _TABLE, plain)
    except BadInput as error:
        raise BadInput(f"data key {error}") from None
    options = Options(**values)
    if bool(options.path) == bool(options.generator):
        raise BadInput("the data block must name either path or generator: neurons")
    if options.options and not options.generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    return options


def _list(name: str, value: Any) -> tuple[Any, ...]:
    items = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(item, bool) or not isinstance(item, _LISTS[name]) for item in items):
        kind = "names" if _LISTS[name] == (str,) else "names or indices"
        raise BadInput(f"data key {name} is {value!r}; it takes a list of {kind}")
    return tuple(items)
