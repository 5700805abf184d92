"""What a search space file may say, read with errors that name the line.

    family: ndt
    data: {dataset: mc_maze_small}
    fixed: {MODEL.NUM_LAYERS: 4}
    space:
      MODEL.DROPOUT: {uniform: [0.3, 0.7]}
      TRAIN.LR.INIT: {loguniform: [1.0e-5, 5.0e-3]}
      MODEL.CONTEXT_FORWARD: {randint: [10, 100]}      # the upper bound is exclusive
      MODEL.DECODER.LAYERS: {choice: [1, 2]}
    budget: {samples: 120, keep: 60}

A choice's options are text, numbers, true, false, null or lists of these. `when` makes a parameter conditional on
choices and integer parameters of the same space: it is searched only where each of them has one of the values given.

      optimizer: {choice: [adam, sgd]}
      momentum: {uniform: [0, 1], when: {optimizer: sgd}}
      layers: {choice: [[64, 128], [32, 32, 32]]}
      mix: {choice: [null, sum], when: {layers: [[32, 32, 32]], optimizer: [adam, sgd]}}

Conditions may chain (a parameter is active only if its parents are), but not circle. One on a fixed setting must be
met there, and is settled when the file is read.

The published JSON spaces and nested YAML templates of AESMTE3 load as they are.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ground import documents, schemas
from ground.errors import BadInput
from ground.limits import shown
from search_spaces import conditions
from search_spaces.conditions import decide, same

_HERE = Path(__file__).parent
EXTRA_FOLDERS = "CONCERT_SPACES"
"""Environment variable: further folders (separated as in PATH) of search space files."""
_LARGEST, _LARGEST_WHOLE = 1e300, 2**53  # so that differences of bounds are numbers, too
_MOST_OPTIONS, _MOST_CONDITIONS = 1000, 1000
Kind = Literal["uniform", "loguniform", "randint", "lograndint", "choice"]
KINDS: tuple[Kind, ...] = ("uniform", "loguniform", "randint", "lograndint", "choice")
_TOP = ("family", "description", "data", "fixed", "space", "budget")
_BUDGET = {"samples": 100, "keep": 60, "workers": None}
_MOST = 1_000_000
_MOST_DIMENSIONS = 300
RESERVED = frozenset(
    {"trial_id", "val_ckpt", "seconds", "status", "reason", "path", "step", "epoch", "number", "seed", "INIT"}
)
"""Names that no setting may have: columns of models.csv and a trial's own keys. INIT may be fixed, not searched: it
names the checkpoint that training starts from."""


@dataclass(frozen=True)
class Domain:
    """Where one hyperparameter may lie.

    Attributes:
        kind: how it is drawn.
        low, high: bounds; `high` is exclusive for the integer kinds.
        options: what a choice chooses from: JSON values.
        when: parent -> the values of it with which this parameter is active; empty: always.
    """

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    options: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # as JSON gives them back, so that a space is the same before and after its way through a study
        object.__setattr__(self, "options", tuple(_option(value) for value in self.options))
        object.__setattr__(self, "when", {k: tuple(_option(v) for v in values) for k, values in self.when.items()})
        if self.kind == "choice":
            if not self.options:
                raise BadInput("a choice needs at least one option")
            if len(self.options) > _MOST_OPTIONS:
                raise BadInput(f"a choice of {len(self.options)} options; {_MOST_OPTIONS} are the most")
            return
        if not all(-_LARGEST <= bound <= _LARGEST for bound in (self.low, self.high)):
            raise BadInput("bounds must be finite numbers")
        if self.integer and max(abs(self.low), abs(self.high)) > _LARGEST_WHOLE:
            raise BadInput(f"{self.kind} bounds must be at most {_LARGEST_WHOLE}")
        if self.low >= self.high:
            raise BadInput(f"the lower bound {self.low:g} is not below the upper bound {self.high:g}")
        if self.kind in ("loguniform", "lograndint") and self.low <= 0:
            raise BadInput(f"a {self.kind} range must be above zero, not from {self.low:g}")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise BadInput(f"{self.kind} bounds must be whole numbers")

    @property
    def integer(self) -> bool:
        return self.kind in ("randint", "lograndint")

    @property
    def log(self) -> bool:
        return self.kind in ("loguniform", "lograndint")

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(same(option, value) for option in self.options)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.integer:
            return value == int(value) and self.low <= value < self.high
        return self.low <= value <= self.high

    def position(self, value: Any) -> int:
        """Which option of a choice `value` is.

        Raises:
            ValueError: none.
        """
        for index, option in enumerate(self.options):
            if same(option, value):
                return index
        raise ValueError(f"{value!r} is none of the options")

    def ends(self) -> tuple[Any, ...]:
        """The smallest and the largest value, or every option."""
        if self.kind == "choice":
            return self.options
        if self.integer:
            return (int(self.low), int(self.high) - 1)
        return (self.low, self.high)

    def canonical(self, value: Any) -> Any:
        """A value of this domain in the one form that it always has: 3.0 as 3 among integers, an option as given."""
        if self.kind == "choice":
            return self.options[self.position(value)]
        return int(value) if self.integer else float(value)

    def read(self, cell: Any) -> Any:
        """The value that a cell of a table means, in which null is empty, and lists and mixed types are text."""
        value = cell.item() if hasattr(cell, "item") else cell
        if self.kind == "choice":
            if isinstance(value, float) and math.isnan(value):
                value = None
            meant = [o for o in self.options if same(o, value)] or [o for o in self.options if str(o) == value]
            return meant[0] if meant else value
        return int(value) if self.integer and isinstance(value, float) and value.is_integer() else value

    def to_json(self) -> dict[str, Any]:
        values = list(self.options) if self.kind == "choice" else [self.low, self.high]
        entry: dict[str, Any] = {self.kind: values}
        return {**entry, "when": {k: list(v) for k, v in self.when.items()}} if self.when else entry

    @classmethod
    def from_json(cls, entry: Any) -> Domain:
        """What `to_json` wrote, or what a file says in that form.

        Raises:
            BadInput: it makes no domain.
        """
        if not isinstance(entry, Mapping) or not set(entry) - {"when"}:
            raise BadInput(f"expected one of {', '.join(KINDS)} with its bounds, not {shown(entry)}")
        kinds = [key for key in entry if key in KINDS]
        others = [key for key in entry if key not in (*KINDS, "when")]
        if others:
            known = ("when",) if kinds else KINDS
            near = difflib.get_close_matches(str(others[0])[:80], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise BadInput(f"unknown {'key' if kinds else 'kind'} {shown(others[0])}; {hint}")
        if len(kinds) > 1:
            raise BadInput(f"expected one of {', '.join(KINDS)}, not both {kinds[0]} and {kinds[1]}")
        kind, arguments, when = cast(Kind, kinds[0]), entry[kinds[0]], _when(entry)
        if not isinstance(arguments, list):
            raise BadInput(f"{kind} takes a list")
        if kind == "choice":
            return cls("choice", options=tuple(arguments), when=when)
        if len(arguments) != 2 or not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in arguments):
            raise BadInput(f"{kind} takes two numbers, not {shown(arguments)}")
        return cls(kind, arguments[0], arguments[1], when=when)


def _option(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_option(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise BadInput(f"{shown(value)} is no option: text, numbers, true, false, null and lists of these are")


def _when(entry: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The conditions of an entry; one value stands for a list of it."""
    when = entry.get("when", {})
    if not isinstance(when, Mapping) or ("when" in entry and not when):
        raise BadInput(f"when takes parameters and their values, as in {{optimizer: sgd}}, not {shown(when)}")
    long = [parent for parent, values in when.items() if isinstance(values, list) and len(values) > _MOST_OPTIONS]
    if long:
        raise BadInput(f"when {shown(long[0], 40)} has more than {_MOST_OPTIONS} values")
    empty = [parent for parent, values in when.items() if values == []]
    if empty:
        raise BadInput(f"when {empty[0]} has what value? The list is empty")
    return {str(parent): tuple(v) if isinstance(v, list) else (v,) for parent, v in when.items()}


def _count(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"a whole number above zero is wanted, at most {_MOST}, not {shown(value)}")
    return value


Count = Annotated[int, BeforeValidator(_count)]


class _Budget(BaseModel):
    """How long to search, where a command does not say."""

    model_config = ConfigDict(extra="forbid")
    samples: Count = 100
    keep: Count = 60
    workers: Count | None = None


class _Top(BaseModel):
    """The top level of a search space file."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)
    family: schemas.Name
    description: str = ""
    data: schemas.Table = {}
    fixed: schemas.Table = {}
    space: dict[schemas.Name, Any]
    budget: _Budget = _Budget()


@dataclass(frozen=True)
class SearchSpace:
    """One dataset's search: which family, on what data, what is fixed and what is searched.

    Attributes:
        space: what is searched; conditions on fixed settings are settled.
        declared: the same with all conditions, for who fixes other settings (`decide` settles them again).
    """

    name: str
    family: str
    data: dict[str, Any]
    fixed: dict[str, Any]
    space: dict[str, Domain]
    budget: dict[str, Any] = field(default_factory=lambda: dict(_BUDGET))
    description: str = ""
    declared: dict[str, Domain] = field(default_factory=dict)


def names() -> list[str]:
    """The search spaces that come with Concert."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def _folders() -> list[Path]:
    return [_HERE, *(Path(part) for part in os.environ.get(EXTRA_FOLDERS, "").split(os.pathsep) if part)]


def load(name: str | Path) -> SearchSpace:
    """A search space by name or by the path of a YAML file.

    Raises:
        BadInput: unknown name (with the nearest), unreadable file, or a wrong entry (with its line).
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and path.is_file()):
        if not path.exists():
            raise BadInput(f"{path}: no such search space file")
    else:
        found = [folder / f"{name}.yaml" for folder in _folders() if (folder / f"{name}.yaml").is_file()]
        path = found[0] if found else path
        if not found:
            near = difflib.get_close_matches(str(name), names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
            raise BadInput(f"unknown dataset {str(name)!r}; {hint}")
    content, lines = read_yaml(path)

    def fail(keys: tuple[str, ...], message: str) -> BadInput:
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), 1)
        return BadInput(f"{path}, line {line}: {message}")

    _known(content, _TOP, (), fail)
    for key in ("family", "space"):
        if key not in content:
            raise fail((), f"missing {key!r}")
    for key in ("data", "fixed", "space", "budget"):
        if not isinstance(content.get(key) or {}, dict):
            raise fail((key,), f"{key} must be a mapping")
    if "budget" in content:
        _known(content["budget"] or {}, tuple(_BUDGET), ("budget",), fail)
    try:
        told = _Top.model_validate({key: value for key, value in content.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise fail(tuple(str(key) for key in first["loc"]), schemas.told(first)) from None
    if len(told.space) > _MOST_DIMENSIONS:
        raise fail(("space",), f"{len(told.space)} dimensions; {_MOST_DIMENSIONS} are the most")
    space: dict[str, Domain] = {}
    for key, value in told.space.items():
        try:
            _unreserved(key, searched=True)
            space[key] = Domain.from_json(_numbers(value))
        except BadInput as error:
            raise fail(("space", key), f"{key}: {error}") from None
    if sum(len(domain.when) for domain in space.values()) > _MOST_CONDITIONS:
        raise fail(("space",), f"more than {_MOST_CONDITIONS} conditions")
    if not space:
        raise fail(("space",), "the space is empty: there is nothing to search")
    budget = told.budget.model_dump()
    fixed = {key: _number(value) for key, value in (content.get("fixed") or {}).items()}
    for key in fixed:
        try:
            _unreserved(key, searched=False)
        except BadInput as error:
            raise fail(("fixed", key), str(error)) from None
    both = sorted(set(fixed) & set(space))
    if both:
        raise fail(("fixed", both[0]), f"{both[0]} is both fixed and searched")
    conditions.check(space, fixed, fail)
    return SearchSpace(
        path.stem,
        told.family,
        dict(content.get("data") or {}),
        fixed,
        decide(space, fixed),
        budget,
        told.description,
        space,
    )


def _known(content: Mapping[str, Any], known: tuple[str, ...], at: tuple[str, ...], fail: Any) -> None:
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:80], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise fail((*at, str(key)), f"unknown key {shown(key)}; {hint}")


def _number(value: Any) -> Any:
    """YAML reads 1e-5 (no point) as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _numbers(value: Any) -> Any:
    """`_number` of everything in a nested value."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else _number(value)


def _unreserved(name: str, searched: bool) -> None:
    if name == "INIT" and searched:
        raise BadInput("INIT can be fixed, not searched: it names the checkpoint that training starts from")
    if name in RESERVED - {"INIT"}:
        raise BadInput(f"{name} is a name that models.csv and trials use themselves; call the setting otherwise")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A YAML mapping and the line of each of its keys, by path.

    Raises:
        BadInput: not YAML, not a mapping, or a key given twice.
    """
    text = documents.read_text(path)
    content, node = documents.mapping(text, str(path)), documents.compose_yaml(text, str(path))
    lines: dict[tuple[str, ...], int] = {}

    def walk(at: Any, keys: tuple[str, ...]) -> None:
        if isinstance(at, yaml.MappingNode):
            for key, value in at.value:
                here = (*keys, str(key.value))
                if here in lines:
                    raise BadInput(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is given twice")
                lines[here] = key.start_mark.line + 1
                walk(value, here)

    walk(node, ())
    return content, lines


def read_point(space: Mapping[str, Domain], row: Mapping[str, Any]) -> dict[str, Any]:
    """The active hyperparameters of a row of models.csv, as far as it has them; inactive ones are empty there."""
    return conditions.prune(space, {name: domain.read(row[name]) for name, domain in space.items() if name in row})


def load_space_json(path: Path) -> dict[str, Domain]:
    """A published JSON space: {"MODEL.DROPOUT": {"low", "high", "sample_fn", "opts"}}.

    A missing `sample_fn` means uniform there; `opts` alone means a choice.

    Raises:
        BadInput: unreadable, or an entry that makes no range.
    """
    content = documents.parse_json(documents.read_text(path), str(path))
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path}: expected a mapping of settings to ranges")
    space: dict[str, Domain] = {}
    for key, entry in content.items():
        if not isinstance(entry, dict):
            raise BadInput(f"{path}: {key} must be a mapping")
        unknown = sorted(
            set(entry)
            - {"low", "high", "sample_fn", "opts", "resample_probability", "limits", "explore_wt", "enforce_limits"}
        )
        if unknown:
            raise BadInput(f"{path}: {key} has the unknown key {unknown[0]!r}")
        kind = entry.get("sample_fn") or ("choice" if "opts" in entry and "low" not in entry else "uniform")
        try:
            _unreserved(key, searched=True)
            if kind == "choice":
                space[key] = Domain("choice", options=tuple(entry.get("opts") or ()))
            elif kind in KINDS:
                space[key] = Domain(kind, float(entry["low"]), float(entry["high"]))
            else:
                raise BadInput(f"unknown sample_fn {kind!r}; there are {', '.join(KINDS)}")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            detail = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise BadInput(f"{path}: {key}: {detail}") from None
    return space


def load_template(path: Path) -> dict[str, Any]:
    """A published nested YAML template as dotted settings: {MODEL: {DROPOUT: .2}} -> {"MODEL.DROPOUT": .2}."""
    content, _ = read_yaml(path)
    flat: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(below, f"{prefix}.{key}" if prefix else str(key))
        else:
            flat[prefix] = _number(value) if prefix.split(".")[0] in ("MODEL", "TRAIN") else value

    walk(content, "")
    return flat
