from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellprofiler import names, pixels
from models.cellprofiler.config import aggregates, lambdas, layers, resolve
from models.cellprofiler.network import CellNetwork
from models.cellprofiler.schedule import Plateau, rate, steps
from tests.conftest import ROOT


def network(channels: int = 5, box: int = 64, classes: int = 3, **settings: Any) -> CellNetwork:
    torch.manual_seed(0)
    return CellNetwork(resolve(settings), channels, box, classes).eval()


def fresh(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own: what is imported here must not matter."""
    env = {**os.environ, "PYTHONPATH": str(path or ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_timm_is_imported_whatever_torchvision_has_compiled() -> None:
    code = (
        "from models.cellprofiler import vision; import torch\n"
        "net = vision.timm().create_model('resnet18', in_chans=2, num_classes=3).eval()\n"
        "import torchvision; print(net(torch.zeros(1, 2, 32, 32)).shape, torchvision.__version__)\n"
        "before = len(vision._declared); vision.timm(); assert len(vision._declared) == before"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 3])" in done.stdout


@pytest.mark.parametrize(
    ("body", "ends", "says"),
    [
        ("raise RuntimeError('operator torchvision::nms is broken')", 1, "is broken"),
        ("__version__ = '0'", 0, "0 declared"),
    ],
    ids=["another error", "nothing is wrong"],
)
def test_only_what_is_absent_is_declared(tmp_path: Path, body: str, ends: int, says: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(body)
    (tmp_path / "timm.py").write_text("")
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from models.cellprofiler import vision\nvision.timm(); print(len(vision._declared), 'declared')"
    )
    done = fresh(code, tmp_path)
    assert done.returncode == ends
    assert says in done.stdout + done.stderr


def test_efficientnet_b0_has_the_published_number_of_parameters() -> None:
    net = network(classes=1, NET="efficientnet_b0")
    parameters = sum(p.numel() for p in net.parameters())
    statistics = sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert (parameters, statistics, parameters + statistics) == (4_009_405, 42_016, 4_051_421)


@pytest.mark.parametrize("net", ["cnn", "efficientnet_b0", "efficientnet_b1", "efficientnet_lite0", "resnet18"])
def test_every_listed_layer_can_be_had(net: str) -> None:
    one = network(NET=net)
    x = torch.rand(2, 5, 64, 64)
    with torch.inference_mode():
        logits, seen = one.looked_at(x, one.known)
        again, few = one.looked_at(x, ["probabilities", "pool"])
        assert torch.equal(logits, one(x)) and torch.equal(again, logits)
    assert tuple(seen) == one.known and list(few) == ["probabilities", "pool"]
    assert all(found.shape[0] == 2 and found.ndim == 2 for found in seen.values())
    assert torch.allclose(seen["probabilities"], logits.softmax(1)) and torch.equal(few["pool"], seen["pool"])
    assert not any(module._forward_hooks for module in one.modules())
    if "efficientnet" in net:
        assert seen["block6a_activation"].shape[1] == 672 and seen["pool"].shape[1] == 1280
        deepest = max(name for name in one.known if name.startswith("block7") and len(name) == 7)
        assert one.layer(deepest) is one.body.blocks[-1][-1]  # none is left out at the end


def test_a_stage_is_averaged_over_the_crop() -> None:
    one, x = network(NET="efficientnet_b0"), torch.rand(2, 5, 64, 64)
    with torch.inference_mode():
        body: Any = one.body
        before = body.blocks[:5](body.bn1(body.conv_stem(x)))
        block = body.blocks[5][0]
        map_ = block.bn2(block.conv_dw(block.bn1(block.conv_pw(before))))
        _, seen = one.looked_at(x, ["block6a_activation", "block5c"])
    assert map_.shape[2:] == (2, 2)
    assert torch.allclose(seen["block6a_activation"], map_.mean((2, 3)), atol=1e-6)
    assert torch.allclose(seen["block5c"], before.mean((2, 3)), atol=1e-6)


def test_a_cnn_is_what_its_settings_say() -> None:
    one = network(WIDTH=8, BLOCKS=3, FEATURES=20, POOL="max")
    assert [tuple(p.shape[:2]) for n, p in one.named_parameters() if p.ndim == 4] == [(8, 5), (16, 8), (32, 16)]
    x = torch.rand(4, 5, 16, 16)
    with torch.inference_mode():
        _, seen = one.looked_at(x, ["block2", "pool", "features"])
        body: Any = one.body
        map_ = body.blocks(x)
    assert [seen[k].shape[1] for k in seen] == [16, 32, 20]
    assert map_.shape[2:] == (2, 2) and torch.equal(seen["pool"], map_.amax((2, 3)))
    assert (seen["features"] >= 0).all() and (seen["features"] > 0).any()


def test_pixels_from_minus_one_where_weights_are_from_elsewhere() -> None:
    plain, centred = network(NET="cnn", INPUT="unit"), network(NET="cnn", INPUT="centred")
    centred.load_state_dict(plain.state_dict())
    x = torch.rand(2, 5, 32, 32)
    assert torch.allclose(centred(x), plain(2 * x - 1))
    assert not network(NET="cnn").centred and network(NET="efficientnet_lite0", WEIGHTS="imagenet").centred


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LAYERS": "block6"}, "block"),
        ({"NET": "resnet18", "LAYERS": "block6a"}, "no layer 'block6a'"),
        ({"NET": "efficientnet_b0", "LAYERS": "blok6a_activation"}, "did you mean block6a_activation"),
        ({"NET": "efficientnet_b9"}, "did you mean efficientnet_b"),
        ({"LAYERS": ""}, "LAYERS is empty"),
        ({"AGGREGATES": ["mode"]}, "'mode'"),
        ({"LAMBDAS": "0"}, "LAMBDAS has '0'"),
        ({"WEIGHTS": "imagenet"}, "efficientnet_lite0 only"),
        ({"WEIGHTS": "weights.pkl"}, ".safetensors"),
        ({"SCHEDULE": "steps"}, "STEPS is ''"),
        ({"SCHEDULE": "steps", "STEPS": "1=0.1"}, "from epoch 0"),
        ({"BATCH_SIZE": 1}, "at least 2"),
        ({"BATCHSIZE": 8}, "did you mean BATCH_SIZE"),
    ],
)
def test_what_cannot_be_set_is_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as error:
        resolve(settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_lists_of_settings() -> None:
    config = resolve(
        {"NET": "efficientnet_b0", "LAYERS": ["pool5", "block6a_activation", "ClassProb", "pool"],
         "AGGREGATES": "Median", "LAMBDAS": [0.001, "1e-2", "none"]}
    )  # fmt: skip
    assert layers(config) == ("pool", "block6a_activation", "probabilities")
    assert aggregates(config) == ("median",) and lambdas(config) == (1e-3, 1e-2, None)
    assert resolve(config) == config


def test_a_crop_too_small_is_refused() -> None:
    with pytest.raises(BadInput, match="too small for cnn"):
        network(box=16, BLOCKS=5)


# ---- pixels


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 10_000), st.sampled_from(["uint8", "uint16", "float32"]))
def test_each_channel_of_each_crop_is_stretched(crops: int, channels: int, seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    high = 256 if kind == "uint8" else 65536
    x = torch.randint(0, high, (crops, channels, 5, 5), generator=generator).to(getattr(torch, kind))
    out = pixels.normalise(x).double()
    x = x.double()
    low, top = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    assert torch.allclose(out, (x - low) / (top - low + pixels.EPS), atol=1e-6)
    # neither a stretch nor another channel's brightness matters
    assert torch.allclose(pixels.normalise(3 * x + 7).double(), out, atol=1e-6)


def test_a_constant_channel_is_black() -> None:
    for value in (0, 255):
        assert not pixels.normalise(torch.full((1, 2, 4, 4), value, dtype=torch.uint8)).any()


# ---- learning rates


def test_the_cosine_begins_harmonically() -> None:
    config = resolve({"SCHEDULE": "cosine", "LR": 0.005, "EPOCHS": 20})
    found = [rate(config, epoch) for epoch in range(20)]
    assert found[:5] == pytest.approx([0.001, 0.00125, 0.005 / 3, 0.0025, 0.005])
    assert round(found[5], 6) == 0.004268
    assert all(a > b for a, b in itertools.pairwise(found[4:])) and 0 < found[-1] < 1e-4


def test_other_schedules() -> None:
    assert {rate(resolve({"LR": 0.1}), epoch) for epoch in range(30)} == {0.1}
    stepped = resolve({"SCHEDULE": "steps", "STEPS": "0=0.1, 10=0.01,15:0.001"})
    assert [rate(stepped, epoch) for epoch in (0, 9, 10, 14, 15, 99)] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert steps("3=0.5,0=1") == ((0, 1.0), (3, 0.5))
    plateau = Plateau(0.005)
    factors = []
    for loss in [1.0, 0.9, *[0.9] * 5, 0.8, *[0.8] * 20]:
        plateau.note(loss)
        again = Plateau(0.005)
        again.load_state(plateau.state())
        plateau = again
        factors.append(plateau.factor)
    assert factors[:6] == [1.0] * 6 and factors[6] == 0.1
    assert factors[-1] * 0.005 == pytest.approx(1e-4)  # never below


def test_the_list_of_networks_is_timm_s() -> None:
    from models.cellprofiler.vision import timm

    known = timm().list_models()
    assert {f"tf_{n}" if n == names.LITE else n for n in names.NETS if n != "cnn"} <= set(known)
