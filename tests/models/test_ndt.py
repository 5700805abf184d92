from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nlb_tools.evaluation import bits_per_spike as reference_bits

from benchmarks.plain_ndt import PlainLoop
from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Family, Place
from models.conformance import Conformance, HoldsOut, Transfers
from models.ndt import attention
from models.ndt.attention import Dropout, RandomBits, make_band
from models.ndt.config import DEFAULTS, resolve
from models.ndt.data import load_h5
from models.ndt.learner import NDTLearner
from models.ndt.masking import Masker
from models.ndt.metrics import bits_per_spike, bits_per_spike_tensor, r2
from models.ndt.network import NDT
from models.ndt.schedule import factor
from models.registry import get
from tests.conftest import TINY


class TestConformance(Conformance, HoldsOut, Transfers):
    poison = {"TRAIN.LR.INIT": 1e30, "TRAIN.MAX_GRAD_NORM": 1e30}
    overfit = {"TRAIN.NUM_UPDATES": 60, "TRAIN.LR.INIT": 0.02, "MODEL.DROPOUT": 0.0, "MODEL.DROPOUT_RATES": 0.0,
               "MODEL.DROPOUT_EMBEDDING": 0.0, "MODEL.RATE_INIT": False}  # fmt: skip

    @pytest.fixture
    def family(self) -> Family:
        return get("ndt")

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return resolve(TINY)

    @pytest.fixture
    def block(self, spikes: Path) -> dict[str, Any]:
        return {"path": str(spikes)}

    @pytest.fixture
    def other_block(self, spikes: Path, tmp_path: Path) -> dict[str, Any]:
        shutil.copy(spikes, tmp_path / "other.h5")
        with h5py.File(tmp_path / "other.h5", "a") as file:
            file["eval_data_heldout"][-1, -1, -1] += 1
        return {"path": str(tmp_path / "other.h5")}


VARIANTS = [
    {"MODEL.EMBED_DIM": 2},
    {"MODEL.LINEAR_EMBEDDER": True},
    {"MODEL.LEARNABLE_POSITION": False},
    {"MODEL.LEARNABLE_POSITION": False, "MODEL.POSITION.OFFSET": False},
    {"MODEL.PRE_NORM": False},
    {"MODEL.SCALE_NORM": True},
    {"MODEL.FULL_CONTEXT": True},
    {"MODEL.CONTEXT_FORWARD": 3, "MODEL.CONTEXT_BACKWARD": 5},
    {"MODEL.CONTEXT_FORWARD": 3, "MODEL.CONTEXT_BACKWARD": 5, "MODEL.CONTEXT_WRAP_INITIAL": True},
    {"MODEL.LOGRATE": False},
    {"MODEL.DECODER.LAYERS": 2},
    {"MODEL.LOSS.TYPE": "cel", "MODEL.MAX_SPIKE_COUNT": 8},
    {"MODEL.LOSS.TOPK": 0.5},
    {"MODEL.UNMASKED_LOSS_SCALE": 0.1},
    {"MODEL.ACTIVATION": "gelu", "MODEL.NUM_HEADS": 3},
    {"MODEL.EMBED_DIM": 1, "MODEL.SPIKE_LOG_INIT": True},
    {"TRAIN.MASK_MODE": "neuron"},
    {"TRAIN.MASK_MODE": "full", "TRAIN.USE_ZERO_MASK": False},
    {"TRAIN.MASK_MAX_SPAN": 4, "TRAIN.MASK_SPAN_RAMP_START": 0, "TRAIN.MASK_SPAN_RAMP_END": 1},
    {"TRAIN.LR.SCHEDULER": "invsqrt", "TRAIN.LR.WARMUP": 2},
    {"TRAIN.PARITY": True, "DATA.RANDOM_SUBSET_TRIALS": 0.5},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: ",".join(v))
def test_every_setting_trains_and_predicts(variant: dict[str, Any], spikes: Path) -> None:
    data = load_h5(spikes)
    learner = NDTLearner(resolve({**TINY, **variant}), data, Place(), 0)
    first = learner.train_piece()["train_loss"]
    for _ in range(5):
        last = learner.train_piece()["train_loss"]
    assert np.isfinite([first, last]).all()
    metrics = learner.validate()
    assert {"co-bps", "fp-bps", "masked_loss", "unmasked_loss", "smth_masked_loss", "r2"} <= set(metrics)
    rates = learner.predict(data)["eval_rates_heldout"]
    assert rates.shape == data.eval.heldout.shape  # type: ignore[union-attr]
    assert (rates >= 0).all()


def plain_and_ours(layers: int = 2) -> tuple[PlainLoop, NDT, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    config = resolve({"MODEL.NUM_LAYERS": layers, "MODEL.CONTEXT_FORWARD": 8, "MODEL.CONTEXT_BACKWARD": 12,
                      "TRAIN.MASK_TOKEN_RATIO": 0.6})  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def counts(*shape: int) -> torch.Tensor:
        return torch.poisson(torch.full(shape, 0.3), generator=generator)

    arrays = {"heldin": counts(7, 40, 17), "heldout": counts(7, 40, 5), "forward": counts(7, 10, 22)}
    torch.manual_seed(1)
    network = NDT(config, 50, 22, 9)
    plain = PlainLoop(config, arrays, network.state_dict())
    plain.model.eval()
    network.eval()
    return plain, network, plain.mask(arrays["heldin"], arrays["heldout"], arrays["forward"])


@pytest.mark.parametrize("onednn", [True, False])
def test_loss_and_gradients_equal_the_plain_implementation(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_ONEDNN", onednn and attention._ONEDNN)
    plain, network, (inputs, labels, counted) = plain_and_ours()
    expected = plain.loss(inputs, labels, counted)
    ours = F.poisson_nll_loss(network(inputs), labels, log_input=True, reduction="none")[counted].mean()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
    expected.backward()
    ours.backward()
    wanted = dict(plain.model.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_attention_dropout_gradients_are_those_of_its_own_masks(p: float, full: bool) -> None:
    """The hand-written backward pass against numerical derivatives, dropout masks held still."""
    from models.ndt.attention import SelfAttention

    band = make_band(9, 2, 3, full, False, torch.device("cpu"))
    layer = SelfAttention(6, 2, p, RandomBits(0)).double().train()
    band = replace(band, bias=None if band.bias is None else band.bias.double())
    x = torch.randn(3, 9, 6, dtype=torch.double, requires_grad=True)
    start = layer._bits.state()

    def function(value: torch.Tensor) -> torch.Tensor:
        layer._bits.load_state(start)
        return layer(value, band)

    assert torch.autograd.gradcheck(function, (x,), atol=1e-6)


def test_dropout_behind_a_relu_is_dropout_of_the_relu() -> None:
    x = torch.randn(50, 30, requires_grad=True)
    grad = torch.randn(50, 30)
    fused = Dropout(0.3, RandomBits(0)).train().relu(x)
    apart = Dropout(0.3, RandomBits(0)).train()(F.relu(x))
    torch.testing.assert_close(fused, apart)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, grad)[0] for out in (fused, apart)))


@given(p=st.floats(0.0, 0.95), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_dropout_keeps_the_mean(p: float, seed: int) -> None:
    layer = Dropout(p, RandomBits(seed)).train()
    kept = layer(torch.ones(200, 300))
    share = float((kept != 0).float().mean())
    assert abs(share - (1 - p)) < 0.02
    assert set(kept.unique().tolist()) <= {0.0, float(kept.max())}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.15)


@given(length=st.integers(1, 40), ahead=st.integers(-1, 45), back=st.integers(-1, 45), wrap=st.booleans())
@settings(max_examples=80, deadline=None)
def test_band_is_the_definition_and_blocks_cover_it(length: int, ahead: int, back: int, wrap: bool) -> None:
    band = make_band(length, ahead, back, False, wrap, torch.device("cpu"))
    expected = np.ones((length, length), bool)
    for i in range(length):
        for j in range(length):
            forward_ok = ahead < 0 or j <= i + ahead
            back_ok = back <= 0 or j >= i - back
            wrapped = wrap and 0 < back < length and i < back and j >= length - back + i
            expected[i, j] = (forward_ok and back_ok) or wrapped
    visible = np.ones_like(expected) if band.visible is None else band.visible.numpy()
    assert (visible == expected).all()
    covered = np.zeros_like(expected)
    for q0, q1, k0, k1 in band.blocks:
        covered[q0:q1, k0:k1] = True
    assert (covered | ~expected).all()


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_bits_per_spike_equals_nlb_tools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spikes = rng.poisson(0.4, (4, 9, 3)).astype(float)
    spikes[0, 0, 0] = 1
    rates = rng.gamma(1.0, 0.4, spikes.shape)
    rates[rng.random(spikes.shape) < 0.05] = 0
    if seed % 2:
        spikes[1, :4] = np.nan
    kept = rates.copy()
    expected = reference_bits(rates.copy(), spikes)
    assert bits_per_spike(rates, spikes) == pytest.approx(expected, abs=1e-9)
    assert bits_per_spike_tensor(torch.tensor(rates), torch.tensor(spikes)) == pytest.approx(expected, abs=1e-9)
    assert np.array_equal(rates, kept)


def test_bits_per_spike_of_nonsense_is_nan() -> None:
    spikes = np.ones((2, 3, 1))
    assert np.isnan(bits_per_spike(np.full((2, 3, 1), np.nan), spikes))
    assert np.isnan(bits_per_spike(np.full((2, 3, 1), -1.0), spikes))
    assert np.isnan(bits_per_spike(spikes, np.zeros((2, 3, 1))))
    assert r2(spikes, spikes) != r2(spikes, spikes)  # a truth that never varies


def test_masks_hide_what_they_say() -> None:
    config = resolve({"TRAIN.MASK_RATIO": 0.3, "TRAIN.MASK_TOKEN_RATIO": 0.5, "TRAIN.MASK_RANDOM_RATIO": 1.0})
    heldin = torch.full((40, 50, 6), 3.0)
    inputs, masked = Masker(config, 9)(heldin, 0, torch.Generator().manual_seed(0))
    assert torch.equal(inputs[~masked], heldin[~masked])
    assert float(masked.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert (masked == masked[:, :, :1]).all()  # whole timesteps
    assert float((inputs[masked] == 0).float().mean()) == pytest.approx(0.5 + 0.5 / 3, abs=0.03)
    assert set(inputs[masked].unique().tolist()) == {0.0, 1.0, 2.0}


def test_masks_of_single_counts() -> None:
    config = resolve({"TRAIN.MASK_RATIO": 0.3, "TRAIN.MASK_MODE": "full", "TRAIN.USE_ZERO_MASK": False})
    heldin = torch.full((40, 50, 6), 3.0)
    inputs, masked = Masker(config, 9)(heldin, 0, torch.Generator().manual_seed(0))
    assert torch.equal(inputs, torch.where(masked, 10.0, heldin))
    assert float(masked.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_schedules() -> None:
    assert factor("cosine", 0, 10, 100) == 0.0
    assert factor("cosine", 5, 10, 100) == 0.5
    assert factor("cosine", 10, 10, 100) == 1.0
    assert factor("cosine", 55, 10, 100) == pytest.approx(0.5)
    assert factor("cosine", 100, 10, 100) == pytest.approx(0.0)
    assert factor("invsqrt", 40, 10, 100) == pytest.approx(0.5)


def test_early_stop_waits_for_patience(spikes: Path) -> None:
    stuck = {"TRAIN.LR.INIT": 0.0, "TRAIN.NUM_UPDATES": 500, "TRAIN.PATIENCE": 6, "TRAIN.EARLY_STOP": "co-bps"}
    learner = NDTLearner(resolve({**TINY, **stuck}), load_h5(spikes), Place(), 0)
    while not learner.done:
        learner.train_piece()
        if learner.due:
            learner.validate()
    assert learner.update == 2 + 6 + 1


def test_learns_more_than_the_mean_rate(spikes: Path) -> None:
    config = resolve({**TINY, "TRAIN.NUM_UPDATES": 60, "TRAIN.LR.INIT": 5e-3, "MODEL.NUM_LAYERS": 2,
                      "MODEL.DROPOUT": 0.1, "MODEL.DROPOUT_RATES": 0.1, "MODEL.DROPOUT_EMBEDDING": 0.0})  # fmt: skip
    learner = NDTLearner(config, load_h5(spikes), Place(), 0)
    before = learner.validate()
    while not learner.done:
        learner.train_piece()
    after = learner.validate()
    assert after["co-bps"] > before["co-bps"] + 0.02


def test_lfads_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["train_data"] = rng.poisson(0.5, (10, 20, 12))
        file["valid_data"] = rng.poisson(0.5, (5, 20, 12))
        file["train_truth"] = np.full((10, 20, 12), 5.0)
        file["valid_truth"] = np.full((5, 20, 12), 5.0)
        file["conversion_factor"] = 10.0
    data = load_h5(tmp_path / "l.h5")
    assert (data.heldin_units, data.heldout_units, data.forward_bins) == (9, 3, 0)
    assert data.eval.truth is not None
    assert float(data.eval.truth.max()) == 0.5
    learner = NDTLearner(resolve(TINY), data, Place(), 0)
    learner.train_piece()
    assert np.isfinite(learner.validate()["co-bps"])


def broken(tmp_path: Path, spikes: Path, change: Any) -> Path:
    path = tmp_path / "broken.h5"
    path.write_bytes(spikes.read_bytes())
    with h5py.File(path, "a") as file:
        change(file)
    return path


def put(name: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


BAD_FILES = {
    "no eval": (put("eval_data_heldin", None), "eval_data_heldin"),
    "no heldout": (put("train_data_heldout", None), "train_data_heldout"),
    "no eval heldout": (put("eval_data_heldout", None), "eval_data_heldout"),
    "flat": (put("train_data_heldin", np.zeros((24, 20))), "(trials, bins, units)"),
    "trials": (put("train_data_heldout", np.zeros((3, 20, 4))), "train_data_heldout"),
    "units": (put("eval_data_heldin", np.zeros((12, 20, 5))), "does not fit"),
    "empty": (put("eval_data_heldin", np.zeros((0, 20, 9))), "empty"),
    "negative": (put("train_data_heldin", np.full((24, 20, 9), -1.0)), "negative"),
    "nan": (put("train_data_heldin", np.full((24, 20, 9), np.nan)), "non-finite"),
    "inf": (put("eval_data_heldout", np.full((12, 20, 4), np.inf)), "non-finite"),
    "fractions": (put("train_data_heldin", np.full((24, 20, 9), 0.5)), "whole numbers"),
    "huge": (put("train_data_heldin", np.full((24, 20, 9), 1e6)), "spike counts"),
    "text": (put("train_data_heldin", "hello"), "numbers"),
    "silent": (put("eval_data_heldout", np.zeros((12, 20, 4))), "not one spike"),
    "half forward": (put("train_data_heldout_forward", None), "forward"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_told_in_one_line(case: str, tmp_path: Path, spikes: Path) -> None:
    change, words = BAD_FILES[case]
    with pytest.raises(BadInput) as error:
        load_h5(broken(tmp_path, spikes, change))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all", b"\x89HDF\r\n\x1a\n" + b"\0" * 50])
def test_files_that_are_no_hdf5(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(BadInput, match="not a readable HDF5"):
        load_h5(tmp_path / "x.h5")


def test_truncated_file(tmp_path: Path, spikes: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(spikes.read_bytes()[:3000])
    with pytest.raises(BadInput, match="not a readable HDF5"):
        load_h5(tmp_path / "cut.h5")


@pytest.mark.parametrize(
    ("settings_given", "words"),
    [
        ({"MODEL.DROPOT": 0.1}, "did you mean MODEL.DROPOUT"),
        ({"MODEL.DROPOUT": 1.5}, "at most"),
        ({"MODEL.DROPOUT": "lots"}, "number"),
        ({"MODEL.NUM_LAYERS": 1.5}, "whole number"),
        ({"MODEL.PRE_NORM": 1}, "true or false"),
        ({"MODEL.LOSS.TYPE": "mse"}, "one of"),
        ({"TRAIN.BATCH_SIZE": 0}, "at least 1"),
        ({"TRAIN.LR.INIT": float("nan")}, "number"),
    ],
)
def test_bad_settings(settings_given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve(settings_given)


def test_original_bookkeeping_is_ignored() -> None:
    assert resolve({"SEED": 4, "SYSTEM.NUM_GPUS": 2, "TRAIN.TUNE_MODE": True}) == DEFAULTS


def cut(spikes: Path, out: Path, heldin: int = 0, bins: int = 0) -> Path:
    """The file's evaluated trials with some held-in units or bins more or fewer, as a file for prediction."""
    with h5py.File(spikes) as file:
        array = file["eval_data_heldin"][()]
    for axis, change in ((2, heldin), (1, bins)):
        if change < 0:
            array = np.take(array, range(array.shape[axis] + change), axis)
        elif change:
            array = np.concatenate([array, np.take(array, range(change), axis)], axis)
    with h5py.File(out, "w") as file:
        file["eval_data_heldin"] = array
    return out


MISFITS = {
    "fewer units": ({"heldin": -1}, "20 bins x 8 held-in"),
    "more units": ({"heldin": 4}, "20 bins x 13 held-in"),
    "fewer bins": ({"bins": -2}, "18 bins x 9 held-in"),
    "more bins": ({"bins": 4}, "24 bins x 9 held-in"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_data_of_other_units_or_bins_is_refused(case: str, spikes: Path, tmp_path: Path) -> None:
    """The sizes in all would often fit (9 + 4 units, 20 + 4 bins): only the snapshot knows what was held in."""
    change, words = MISFITS[case]
    family = get("ndt")
    learner = NDTLearner(resolve(TINY), load_h5(spikes), Place(), 0)
    learner.train_piece()
    save_state(tmp_path / "w.safetensors", learner.weights())
    predict = family.restore(learner.config, load_state(tmp_path / "w.safetensors"), Place())
    with pytest.raises(BadInput) as error:
        predict(family.open(cut(spikes, tmp_path / "x.h5", **change), "test"))
    assert f"trials of {words} units do not fit a network trained on 20 bins x 9 held-in units" in str(error.value)
    assert "\n" not in str(error.value)
    same = predict(family.open(cut(spikes, tmp_path / "y.h5"), "test"))
    assert same["eval_rates_heldout"].shape == (12, 20, 4)
