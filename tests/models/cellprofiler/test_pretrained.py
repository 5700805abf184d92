from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ground.errors import BadInput
from models.cellprofiler import pixels, pretrained
from models.cellprofiler.config import resolve
from models.cellprofiler.network import CellNetwork

LITE = {"NET": "efficientnet_lite0"}


def made(channels: int = 3, seed: int = 0, classes: int = 2, **settings: Any) -> CellNetwork:
    torch.manual_seed(seed)
    config = resolve({**LITE, **settings})
    network = CellNetwork(config, channels, 64, classes)
    pretrained.initialise(network, config)
    return network.eval()


LAYERS = ("block4a", "pool")


def neighbours_agree(network: CellNetwork, x: torch.Tensor, well: np.ndarray) -> list[float]:
    """How often a cell's nearest cell, by the cosine of standardised features of each layer, is of its well."""
    with torch.inference_mode():
        parts = [network.looked_at(part, LAYERS)[1] for part in x.split(40)]
    told = []
    for layer in LAYERS:
        f = torch.cat([part[layer] for part in parts]).numpy()
        f = (f - f.mean(0)) / (f.std(0) + 1e-6)
        f /= np.linalg.norm(f, axis=1, keepdims=True)
        near = f @ f.T
        np.fill_diagonal(near, -9)
        told.append(float((well[near.argmax(1)] == well).mean()))
    return told


@pytest.mark.slow
def test_imagenet_features_tell_wells_better_than_random_ones(shared: Path) -> None:
    with h5py.File(shared / "data" / "cellpainting" / "nf1_single_cell_crops_128.h5") as file:
        crops, well = file["images"][:], np.unique(file["well"][:], return_inverse=True)[1]
    x = pixels.normalise(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))))
    assert len(x) == 117
    ours = neighbours_agree(made(WEIGHTS="imagenet"), x, well)
    random = np.array([neighbours_agree(made(seed=seed, INPUT="centred"), x, well) for seed in range(4)])
    assert (np.array(ours) > random.max(0)).all()
    assert ours[0] > random[:, 0].mean() + 0.12  # measured .496; random .27 on average


def test_filters_repeat_over_further_channels() -> None:
    three, five, scaled = (
        made(channels, WEIGHTS="imagenet", STEM_RESCALE=rescale).stem.weight
        for channels, rescale in ((3, False), (5, False), (5, True))
    )
    assert torch.equal(five, three[:, [0, 1, 2, 0, 1]])
    assert torch.allclose(scaled, five * 3 / 5)
    assert torch.equal(made(3, WEIGHTS="imagenet", STEM_RESCALE=True).stem.weight, three)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_begins_a_network(tmp_path: Path, suffix: str) -> None:
    source = made(3, seed=5, classes=7)
    tensors = {name: tensor.clone() for name, tensor in source.body.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3}, path)
    else:
        save_file(tensors, path)
    network = made(3, seed=6, classes=2, WEIGHTS=str(path))
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        source.centred = network.centred
        assert torch.equal(*(one.looked_at(x, ["pool"])[1]["pool"] for one in (source, network)))
    assert network.body.classifier.weight.shape == (2, 1280)  # of other classes: stays random
    again = made(3, seed=8, classes=7, WEIGHTS=str(path))
    assert torch.equal(again.body.classifier.weight, source.body.classifier.weight)


class Evil:
    def __reduce__(self) -> Any:
        return (open, ("/nonexistent/pwned", "w"))


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    evil, other, wrong, junk, text = (tmp_path / name for name in ("e.pth", "o.pth", "w.pth", "j.safetensors", "t.pth"))
    evil.write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"conv.weight": torch.zeros(2)}, other)
    tensors = made().body.state_dict()
    torch.save({**tensors, "conv_head.weight": torch.zeros(3, 3)}, wrong)
    junk.write_bytes(b"junk")
    torch.save("text", text)
    says = {
        tmp_path / "none.pth": "no such file",
        evil: "not a file of weights",
        other: "has no conv_stem.weight",
        wrong: "conv_head.weight is of shape [3, 3]",
        junk: "not a file of weights",
        text: "holds a str",
    }
    for path, words in says.items():
        with pytest.raises(BadInput) as error:
            made(WEIGHTS=str(path))
        assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
