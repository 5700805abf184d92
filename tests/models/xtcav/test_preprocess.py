"""Each step, and that a chain learns from training rows only and is the same when it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.xtcav.preprocess import Chain

RAW = np.random.default_rng(0).normal(200, 150, (12, 9, 10)).astype(np.int16)
LABELS = np.arange(12) % 3


def chain(*steps: Any, raw: np.ndarray = RAW) -> Chain:
    def stream() -> Any:
        return ((raw[i : i + 5], LABELS[i : i + 5]) for i in range(0, 12, 5))

    return Chain(steps, (raw.shape[1], raw.shape[2])).fit({"train": stream, "dark": stream})


def test_the_published_logarithms() -> None:
    raw = np.array([[[-20, 0, 1, 2], [100, 101, 1000, 2000]]], np.int16)
    x = raw.astype(float)
    assert chain("log", raw=raw)(raw)[:, 0] == pytest.approx(np.log(np.maximum(x, 1)), rel=1e-6)
    assert chain("log_clip", raw=raw)(raw)[:, 0] == pytest.approx(np.log(1 + np.maximum(0, x)), rel=1e-6)
    high = np.where(x >= 100, 100 + np.log(1 + np.maximum(x - 100, 0)), x)
    assert chain("log100", raw=raw)(raw)[:, 0] == pytest.approx(high, rel=1e-6)


def test_backgrounds_and_means() -> None:
    x = RAW.astype(float)
    assert chain("mean")(RAW)[:, 0] == pytest.approx(x - x.mean(0), abs=1e-3)
    assert chain({"mean": "scalar"})(RAW)[:, 0] == pytest.approx(x - x.mean(), abs=1e-3)
    assert chain("dark")(RAW)[:, 0] == pytest.approx(x - x.mean(0), abs=1e-3)
    assert chain({"dark": "lasing_free"})(RAW)[:, 0] == pytest.approx(x - x[LABELS == 0].mean(0), abs=1e-3)
    assert chain({"dark": "train"})(RAW)[:, 0] == pytest.approx(x - np.median(x, 0), abs=1e-3)


def test_standardising_and_clipping() -> None:
    out = chain("standardise")(RAW)
    assert (out.mean(), out.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    pixel = chain({"standardise": "pixel"})(RAW)
    assert pixel.std(0) == pytest.approx(1, abs=1e-4)
    # large numbers with little variance
    high = np.float64(3e5) + np.random.default_rng(1).normal(0, 1, (12, 9, 10))
    assert chain("standardise", raw=high)(high).std() == pytest.approx(1, abs=0.02)
    clipped = chain({"clip": [0, 100]})(RAW)
    assert (clipped.min(), clipped.max()) == (0, 100)


def test_downsampling_takes_block_means() -> None:
    out = chain({"downsample": 4})(RAW)
    assert out.shape == (12, 1, 2, 2) and out.dtype == np.float32
    assert out[:, 0] == pytest.approx(RAW[:, :8, :8].reshape(12, 2, 4, 2, 4).mean((2, 4)), rel=1e-5)
    assert chain("log", {"downsample": 3}).output_shape == (3, 3)


@pytest.mark.parametrize("at", [(10, 8), (2, 20), (28, 3)])
def test_centring_moves_what_is_bright_to_the_middle(at: tuple[int, int]) -> None:
    y, x = np.mgrid[:30, :24]
    raw = (7 + 500 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 3))[None]
    moved = chain("centre", raw=np.repeat(raw, 12, 0))(raw)[0, 0]
    assert np.abs(np.subtract(np.unravel_index(moved.argmax(), moved.shape), (15, 12))).max() <= 1
    assert moved.min() == pytest.approx(7, abs=0.1)
    cut = chain({"centre": [10, 8]}, raw=np.repeat(raw, 12, 0))(raw)[0, 0]
    assert cut.shape == (10, 8) and cut.max() == raw.max().astype(np.float32)
    flat = np.full((12, 30, 24), 3.0)
    assert (chain("centre", raw=flat)(flat) == 3).all()


def test_a_row_never_depends_on_its_batch_but_for_parity() -> None:
    fitted = chain({"downsample": 2}, "log", "mean", "standardise", "centre")
    assert np.array_equal(fitted(RAW)[3:4], fitted(RAW[3:4]))
    parity = chain("log", "parity_mean")
    assert np.abs(parity(RAW[3:4])).max() == 0
    assert np.abs(parity(RAW).mean(0)).max() < 1e-5
    with pytest.raises(BadInput, match="last"):
        chain("parity_mean", "log")


def test_the_raw_images_are_left_alone() -> None:
    for dtype in (np.int16, np.float32):
        raw = RAW.astype(dtype)
        chain("dark", "log", "standardise")(raw)
        chain({"downsample": 1}, "log")(raw)
        assert np.array_equal(raw, RAW)


def test_a_saved_chain_does_the_same(tmp_path: Path) -> None:
    fitted = chain({"downsample": 2}, {"clip": [-5, 900.5]}, "log100", "dark", {"standardise": "pixel"})
    fitted.fit_scalars(np.array([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0]], np.float32))
    save_state(tmp_path / "c.safetensors", {"chain": fitted.state()})
    back = Chain.from_state(load_state(tmp_path / "c.safetensors")["chain"])
    assert np.array_equal(back(RAW), fitted(RAW))
    given = np.array([[9.0, np.nan]], np.float32)
    assert np.array_equal(back.scalars(given), fitted.scalars(given))
    assert back.scalars(given)[0, 1] == 0
    with pytest.raises(BadInput, match="9x10"):
        back(RAW[:, 1:])
    with pytest.raises(BadInput, match="scalars"):
        back.scalars(given[:, :1])


@pytest.mark.parametrize(
    "step",
    ["logg", {"log": 3}, {"downsample": 0}, {"downsample": 99}, {"clip": [3, 1]}, {"clip": 3}, {"mean": "x"},
     {"centre": [99, 1]}, {"centre": "x"}, {"log": 1, "mean": 2}, 7],
)  # fmt: skip
def test_wrong_steps_are_one_line(step: Any) -> None:
    with pytest.raises(BadInput) as error:
        Chain([step], (9, 10))
    assert "\n" not in str(error.value)
