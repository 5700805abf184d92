"""The keys of a `data` block, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ground import schemas
from ground.errors import BadInput
from ground.limits import shown
from ground.schemas import Several, Whole

Names = Annotated[tuple[str, ...], Several]


def _names_or_indices(values: tuple[Any, ...]) -> tuple[str | int, ...]:
    if any(isinstance(value, bool) or not isinstance(value, (str, int)) for value in values):
        raise ValueError(f"is {shown(list(values))}; it takes a list of names or indices")
    return values


NamesOrIndices = Annotated[tuple[Any, ...], Several, AfterValidator(_names_or_indices)]


@dataclass(frozen=True, config=schemas.BLOCK)
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

    path: Names = ()
    generator: Literal["", "neurons"] = ""
    options: dict[str, Any] = field(default_factory=dict)
    meta: str = ""
    probes: NamesOrIndices = ()
    stims: NamesOrIndices = ()
    stimuli: Literal["append", "samples", "towers"] = "append"
    target: Literal["auto", "u", "ustar"] = "auto"
    ranges: Literal["auto", "centred", "ranged"] = "auto"
    features: Literal["none", "efel", "stim", "both"] = "none"
    normalisation: Literal["stored", "sample", "probe"] = "stored"
    samples_per_epoch: Annotated[Whole, Field(ge=0)] = 0
    limit_mb: Annotated[float, Field(ge=0)] = 0.0
    witness: Names = ()

    @property
    def extras(self) -> tuple[str, ...]:
        """The kinds of features that are read."""
        return {"none": (), "both": ("efel", "stim")}.get(self.features, (self.features,))


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, or nothing to read.
    """
    options = schemas.block(Options, block)
    if bool(options.path) == bool(options.generator):
        raise BadInput("the data block must name either path or generator: neurons")
    if options.options and not options.generator:
        raise BadInput("data key options belongs to a generator, and the block names none")
    return options
