"""The YAML files beside cells and packs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ground import documents
from ground.errors import BadInput
from ground.files import write_text


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping; the published files have TABs.

    Raises:
        BadInput: as `ground.documents.read_yaml`.
    """
    return documents.read_yaml(path, tabs=True)


def entry(content: Mapping[str, Any], keys: str, path: Path, kind: type | tuple[type, ...]) -> Any:
    """The value at dotted `keys`.

    Raises:
        BadInput: it is missing, or not of the kind.
    """
    at: Any = content
    for key in keys.split("."):
        if not isinstance(at, Mapping) or key not in at:
            raise BadInput(f"{path}: has no {keys}")
        at = at[key]
    if not isinstance(at, kind) or (isinstance(at, bool) and kind is not bool):
        raise BadInput(f"{path}: {keys} is {str(at)[:60]!r}")
    return at


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Atomic, keys in the order given, lists of numbers in one line."""
    write_text(path, yaml.dump(dict(content), Dumper=_Flowing, sort_keys=False, width=4000, allow_unicode=True))


class _Flowing(yaml.SafeDumper):
    """Lists without mappings or lists inside in one line, as the field writes them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _sequence(dumper: yaml.SafeDumper, items: Any) -> yaml.Node:
    flat = not any(isinstance(item, (list, tuple, dict)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Flowing.add_representer(list, _sequence)
_Flowing.add_representer(tuple, _sequence)
