"""The keys of a `data` block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from ground import schemas
from ground.errors import BadInput
from ground.schemas import Several
from models.cellprofiler.config_json import Text

Objective = Literal["map", "balanced_accuracy"]


Labels = Annotated[tuple[Text, ...], Several]


@dataclass(frozen=True, config=schemas.BLOCK)
class _Split:
    field: Text | None = None
    training: Labels | None = None
    validation: Labels | None = None
    test: Labels | None = None


@dataclass(frozen=True, config=schemas.BLOCK)
class Options:
    """What a block says.

    Attributes:
        project: the project's folder.
        generator: "cells" where the project is a generated one; `options` are its own.
        config, metadata: files in inputs/config and inputs/metadata, as `Project.open` takes them.
        store: the folder below outputs/ that `sample` wrote.
        objective: what is ranked by: how wells of one label find each other, or the balanced accuracy of wells.
        split: field, training, validation, test: an index column and its values (what is missing: the configuration's).
        control: label of the controls (None: the configuration's).
        pairs: "plates": only wells on other plates are to be found.
    """

    project: str = ""
    generator: Literal["", "cells"] = ""
    options: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    metadata: str = "index.csv"
    store: str = "single-cells"
    objective: Objective = "map"
    split: dict[str, Any] = field(default_factory=dict)
    control: Text | None = None
    pairs: Literal["any", "plates"] = "any"

    def root(self) -> Path:
        """The project's folder, generated where it is to be.

        Raises:
            BadInput: as the generator.
        """
        if self.generator:
            from models.cellprofiler.generate import demo

            return Path(demo(self.options))
        return Path(self.project).expanduser()


def resolve(block: Mapping[str, Any]) -> Options:
    """The options of a `data` block; what is null in it counts as not said.

    Raises:
        BadInput: an unknown key (with the nearest known one), a wrong value, or no project.
    """
    given = {name: value for name, value in block.items() if value is not None}
    if "split" in given:
        split = asdict(schemas.block(_Split, given["split"], ["split"]))
        given["split"] = {name: value for name, value in split.items() if value is not None}
    options = schemas.block(Options, given)
    if bool(options.project) == bool(options.generator):
        raise BadInput("the data block names a project (a folder) or the generator cells, one of the two")
    return options
