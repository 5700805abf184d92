"""The keys of a `data` block."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ground.errors import BadInput

Objective = Literal["map", "balanced_accuracy"]
_CHOICES = {"objective": ("map", "balanced_accuracy"), "pairs": ("any", "plates"), "generator": ("cells", "")}
_PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
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
    generator: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    metadata: str = "index.csv"
    store: str = "single-cells"
    objective: Objective = "map"
    split: Mapping[str, Any] = field(default_factory=dict)
    control: str | None = None
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
    """The options of a `data` block.

    Raises:
        BadInput: an unknown key (with the nearest known one), a wrong value, or no project.
    """
    known = Options.__dataclass_fields__
    _known("data key", block, known)
    for name, words in _CHOICES.items():
        if block.get(name, words[0]) not in words:
            raise BadInput(f"data key {name} is {block[name]!r}; it takes one of {', '.join(filter(None, words))}")
    split = block.get("split") or {}
    if not isinstance(split, Mapping):
        raise BadInput(f"data key split is {split!r}; it takes field, training, validation and test")
    _known("data key split.", split, ("field", *_PARTS))
    values: dict[str, Any] = {name: _texts(name, split[name]) for name in _PARTS if split.get(name) is not None}
    if split.get("field") is not None:
        values["field"] = str(split["field"])
    given = {name: value for name, value in block.items() if value is not None} | {"split": values}
    if "control" in given:
        given["control"] = str(given["control"])
    options = Options(**given)
    if bool(options.project) == bool(options.generator):
        raise BadInput("the data block names a project (a folder) or the generator cells, one of the two")
    return options


def _known(what: str, given: Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise BadInput(f"unknown {what}{'' if what.endswith('.') else ' '}{name}{hint}")


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, (list, tuple)):
        return tuple(str(value) for value in values)
    if isinstance(values, (str, int, float)) and not isinstance(values, bool):
        return (str(values),)
    raise BadInput(f"data key split.{name} is {values!r}; it takes values of the split's column, such as [Training]")
