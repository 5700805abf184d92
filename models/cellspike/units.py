"""What a unit parameter means: three conventions of the field as one table of numbers.

| convention | physical value |
| --- | --- |
| ONTRA | p = base · 10^u with base = sqrt(lo · hi); over many cells u* = (u + log10 base − centP) / delP |
| centred (BBP3) | p = centre · 10^(half · u), or centre + half · u for linear parameters |
| ranged (2024 and later) | x = (lo + hi)/2 + u (hi − lo)/2; p = base · 10^x, or p = x for linear parameters |

u* means the same conductance in every cell: p = 10^(u* · delP + centP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ground.errors import BadInput


@dataclass(frozen=True, eq=False)
class Units:
    """How the unit parameters of one cell mean conductances; arrays are (P,) float64 (`linear` boolean).

    Attributes:
        names: of the parameters.
        bias, scale: u* = (u − bias) / scale; bias = centP − log10 base and scale = delP, or 0 and 1 where there is
            no u*.
        centre, half: p = centre · 10^(half · u), or centre + half · u where `linear`.
        linear: which parameters are no logarithms.
        units: the physical unit of each, "" where unknown.

    Raises:
        BadInput: not finite, a scale or half of 0, or a logarithm of something not positive.
    """

    names: tuple[str, ...]
    bias: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    linear: np.ndarray
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in ("bias", "scale", "centre", "half"):
            values = np.asarray(getattr(self, key), np.float64)
            if values.shape != (len(self.names),):
                raise BadInput(f"unit parameters: {values.size} numbers ({key}) for {len(self.names)} names")
            for name, value in zip(self.names, values, strict=True):
                if not np.isfinite(value) or (value == 0 and key in ("scale", "half")):
                    raise BadInput(f"unit parameter {name}: {key} is {value:g}")
            object.__setattr__(self, key, values)
        object.__setattr__(self, "linear", np.asarray(self.linear, bool))
        if self.linear.shape != (len(self.names),) or len(self.units) != len(self.names):
            raise BadInput(
                f"unit parameters: {self.linear.size} kinds, {len(self.units)} units, {len(self.names)} names"
            )
        for name, linear, centre in zip(self.names, self.linear, self.centre, strict=True):
            if not linear and centre <= 0:
                raise BadInput(f"unit parameter {name}: base {centre:g} has no logarithm; is it a linear one?")

    @classmethod
    def ontra(
        cls,
        names: Sequence[str],
        ranges: Sequence[Sequence[float]] | np.ndarray,
        cent: Sequence[float] | np.ndarray | None = None,
        delta: Sequence[float] | np.ndarray | None = None,
        units: Sequence[str] | None = None,
    ) -> Units:
        """One cell of many.

        Args:
            names: (P,).
            ranges: (P, 2) of `physRange`, lo and hi.
            cent, delta: (P,) centP and delP of the set of cells (None: there is no u*).
        """
        base = bases(names, ranges)
        ones = np.ones(len(base))
        bias = 0 * ones if cent is None else np.asarray(cent, np.float64) - np.log10(base)
        scale = ones if delta is None else np.asarray(delta, np.float64)
        return cls(tuple(names), bias, scale, base, ones, 0 * ones, _filled(units, names))

    @classmethod
    def centred(cls, names: Sequence[str], rows: Sequence[Sequence[Any]], linear: Sequence[int]) -> Units:
        """`phys_par_range` of BBP3 packs: [centre, half] or [centre, half, unit] a parameter, `linearParIdx`."""
        centre, half = _columns(names, rows)
        # some files say here what half is a half of, which is no unit
        units = [str(row[2]) if len(row) > 2 and "range" not in str(row[2]) else "" for row in rows]
        return cls(tuple(names), *_no_star(names), centre, half, _at(names, linear), tuple(units))

    @classmethod
    def ranged(
        cls, names: Sequence[str], rows: Sequence[Sequence[Any]], base: Sequence[float], linear: Sequence[str]
    ) -> Units:
        """`phys_par_range` of files since 2024: [lo, hi] or [lo, hi, unit] a parameter.

        Args:
            base: `base_values` (P,); not looked at for linear parameters.
            linear: the names of those.
        """
        low, high = _columns(names, rows)
        if len(base) != len(names):
            raise BadInput(f"unit parameters: {len(base)} base values for {len(names)} names")
        is_linear = np.array([name in set(linear) for name in names], bool)
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            centre = np.where(is_linear, middle, np.asarray(base, np.float64) * 10.0**middle)
        units = [str(row[2]) if len(row) > 2 else "" for row in rows]
        return cls(tuple(names), *_no_star(names), centre, (high - low) / 2, is_linear, tuple(units))

    @property
    def has_star(self) -> bool:
        """Whether u* is anything else than u."""
        return bool((self.bias != 0).any() or (self.scale != 1).any())

    def star(self, u: np.ndarray) -> np.ndarray:
        """u* of u, both (N, P) or (P,)."""
        return (np.asarray(u, np.float64) - self.bias) / self.scale

    def unit(self, ustar: np.ndarray) -> np.ndarray:
        """u of u*."""
        return np.asarray(ustar, np.float64) * self.scale + self.bias

    def physical(self, u: np.ndarray) -> np.ndarray:
        """p of u."""
        x = self.half * np.asarray(u, np.float64)
        return np.where(self.linear, self.centre + x, self.centre * 10.0 ** np.where(self.linear, 0, x))

    def from_physical(self, p: np.ndarray) -> np.ndarray:
        """u of p.

        Raises:
            BadInput: a logarithmic parameter is not positive.
        """
        p = np.asarray(p, np.float64)
        wrong = ~(p > 0) & ~self.linear
        if wrong.any():
            raise BadInput(
                f"parameter {self.names[int(np.argwhere(wrong)[0][-1])]} is not positive: no logarithm of it"
            )
        ratio = np.where(self.linear, 1.0, p) / np.where(self.linear, 1.0, self.centre)
        return np.where(self.linear, p - self.centre, np.log10(ratio)) / self.half

    def take(self, indices: Sequence[int]) -> Units:
        """Of these parameters only."""
        at = list(indices)
        return Units(
            tuple(self.names[i] for i in at),
            self.bias[at],
            self.scale[at],
            self.centre[at],
            self.half[at],
            self.linear[at],
            tuple(self.units[i] for i in at),
        )

    def as_dict(self) -> dict[str, list[Any]]:
        """JSON values that `of` takes."""
        numbers = {key: getattr(self, key).tolist() for key in ("bias", "scale", "centre", "half", "linear")}
        return {"names": list(self.names), **numbers, "units": list(self.units)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Units:
        """What `as_dict` gave."""
        try:
            bias, scale, centre, half, linear = (
                np.asarray(content[key]) for key in ("bias", "scale", "centre", "half", "linear")
            )
            return cls(tuple(content["names"]), bias, scale, centre, half, linear, tuple(content["units"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"unit parameters: unreadable ({error})") from None


def bases(names: Sequence[str], ranges: Sequence[Sequence[Any]] | np.ndarray) -> np.ndarray:
    """The bases sqrt(lo · hi) (P,) of conductances known by their ranges.

    Raises:
        BadInput: a range that is not 0 < lo <= hi.
    """
    low, high = _columns(names, ranges)
    for name, lo, hi in zip(names, low, high, strict=True):
        if not (0 < lo <= hi < np.inf):
            raise BadInput(f"unit parameter {name}: physical range [{lo:g}, {hi:g}] has no base (0 < lo <= hi)")
    # of roots: the product of tiny conductances need not be a float
    return np.sqrt(low) * np.sqrt(high)


def _columns(names: Sequence[str], rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first two numbers of each row."""
    try:
        table = np.array([[float(row[0]), float(row[1])] for row in rows]).reshape(-1, 2)
    except (TypeError, ValueError, IndexError):
        raise BadInput("unit parameters: a range is not two numbers") from None
    if len(table) != len(names):
        raise BadInput(f"unit parameters: {len(table)} ranges for {len(names)} names")
    return table[:, 0], table[:, 1]


def _no_star(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(names)), np.ones(len(names))


def _at(names: Sequence[str], indices: Sequence[int]) -> np.ndarray:
    flags = np.zeros(len(names), bool)
    for index in indices:
        if not 0 <= index < len(names):
            raise BadInput(f"unit parameters: linear index {index}, but there are {len(names)}")
        flags[index] = True
    return flags


def _filled(units: Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(units) if units is not None else ("",) * len(names)
