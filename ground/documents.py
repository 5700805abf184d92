"""YAML and JSON from outside, bounded in size, depth and aliases before anything is made of them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from ground.errors import BadInput

MOST_BYTES = 16 * 2**20
_MOST_DEPTH = 40
_MOST_ALIASES = 100


def regular(path: Path) -> os.stat_result:
    """What the system says of a regular file.

    Raises:
        BadInput: it is something else: reading a pipe or a device may never end.
        OSError: it is not there, or may not be looked at.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise BadInput(f"{path}: no regular file")
    return about


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a regular file.

    Raises:
        BadInput: no such file, no regular one (reading a pipe may never end), too large, or no UTF-8.
    """
    try:
        size = regular(path).st_size
        if size > most:
            raise BadInput(f"{path}: {size} bytes; {most} are the most")
        with open(path, "rb") as file:
            return file.read(most).decode("utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: no UTF-8 text") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says.

    Raises:
        BadInput: no YAML, or nested deeper or with more aliases than anybody writes.
    """
    try:
        depth = aliases = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > _MOST_DEPTH or aliases > _MOST_ALIASES:
                what = f"nested deeper than {_MOST_DEPTH}" if depth > _MOST_DEPTH else f"over {_MOST_ALIASES} aliases"
                raise BadInput(f"{where}, line {event.start_mark.line + 1 if event.start_mark else 1}: {what}")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{where}, line {line}: not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        # a date that is none, a number of thousands of digits
        raise BadInput(f"{where}: not valid YAML ({' '.join(str(error).split())[:80]})") from None


def read_yaml(path: Path, tabs: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        tabs: TABs, which YAML forbids, count as spaces.

    Raises:
        BadInput: as `read_text` and `parse_yaml`, or no mapping.
    """
    text = read_text(path)
    return mapping(text.replace("\t", "  ") if tabs else text, str(path))


def mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text is.

    Raises:
        BadInput: as `parse_yaml`, or it is none.
    """
    content = parse_yaml(text, where)
    if not isinstance(content, dict):
        raise BadInput(f"{where}, line 1: expected a mapping of keys to values")
    return content


def parse_json(text: str | bytes, where: str) -> Any:
    """What a JSON text says.

    Raises:
        BadInput: no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not valid JSON ({str(error)[:80]})") from None
