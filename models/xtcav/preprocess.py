"""The preprocessing chain of beam images."""

from __future__ import annotations

from typing import Any

import numpy as np


class Chain:
    """Named steps in order, with what they learned from the training rows.

    Attributes:
        input_shape: (H, W) of the raw images.
        output_shape: (h, w) after the steps.
    """

    input_shape: tuple[int, int]
    output_shape: tuple[int, int]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(n, H, W) raw -> (n, 1, h, w) float32."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Tensors and JSON values, ready for a snapshot."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Chain:
        raise NotImplementedError
