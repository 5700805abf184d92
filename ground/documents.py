"""YAML and JSON from outside, bounded in size, depth and aliases before anything is made of them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from ground.errors import BadInput
from ground.limits import MOST_BITS, MOST_DEPTH, refuse_overgrown, shown

MOST_BYTES = 4 * 2**20
_MOST_JSON = 16 * 2**20
_MOST_ALIASES = 100
_MOST_NODES = 100_000
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST_NUMBER = 400  # characters; beyond, YAML's numbers take time that grows with their square

try:
    from yaml.cyaml import CParser as Scanner  # type: ignore[attr-defined]
except ImportError:  # PyYAML without libyaml: the same, slower

    class Scanner(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
        """PyYAML's own scanner and parser."""

        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


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
            return file.read(size).decode("utf-8")  # room is made for what is asked for, there or not
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: no UTF-8 text") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says.

    Raises:
        BadInput: no YAML, or nested deeper, with more aliases or values than anybody writes.
    """
    loader = _Loader(text)
    try:
        loader.where = where
        node = loader.get_single_node()
        _refuse_swollen(node, where)
        content = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{where}, line {line}: not valid YAML ({error.problem})") from None
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        # a date that is none, a number of thousands of digits, a mapping as a key
        raise BadInput(f"{where}: not valid YAML ({' '.join(str(error).split())[:80]})") from None
    finally:
        loader.dispose()
    refuse_overgrown(content, where)
    return content


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """A YAML text as nodes, which know their lines; bounded as in `parse_yaml`."""
    loader = _Loader(text)
    try:
        loader.where = where
        return loader.get_single_node()  # type: ignore[no-any-return]
    finally:
        loader.dispose()


class _Loader(Composer, Scanner, SafeConstructor, Resolver):  # type: ignore[misc, valid-type]
    """PyYAML's safe loader on its fast scanner, which stops composing where it becomes too much."""

    where = ""

    def __init__(self, text: str) -> None:
        Scanner.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._depth = self._aliases = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._nodes += 1
        event: Any = self.peek_event()
        self._aliases += isinstance(event, yaml.AliasEvent)
        for number, most, what in (
            (self._depth - 1, MOST_DEPTH, f"nested deeper than {MOST_DEPTH}"),
            (self._aliases, _MOST_ALIASES, f"over {_MOST_ALIASES} aliases"),
            (self._nodes, _MOST_NODES, f"over {_MOST_NODES} values"),
        ):
            if number > most:
                raise BadInput(f"{self.where}, line {event.start_mark.line + 1}: {what}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_NUMBER and node.tag in _NUMBERS:
            raise BadInput(f"{self.where}, line {node.start_mark.line + 1}: not valid YAML (a number of "
                           f"{len(node.value)} characters)")  # fmt: skip
        return node


def _refuse_swollen(root: yaml.Node | None, where: str) -> None:
    """Refuse what is small only as long as its aliases are not followed: each counts with all that it stands for."""
    sizes: dict[int, int] = {}
    open_now: set[int] = set()
    waiting = [(root, False)] if root is not None else []
    while waiting:
        node, done = waiting.pop()
        inner = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        if done:
            open_now.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes.get(id(part), 0) for part in inner)
            if sizes[id(node)] > _MOST_NODES:
                raise BadInput(f"{where}: over {_MOST_NODES} values where its aliases are followed")
        elif id(node) in open_now:
            raise BadInput(f"{where}, line {node.start_mark.line + 1}: an alias of what it is in")
        elif id(node) not in sizes:
            open_now.add(id(node))
            waiting.append((node, True))
            waiting += [(part, False) for part in inner if id(part) not in sizes]


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


def parse_json(text: str | bytes, where: str, constants: bool = False, bits: int = MOST_BITS) -> Any:
    """What a JSON text says.

    Args:
        constants: NaN and infinities, which JSON does not know but Python writes, are taken.
        bits: of the largest whole number.

    Raises:
        BadInput: no JSON, a key given twice, or nested deeper or with more values than anybody writes.
    """
    if len(text) > _MOST_JSON:
        raise BadInput(f"{where}: {len(text)} bytes; {_MOST_JSON} are the most")
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=None if constants else _no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not valid JSON ({str(error)[:80]})") from None
    refuse_overgrown(content, where, bits)
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        BadInput: as `read_text` and `parse_json`, or no mapping.
    """
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a mapping of keys to values")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice, 40)} is given twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")
