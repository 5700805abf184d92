"""The steps of a preprocessing chain: each takes images (n, H, W) float32 and gives images.

What a step learns (`fit`) is learned from training rows only; `arrays` holds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ground.errors import BadInput

Stream = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Begins one pass over the training rows: (images (n, H, W) float32 after the steps before, labels (n,))."""
_FEW = 64  # rows that a median is taken of: they must all be in memory


class Step:
    """A step without anything to learn; `value` is what the data block gave it."""

    default: Any = None
    fitted = False
    source = "train"
    """Whose rows `fit` wants: "train" or "dark" files."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, self.default if value is None else value
        self.arrays: dict[str, np.ndarray] = {}
        self.check()

    def check(self) -> None:
        if self.value is not None:
            raise BadInput(f"preprocess step {self.name} takes no value, not {self.value!r}")

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(h, w) after the step."""
        return shape

    def fit(self, stream: Stream) -> None:
        """Learn from training rows."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The step; it may change `x`."""
        raise NotImplementedError


class Log(Step):
    """ln(max(x, 1)), as h5-mlearn-minibatch."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        np.maximum(x, 1, out=x)
        return np.log(x, out=x)


class LogClip(Step):
    """ln(1 + max(0, x)), as the first report (February 2016)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        np.maximum(x, 0, out=x)
        return np.log1p(x, out=x)


class Log100(Step):
    """x up to 100, 100 + ln(1 + x - 100) above, as before the VGG16 transfer."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        above = np.maximum(x - 100, 0)
        np.minimum(x, 100, out=x)
        x += np.log1p(above, out=above)
        return x


class Dark(Step):
    """Minus a background image.

    files: the mean of the `dark` files. lasing_free: the mean of the training rows of label 0. train: the median of
    64 training rows, pixel by pixel, for beams that move.
    """

    default, fitted = "files", True

    def check(self) -> None:
        _one_of(self, ("files", "lasing_free", "train"))
        self.source = "dark" if self.value == "files" else "train"

    def fit(self, stream: Stream) -> None:
        if self.value == "train":
            held: list[np.ndarray] = []
            for x, _ in stream():
                held.extend(x[: _FEW - len(held)].copy())
                if len(held) == _FEW:
                    break
            self.arrays["image"] = np.median(np.stack(held), 0).astype(np.float32)
            return
        free = self.value == "lasing_free"
        self.arrays["image"] = _mean_image(((x[y == 0] if free else x) for x, y in stream()), self.name)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x -= self.arrays["image"]
        return x


class Mean(Step):
    """Minus the mean over training rows: pixel by pixel (`image`) or one number (`scalar`)."""

    default, fitted = "image", True

    def check(self) -> None:
        _one_of(self, ("image", "scalar"))

    def fit(self, stream: Stream) -> None:
        mean = _mean_image((x for x, _ in stream()), self.name)
        self.arrays["mean"] = (
            mean if self.value == "image" else np.full((1, 1), mean.mean(dtype=np.float64), np.float32)
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x -= self.arrays["mean"]
        return x


class ParityMean(Step):
    """Minus the mean of the minibatch itself, as h5-mlearn-minibatch: a prediction then depends on its batch mates.

    Offered only to repeat what was published; it must be the last step.
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x -= x.mean(0, dtype=np.float64).astype(np.float32)
        return x


class Clip(Step):
    """Limits: [lowest, highest]."""

    def check(self) -> None:
        if not isinstance(self.value, (list, tuple)) or len(self.value) != 2 or not all(map(_number, self.value)):
            raise BadInput(f"preprocess step clip takes [lowest, highest], not {self.value!r}")
        if self.value[0] >= self.value[1]:
            raise BadInput(f"preprocess step clip: {self.value[0]} is not below {self.value[1]}")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x, self.value[0], self.value[1], out=x)


class Standardise(Step):
    """(x - mean) / (std + 1e-6) over training rows: of all pixels (`all`) or each `pixel` by itself."""

    default, fitted = "all", True

    def check(self) -> None:
        _one_of(self, ("all", "pixel"))

    def fit(self, stream: Stream) -> None:
        count = 0
        for x, _ in stream():
            if not count:
                # sums about a typical image: squares of large numbers would lose the variance
                shift = x[0].astype(np.float64)
                total, squares = np.zeros_like(shift), np.zeros_like(shift)
            away = x - shift
            count += len(x)
            total += away.sum(0)
            squares += np.square(away, out=away).sum(0)
        if not count:
            raise BadInput("preprocess step standardise has no training rows to learn from")
        mean, power = total / count, squares / count
        variance = np.maximum(power - mean**2, 0)
        mean = mean + shift
        if self.value == "all":
            overall = mean.mean()
            variance = np.full((1, 1), (variance + (mean - overall) ** 2).mean())
            mean = np.full((1, 1), overall)
        self.arrays = {"mean": mean.astype(np.float32), "std": (np.sqrt(variance) + 1e-6).astype(np.float32)}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x -= self.arrays["mean"]
        x /= self.arrays["std"]
        return x


class Downsample(Step):
    """The mean of k x k pixels; rows and columns that are left over at the end are dropped."""

    default = 2

    def check(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 1:
            raise BadInput(f"preprocess step downsample takes a whole number above 0, not {self.value!r}")

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        if min(shape) < self.value:
            raise BadInput(
                f"preprocess step downsample: {self.value} is more than an image of {shape[0]}x{shape[1]} has"
            )
        return shape[0] // self.value, shape[1] // self.value

    def __call__(self, x: np.ndarray) -> np.ndarray:
        k = self.value
        height, width = x.shape[1] // k * k, x.shape[2] // k * k
        # sums of strided slices: a reshape and a mean over two axes takes three times as long
        tall = x[:, 0:height:k].astype(np.float32)
        for i in range(1, k):
            tall += x[:, i:height:k]
        small = tall[:, :, 0:width:k].copy()
        for i in range(1, k):
            small += tall[:, :, i:width:k]
        small *= np.float32(1 / k**2)
        return small


class Centre(Step):
    """The image moved by whole pixels so that the centre of what is bright lies in the middle.

    Bright is what exceeds the mean of the image by a standard deviation. With [h, w] a window of that size is cut out
    about the centre, as far as the image reaches; without, what moves in from outside is the image's median.
    """

    def check(self) -> None:
        whole = isinstance(self.value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in self.value)
        if self.value is not None and not (whole and len(self.value) == 2):
            raise BadInput(f"preprocess step centre takes nothing or [rows, columns], not {self.value!r}")

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        if self.value is None:
            return shape
        if self.value[0] > shape[0] or self.value[1] > shape[1]:
            raise BadInput(
                f"preprocess step centre: {list(self.value)} is larger than an image of {shape[0]}x{shape[1]}"
            )
        return int(self.value[0]), int(self.value[1])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        height, width = x.shape[1:]
        tall, wide = self.shape((height, width))
        out = np.empty((len(x), tall, wide), np.float32)
        for image, moved in zip(x, out, strict=True):
            bright = np.maximum(image - (image.mean() + image.std()), 0)
            row, column = _centre(bright.sum(1)), _centre(bright.sum(0))
            if self.value is not None:
                top = min(max(row - tall // 2, 0), height - tall)
                left = min(max(column - wide // 2, 0), width - wide)
                moved[:] = image[top : top + tall, left : left + wide]
                continue
            moved[:] = np.median(image)
            down, right = height // 2 - row, width // 2 - column
            moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
                max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
            ]
        return out


def _centre(weights: np.ndarray) -> int:
    total = weights.sum(dtype=np.float64)
    return round(float(weights @ np.arange(len(weights)) / total)) if total > 0 else len(weights) // 2


STEPS: dict[str, type[Step]] = {
    "log": Log,
    "log_clip": LogClip,
    "log100": Log100,
    "dark": Dark,
    "mean": Mean,
    "parity_mean": ParityMean,
    "clip": Clip,
    "standardise": Standardise,
    "downsample": Downsample,
    "centre": Centre,
}


def make_step(given: Any) -> Step:
    """A step from its name, or from {name: value}.

    Raises:
        BadInput: there is no such step (with the nearest), or its value is wrong.
    """
    name, value = given, None
    if isinstance(given, dict) and len(given) == 1:
        ((name, value),) = given.items()
    if not isinstance(name, str) or name not in STEPS:
        near = difflib.get_close_matches(str(name), STEPS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STEPS)}"
        raise BadInput(f"unknown preprocess step {name!r}; {hint}")
    return STEPS[name](name, value)


def _one_of(step: Step, words: tuple[str, ...]) -> None:
    if step.value not in words:
        raise BadInput(f"preprocess step {step.name} takes one of {', '.join(words)}, not {step.value!r}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _mean_image(parts: Iterator[np.ndarray], name: str) -> np.ndarray:
    """(H, W) float32 mean of all images of the parts, summed in float64."""
    count, total = 0, np.zeros(1)
    for part in parts:
        count, total = count + len(part), total + part.sum(0, dtype=np.float64)
    if not count:
        raise BadInput(f"preprocess step {name} has no rows to learn from")
    return (total / count).astype(np.float32)
