"""What is made of a file's voxels before the network sees them: the original program's `transforms`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.limits import shown

PLANES = 3
_KEYS = ("coord_lim", "z_segments", "noise", "round", "scale")


@dataclass(frozen=True)
class Transforms:
    """Steps in the order in which they are done.

    Attributes:
        coord_lim: (low, high) that x, y, z lie within, high exclusive; None: any. In training only.
        z_segments: upper bounds of z: a feature for each says whether z lies below it, but not below the one before.
        noise: mean and standard deviation of what is added to each plane's charge; None: nothing.
        round: decimals that charges are rounded to; None: not at all.
        scale: what the truth is multiplied by, for all files or for those of each path.
    """

    coord_lim: tuple[tuple[float, float] | None, ...] = ()
    z_segments: tuple[float, ...] = ()
    noise: tuple[float, float] | None = None
    round: int | None = None
    scale: tuple[float, ...] = (1.0,)

    @property
    def features(self) -> int:
        """How many features a voxel has."""
        return PLANES + len(self.z_segments)

    def inside(self, coords: np.ndarray) -> np.ndarray | None:
        """(N,) which of the voxels (N, 3) training uses; None: all."""
        if not any(self.coord_lim):
            return None
        kept = np.ones(len(coords), bool)
        for axis, limits in enumerate(self.coord_lim):
            if limits is not None:
                kept &= (coords[:, axis] >= limits[0]) & (coords[:, axis] < limits[1])
        return kept

    def charges(self, coords: np.ndarray, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(N, features) float32 from coordinates (N, 3) and the planes' charges (N, 3)."""
        out = np.asarray(planes, np.float32)
        if self.noise is not None:
            out = out + rng.normal(*self.noise, out.shape).astype(np.float32)
        if self.round is not None:
            out = np.round(out, self.round)
        if not self.z_segments:
            return out
        bounds = np.asarray(self.z_segments)
        below = coords[:, 2:] < bounds
        before = np.concatenate([np.zeros((len(coords), 1), bool), below[:, :-1]], 1)
        return np.concatenate([out, (below & ~before).astype(np.float32)], 1)

    def truth_factor(self, folder: int) -> float:
        """What the truth of files of the path number `folder` is multiplied by."""
        return self.scale[0] if len(self.scale) == 1 else self.scale[folder]

    def to_json(self) -> dict[str, Any]:
        """What `parse` takes."""
        return {
            "coord_lim": [None if limits is None else list(limits) for limits in self.coord_lim],
            "z_segments": list(self.z_segments),
            "noise": None if self.noise is None else {"mean": self.noise[0], "sd": self.noise[1]},
            "round": self.round,
            "scale": list(self.scale),
        }


def parse(given: Any, paths: int) -> Transforms:
    """The transforms of a data block.

    Args:
        given: a mapping, or None.
        paths: how many paths the block names: a scale may be a list of as many.

    Raises:
        BadInput: an unknown step or a value that it cannot take.
    """
    if given is None:
        return Transforms()
    if not isinstance(given, Mapping):
        raise BadInput(f"transforms is {shown(given)}; it takes a mapping of {', '.join(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise BadInput(f"unknown transform {shown(key).strip(chr(39))}; known are {', '.join(_KEYS)}")
    values: dict[str, Any] = {}
    if given.get("coord_lim"):
        values["coord_lim"] = _limits(given["coord_lim"])
    if given.get("z_segments"):
        values["z_segments"] = tuple(_numbers("z_segments", given["z_segments"]))
        if list(values["z_segments"]) != sorted(set(values["z_segments"])):
            raise BadInput(f"transform z_segments is {shown(given['z_segments'])}; its upper bounds rise")
    if given.get("noise") is not None:
        noise = given["noise"]
        if not isinstance(noise, Mapping) or set(noise) != {"mean", "sd"}:
            raise BadInput(f"transform noise is {shown(noise)}; it takes {{mean: 0, sd: 10}}")
        mean, deviation = _numbers("noise", [noise["mean"], noise["sd"]])
        if deviation < 0:
            raise BadInput(f"transform noise has sd {deviation:g}; it is at least 0")
        values["noise"] = (mean, deviation)
    if given.get("round") is not None:
        (decimals,) = _numbers("round", [given["round"]])
        if decimals != int(decimals):
            raise BadInput(f"transform round is {decimals:g}; it takes a whole number of decimals")
        values["round"] = int(decimals)
    if given.get("scale") is not None:
        scale = given["scale"] if isinstance(given["scale"], (list, tuple)) else [given["scale"]]
        values["scale"] = tuple(_numbers("scale", scale))
        if len(values["scale"]) not in (1, paths):
            raise BadInput(f"transform scale has {len(values['scale'])} factors for {paths} paths")
    return Transforms(**values)


def _limits(given: Any) -> tuple[tuple[float, float] | None, ...]:
    wrong = BadInput(f"transform coord_lim is {shown(given)}; it takes [low, high] or null for x, y, z")
    if not isinstance(given, (list, tuple)) or len(given) > PLANES:
        raise wrong
    out: list[tuple[float, float] | None] = []
    for limits in given:
        if limits is None:
            out.append(None)
            continue
        if not isinstance(limits, (list, tuple)) or len(limits) != 2:
            raise wrong
        low, high = _numbers("coord_lim", limits)
        if low >= high:
            raise wrong
        out.append((low, high))
    return tuple(out)


def _numbers(name: str, given: Any) -> Sequence[float]:
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in given
    ):
        raise BadInput(f"transform {name} is {shown(given)}; it takes numbers")
    return [float(v) for v in given]
