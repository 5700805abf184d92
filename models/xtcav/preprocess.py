"""The preprocessing chain of beam images and scalars, fitted once on training rows and kept with each model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ground.errors import BadInput
from models.xtcav.steps import Downsample, ParityMean, Step, make_step

RawStream = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Begins one pass over rows: (raw images (n, H, W), labels (n,))."""
_EPS = 1e-6  # beside a standard deviation, as the original whitens


class Chain:
    """Named steps in order, with what they learned from the training rows.

    Args:
        steps: names or {name: value}, see `steps.py`.
        input_shape: (H, W) of the raw images.

    Attributes:
        output_shape: (h, w) after the steps.
        scalar_mean, scalar_std: (S,) of the training rows' scalars.

    Raises:
        BadInput: unknown steps or wrong values.
    """

    def __init__(self, steps: Sequence[Any], input_shape: tuple[int, int]) -> None:
        self.steps: list[Step] = [make_step(given) for given in steps]
        self.input_shape = (int(input_shape[0]), int(input_shape[1]))
        shape = self.input_shape
        for step in self.steps:
            shape = step.shape(shape)
        self.output_shape = shape
        self.scalar_mean, self.scalar_std = np.zeros(0, np.float32), np.zeros(0, np.float32)
        if any(isinstance(step, ParityMean) for step in self.steps[:-1]):
            raise BadInput("preprocess step parity_mean depends on the batch, so it must be the last one")

    @property
    def sources(self) -> set[str]:
        """Whose rows are needed to fit: "train", "dark"."""
        return {step.source for step in self.steps if step.fitted}

    def fit(self, streams: Mapping[str, RawStream]) -> Chain:
        """Learn, step by step, each after those before it: one pass over the rows for each step that learns.

        Args:
            streams: the rows of each of `sources`.
        """
        for number, step in enumerate(self.steps):
            if step.fitted:
                raw = streams[step.source]

                def stream(raw: RawStream = raw, until: int = number) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                    return ((self._through(images, until), labels) for images, labels in raw())

                step.fit(stream)
        return self

    def fit_scalars(self, scalars: np.ndarray) -> None:
        """Learn the scale of the scalars (n, S) of the training rows; NaN is left out."""
        present = np.isfinite(scalars)
        count = np.maximum(present.sum(0), 1)
        filled = np.where(present, scalars, 0).astype(np.float64)
        mean = filled.sum(0) / count
        std = np.sqrt((np.where(present, scalars - mean, 0.0) ** 2).sum(0) / count)
        self.scalar_mean, self.scalar_std = mean.astype(np.float32), (std + _EPS).astype(np.float32)

    def scalars(self, raw: np.ndarray) -> np.ndarray:
        """(n, S) float32 standardised; an absent one is the training mean."""
        if raw.shape[1] != len(self.scalar_mean):
            raise BadInput(f"{raw.shape[1]} scalars given, {len(self.scalar_mean)} were trained on")
        return np.nan_to_num((raw - self.scalar_mean) / self.scalar_std).astype(np.float32)

    @property
    def batch_dependent(self) -> bool:
        """Whether a row's result depends on its batch mates (parity_mean)."""
        return bool(self.steps) and isinstance(self.steps[-1], ParityMean)

    def rows(self, images: np.ndarray) -> np.ndarray:
        """(n, H, W) raw -> (n, h, w) float32: all steps that see one row at a time."""
        if images.shape[1:] != self.input_shape:
            (h, w), (a, b) = self.input_shape, images.shape[1:]
            raise BadInput(f"images are {a}x{b}, the preprocessing was fitted on {h}x{w}")
        return self._through(images, len(self.steps) - self.batch_dependent)

    def batch(self, images: np.ndarray) -> np.ndarray:
        """The rest of the chain, on a whole batch that has been through `rows`."""
        return self.steps[-1](images) if self.batch_dependent else images

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(n, H, W) raw -> (n, 1, h, w) float32."""
        return self.batch(self.rows(images))[:, None]

    def _through(self, images: np.ndarray, until: int) -> np.ndarray:
        # downsample widens on its own, on fewer pixels at a time
        owned = until > 0 and isinstance(self.steps[0], Downsample)
        x = images if owned else images.astype(np.float32)
        for step in self.steps[:until]:
            x = step(x)
        return x

    def state(self) -> dict[str, Any]:
        """Tensors and JSON values, ready for a snapshot."""

        def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
            return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

        return {
            "input_shape": list(self.input_shape),
            "steps": [{"name": s.name, "value": _plain(s.value), "arrays": tensors(s.arrays)} for s in self.steps],
            "scalars": tensors({"mean": self.scalar_mean, "std": self.scalar_std}),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Chain:
        """The chain of which `state` was taken."""
        steps = [s["name"] if s["value"] is None else {s["name"]: s["value"]} for s in state["steps"]]
        height, width = state["input_shape"]
        chain = cls(steps, (height, width))
        for step, saved in zip(chain.steps, state["steps"], strict=True):
            step.arrays = {name: np.asarray(tensor) for name, tensor in saved["arrays"].items()}
        chain.scalar_mean, chain.scalar_std = (np.asarray(state["scalars"][name]) for name in ("mean", "std"))
        return chain

    def digest(self) -> str:
        """Equal for chains that do the same."""
        found = hashlib.sha256(repr((self.input_shape, [(s.name, _plain(s.value)) for s in self.steps])).encode())
        arrays = [array for step in self.steps for _, array in sorted(step.arrays.items())]
        for array in (*arrays, self.scalar_mean, self.scalar_std):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
