"""Conditional hyperparameters: which are active at a point, in what order they are drawn, what makes each active.

A condition is "each of these parameters has one of these values", so what makes a parameter active, its parents'
conditions among it, is again of that form: all questions here have exact answers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ground.errors import BadInput

if TYPE_CHECKING:
    from search_spaces.schema import Domain

Fail = Callable[[tuple[str, ...], str], BadInput]
"""An error about the entry at a path of keys."""


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, but true is not 1 and a list is compared by its items."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def is_active(domain: Domain, point: Mapping[str, Any]) -> bool:
    """Whether a parameter is active where `point` holds its active parents and nothing inactive."""
    return all(
        parent in point and any(same(point[parent], value) for value in values)
        for parent, values in domain.when.items()
    )


def ordered(space: Mapping[str, Domain]) -> list[str]:
    """The parameters, each after those it depends on, else in the space's own order.

    Raises:
        BadInput: the conditions go in a circle.
    """
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise BadInput(f"the conditions go in a circle: {circle}")
        if name not in done:
            for parent in space[name].when:
                if parent in space:
                    visit(parent, (*path, name))
            done.append(name)

    for name in space:
        visit(name, ())
    return done


def prune(space: Mapping[str, Domain], point: Mapping[str, Any]) -> dict[str, Any]:
    """The active parameters of a point, in the space's order."""
    active: dict[str, Any] = {}
    for name in ordered(space):
        if name in point and is_active(space[name], active):
            active[name] = point[name]
    return {name: active[name] for name in space if name in active}


def requirements(space: Mapping[str, Domain], name: str) -> dict[str, list[Any]]:
    """The values that each ancestor may have for `name` to be active; an empty list: there are none."""
    allowed: dict[str, list[Any]] = {}
    waiting, seen = [name], {name}
    while waiting:
        for parent, values in space[waiting.pop(0)].when.items():
            before = allowed.get(parent)
            allowed[parent] = [v for v in values if before is None or any(same(v, b) for b in before)]
            if parent in space and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return allowed


def corners(space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """For each end of each range and each option of each choice: that value, and parents' values that activate it."""
    order = ordered(space)
    for name, domain in space.items():
        allowed = requirements(space, name)
        parents = {parent: allowed[parent][0] for parent in order if parent in allowed}
        for value in domain.ends():
            yield {**parents, name: value}


def decide(space: Mapping[str, Domain], fixed: Mapping[str, Any]) -> dict[str, Domain]:
    """The space once some settings are fixed: conditions on them are settled, what they rule out is left out."""
    kept: dict[str, Domain] = {}
    for name in ordered(space):
        domain = space[name]
        searched = {parent: values for parent, values in domain.when.items() if parent in space}
        settled = {parent: values for parent, values in domain.when.items() if parent not in space}
        if all(parent in kept for parent in searched) and is_active(replace(domain, when=settled), fixed):
            kept[name] = replace(domain, when=searched)
    return {name: kept[name] for name in space if name in kept}


def check(space: Mapping[str, Domain], fixed: Mapping[str, Any], fail: Fail) -> None:
    """Refuse conditions that mean nothing.

    Raises:
        BadInput: a condition on an unknown parameter, on one of a kind that has no single values, on a value that it
            never takes; a circle; a parameter that can never be active.
    """
    for name, domain in space.items():
        for parent, values in domain.when.items():
            at = ("space", name, "when", parent)
            if parent in fixed:
                if not any(same(fixed[parent], value) for value in values):
                    raise fail(at, f"{name} can never be active: {parent} is fixed to {fixed[parent]!r}")
                continue
            if parent not in space:
                known = [str(key) for key in (*space, *fixed) if key != name]
                near = difflib.get_close_matches(parent, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise fail(at, f"{name}: its condition names the unknown parameter {parent!r}{hint}")
            above = space[parent]
            if above.kind != "choice" and not above.integer:
                raise fail(at, f"{name}: a condition needs a choice or an integer parameter; {parent} is {above.kind}")
            for value in values:
                if not above.contains(value):
                    raise fail(at, f"{name}: {parent} never has the value {value!r}; {_takes(above, value)}")
    for name in space:
        try:
            ordered({key: space[key] for key in _ancestors(space, name)})
        except BadInput as error:
            raise fail(("space", name, "when"), f"{name}: {error}") from None
    for name in space:
        for parent, allowed in requirements(space, name).items():
            if not allowed:
                raise fail(
                    ("space", name, "when"),
                    f"{name} can never be active: no value of {parent} meets all its conditions",
                )


def _ancestors(space: Mapping[str, Domain], name: str) -> list[str]:
    return [name, *(parent for parent in requirements(space, name) if parent in space and parent != name)]


def _takes(domain: Domain, value: Any) -> str:
    if domain.kind != "choice":
        return f"it runs from {int(domain.low)} to {int(domain.high) - 1}"
    options = [str(option) for option in domain.options]
    near = difflib.get_close_matches(str(value), options, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(options)}"
