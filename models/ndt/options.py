"""The keys of a `data` block, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ground import schemas
from ground.errors import BadInput
from ground.schemas import Whole


@dataclass(frozen=True, config=schemas.BLOCK)
class Options:
    """What to read.

    Attributes:
        path: an HDF5 file of the NDT or of LFADS.
        generator, options: `lorenz` makes a file and reads that (see `lorenz.py` for its options).
        dataset: one of the NLB datasets; its file is prepared on demand from the raw NWB.
        bin_ms: width of its bins.
        heldout_share: of the units of a file that holds none out.
    """

    path: Annotated[str, Field(min_length=1)] | None = None
    generator: Literal["lorenz"] | None = None
    options: dict[str, Any] | None = field(default_factory=dict)
    dataset: Annotated[str, Field(min_length=1)] | None = None
    bin_ms: Whole = 5
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.25


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block. Of several sources the path counts, then the generator: `--data` adds a path.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong kind, or nothing to read.
    """
    options = schemas.block(Options, block)
    if not (options.path or options.generator or options.dataset):
        raise BadInput("the data block names neither path, dataset nor generator")
    return options
