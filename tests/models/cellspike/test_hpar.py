from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import search_spaces
from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Place
from models.cellspike import FAMILY, design, hpar, original
from models.cellspike.config import resolve
from models.cellspike.network import build, parameters

A2F = """
data_path: {perlmutter: /somewhere}
data_conf: {serialize_stims: False, append_stim: True, parallel_stim: False, max_glob_samples_per_epoch: 50000,
            num_data_workers: 4}
max_epochs: 100
batch_size: 64
const_local_batch: False
validation_period: [1, 1]
save_checkpoint: True
do_ray: False
model_type: CNN
use_manual_features: True
opt_pytorch: {amp: True, apex: False, autotune: False, zerograd: False}
train_conf:
  warmup_epochs: 10
  optimizer: [adam, 0.001]
  LRsched: {plateau_patience: 8, reduceFactor: 0.11}
  recover_upar_from_ustar: True
  per_wavform_norm: True
model:
  myId: a2f791f3a_ontra4
  comment: the later optimum
  conv_block: {filter: [30, 90, 180], kernel: [4, 4, 4], pool: [4, 4, 4]}
  instance_norm_slot: -9
  layer_norm: False
  batch_norm_cnn_slot: 3
  batch_norm_flat: True
  fc_block: {dims: [512, 512, 512, 256, 128], dropFrac: 0.05}
"""


@pytest.fixture
def a2f(tmp_path: Path) -> Path:
    path = tmp_path / "a2f.hpar.yaml"
    path.write_text(A2F)
    return path


def changed(path: Path, **changes: Any) -> Path:
    """The same file with values at dotted keys (`__` for the dot) replaced."""
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        node = content
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_key_is_read_in_its_own_form(a2f: Path) -> None:
    found = hpar.read(a2f)
    settings = resolve(found.settings)
    assert found.name == "a2f791f3a_ontra4"
    expected = {
        "CONV_DEPTH": 3, "FILTERS_2": 90, "KERNEL_3": 4, "POOL_1": 4, "FC_DEPTH": 5, "FC_4": 256, "FC_LAST": 0,
        "DROPOUT": 0.05, "BATCH_NORM_CNN_SLOT": 3, "INSTANCE_NORM_SLOT": -9, "BATCH_NORM_FLAT": True,
        "LAYER_NORM": False, "EPOCHS": 100, "BATCH_SIZE": 64, "CONST_LOCAL_BATCH": False, "AMP": True,
        "WARMUP_EPOCHS": 10, "OPTIMIZER": "adam", "LR": 0.001, "SCHEDULE": "plateau", "LR_FACTOR": 0.11,
        "PLATEAU_PATIENCE": 8, "PLATEAU_COOLDOWN": 2,
    }  # fmt: skip
    assert expected.items() <= settings.items()
    assert found.data == {
        "stimuli": "append", "samples_per_epoch": 50000, "features": "efel", "target": "u", "normalisation": "sample",
    }  # fmt: skip
    assert found.unknown == []
    assert {"data_path.perlmutter", "validation_period", "opt_pytorch.apex", "model.comment"} <= set(found.idle)
    assert parameters(build(settings, 4000, 3, 19)) == 6_412_539


def test_unknown_keys_are_named(a2f: Path) -> None:
    found = hpar.read(changed(a2f, train_conf__moonlight=3, model__dropPath=0.1))
    assert sorted(found.unknown) == ["model.dropPath", "train_conf.moonlight"]


def test_older_keys(a2f: Path) -> None:
    old = changed(a2f, model__batch_norm_flat=None, model__batch_norm_cnn_slot=None, model__instance_norm_slot=None,
                  model__batch_norm=True, model__instance_norm=True)  # fmt: skip
    settings = hpar.read(old).settings
    assert settings["BATCH_NORM_FLAT"] is True
    assert settings["INSTANCE_NORM_SLOT"] == 3
    assert hpar.read(changed(old, model__instance_norm=False)).settings["INSTANCE_NORM_SLOT"] == -9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model__conv_block__kernel": [4, 4]}, "model.conv_block has 3 of filter, 2 of kernel, 3 of pool"),
        ({"model__conv_block__pool": [4, 0, 4]}, "model.conv_block.pool"),
        ({"model__conv_block": None}, "model.conv_block.filter"),
        ({"model__fc_block__dims": "512"}, "model.fc_block.dims"),
        ({"max_epochs": 3.5}, "max_epochs is 3.5; it takes a whole number"),
        ({"batch_size": True}, "batch_size"),
        ({"const_local_batch": "yes please"}, "const_local_batch"),
        ({"train_conf__optimizer": ["adam"]}, "train_conf.optimizer"),
        ({"data_conf__parallel_stim": True}, "only one of serialize_stims, append_stim, parallel_stim"),
        ({"model": None}, "has no model"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_file_and_key(a2f: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as error:
        hpar.read(changed(a2f, **change))
    assert told in str(error.value)
    assert str(a2f) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.hpar.yaml"
    path.write_text("model:\n\tmyId: [")
    with pytest.raises(BadInput, match="not valid YAML") as error:
        hpar.read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="no such file"):
        hpar.read(tmp_path / "nowhere.hpar.yaml")


_UNITS = st.integers(1, 900)


@given(
    st.lists(st.tuples(_UNITS, st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8),
    st.lists(_UNITS, min_size=1, max_size=9),
    st.fixed_dictionaries(
        {
            "DROPOUT": st.floats(0, 0.9), "BATCH_NORM_CNN_SLOT": st.sampled_from([-9, 0, 3, 6]),
            "INSTANCE_NORM_SLOT": st.sampled_from([-9, 3, 4]), "LAYER_NORM": st.booleans(),
            "BATCH_NORM_FLAT": st.booleans(), "EPOCHS": st.integers(11, 500), "BATCH_SIZE": st.integers(1, 9999),
            "CONST_LOCAL_BATCH": st.booleans(), "AMP": st.booleans(), "LR": st.floats(1e-7, 1.0),
            "WARMUP_EPOCHS": st.integers(0, 10), "LR_FACTOR": st.floats(1e-3, 0.99),
            "PLATEAU_PATIENCE": st.integers(0, 99), "CLIP": st.floats(0.1, 10) | st.just(0.0),
        }
    ),
    st.sampled_from(["samples", "append", "towers"]),
)  # fmt: skip
def test_written_designs_read_back(
    tmp_path_factory: pytest.TempPathFactory, blocks: Any, dims: list[int], more: dict[str, Any], stimuli: str
) -> None:
    settings: dict[str, Any] = {"CONV_DEPTH": len(blocks), "FC_DEPTH": min(8, len(dims)), **more}
    for number, three in enumerate(blocks, 1):
        settings |= {f"{n}_{number}": v for n, v in zip(("FILTERS", "KERNEL", "POOL"), three, strict=True)}
    settings |= {f"FC_{number}": width for number, width in enumerate(dims[:8], 1)}
    settings["FC_LAST"] = dims[8] if len(dims) > 8 else 0
    complete = resolve({**settings, "SCHEDULE": "plateau", "PLATEAU_COOLDOWN": hpar.COOLDOWN})
    path = tmp_path_factory.mktemp("hpar") / "w.hpar.yaml"
    text, lost = hpar.written(complete, {"stimuli": stimuli}, "w")
    path.write_text(text)
    found = hpar.read(path)
    assert resolve(found.settings) == complete
    assert (found.name, found.data["stimuli"], found.unknown) == ("w", stimuli, [])
    assert lost == ["LEGACY_RESHAPE: False"]


def test_what_a_design_cannot_say_is_told() -> None:
    _, lost = hpar.written(resolve({"SCHEDULE": "cosine", "LOSS": "huber", "OPTIMIZER": "nadam"}), {}, "w")
    assert {"SCHEDULE: cosine", "LOSS: huber", "OPTIMIZER: nadam"} <= set(lost)
    with pytest.raises(BadInput, match="keras"):
        hpar.written(resolve({"DESIGN": "keras"}), {}, "w")


def verb(name: str, *arguments: str) -> int:
    """A verb as the command line calls it."""
    parser = argparse.ArgumentParser()
    getattr(design, f"{name}_arguments")(parser)
    return getattr(design, f"{name}_main")(parser.parse_args(arguments))


def test_design_prints_layers_and_count(a2f: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "space.yaml"
    assert verb("design", str(changed(a2f, extra=1)), "--bins", "4000", "-o", str(out)) == 0
    told = capsys.readouterr().out
    assert "6,412,539" in told
    assert "3997 → 999" in told
    assert "unknown key: extra" in told
    space, design_of = search_spaces.load(out), hpar.read(a2f)
    assert resolve({**space.fixed, "LR": 0.001}) == resolve(design_of.settings)
    assert (space.family, space.data) == ("cellspike", design_of.data)
    assert space.space["LR"].to_json() == {"loguniform": [0.000333, 0.003]}
    # what was written is read as well, and is not written again
    assert verb("design", str(out), "--bins", "4000") == 0
    assert "6,412,539" in capsys.readouterr().out
    with pytest.raises(BadInput, match="exists"):
        verb("design", str(a2f), "-o", str(out))
    with pytest.raises(BadInput, match=rf"{a2f}.*layer pool 3"):
        verb("design", str(a2f), "--bins", "80")


def test_a_winner_is_written_with_what_its_study_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = tmp_path / "study" / "trials" / "lr_0007"
    trial.mkdir(parents=True)
    (trial / "config.json").write_text(json.dumps({"trial_id": "lr_0007", "settings": {"LR": 0.004, "FILTERS_1": 77}}))
    fixed = {"family": "cellspike", "fixed": {"FC_DEPTH": 2, "EPOCHS": 99}, "data": {"stimuli": "append"}}
    (tmp_path / "study" / "study.json").write_text(json.dumps(fixed))
    out = tmp_path / "won.hpar.yaml"
    verb("winner", str(trial / "config.json"), "-o", str(out))
    found = hpar.read(out)
    assert found.name == "lr_0007"
    assert {"LR": 0.004, "FILTERS_1": 77, "FC_DEPTH": 2, "EPOCHS": 99}.items() <= found.settings.items()
    assert found.data == {"stimuli": "append"}
    with pytest.raises(BadInput, match="exists"):
        verb("winner", str(trial / "config.json"), "-o", str(out))


# ---- weights


class TheirNet(nn.Module):
    """The original's order of modules, with its reshape."""

    def __init__(self, bins: int, probes: int, outputs: int, slot: int, flat: bool, layer: bool) -> None:
        super().__init__()
        self.shape = (probes, bins)
        self.cnn_block = nn.ModuleList()
        width = probes
        for filters in (6, 8):
            self.cnn_block += [nn.Conv1d(width, filters, 3), nn.MaxPool1d(2), nn.ReLU()]
            if len(self.cnn_block) == slot:
                self.cnn_block.append(nn.BatchNorm1d(filters))
            width = filters
        shape = self.convolved(torch.zeros(2, bins, probes)).shape[1:]
        if layer:
            self.cnn_block.append(nn.LayerNorm(shape))
        self.flat_bn = nn.BatchNorm1d(shape.numel()) if flat else None
        self.fc_block = nn.ModuleList()
        width = shape.numel()
        for units in (12, 10):
            self.fc_block += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(0.1)]
            width = units
        self.fc_block.append(nn.Linear(width, outputs))

    def convolved(self, x: Tensor) -> Tensor:
        x = x.view(-1, *self.shape)
        for layer in self.cnn_block:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolved(x).flatten(1)
        x = x if self.flat_bn is None else self.flat_bn(x)
        for layer in self.fc_block:
            x = layer(x)
        return x


def checkpoint(folder: Path, slot: int = 3, flat: bool = True, layer: bool = True) -> tuple[Path, TheirNet]:
    """A trained-looking checkpoint with its summary and design, as the original leaves them."""
    torch.manual_seed(0)
    net = TheirNet(50, 3, 5, slot, flat, layer)
    net.train()(torch.randn(16, 50, 3))
    state = {"iters": 7, "epoch": 4, "model_state": net.state_dict(), "optimizer_state_dict": {"state": {}}}
    (folder / "checkpoints").mkdir()
    torch.save(state, folder / "checkpoints" / "ckpt.pth")
    model = {
        "myId": "tiny", "inputShape": [50, 3], "outputSize": 5,
        "conv_block": {"filter": [6, 8], "kernel": [3, 3], "pool": [2, 2]}, "batch_norm_cnn_slot": slot,
        "instance_norm_slot": -9, "layer_norm": layer, "batch_norm_flat": flat,
        "fc_block": {"dims": [12, 10], "dropFrac": 0.1},
    }  # fmt: skip
    summary = {"train_params": {"model": model}, "input_meta": {"parName": list("abcde")}}
    (folder / original.SUMMARY).write_text(yaml.safe_dump(summary))
    return folder / "checkpoints" / "ckpt.pth", net.eval()


@pytest.mark.parametrize(("slot", "flat", "layer"), [(-9, False, False), (3, True, False), (6, False, True)])
def test_original_weights_predict_what_they_did(tmp_path: Path, slot: int, flat: bool, layer: bool) -> None:
    path, theirs = checkpoint(tmp_path, slot, flat, layer)
    found = original.convert(path)
    assert (found.bins, found.probes, found.outputs, found.towers, found.epoch) == (50, 3, 5, 1, 4)
    assert found.names == ("a", "b", "c", "d", "e")
    ours = build(resolve(found.settings), found.bins, found.probes, found.outputs).eval()
    ours.load_state_dict(found.network)
    x = torch.randn(4, 50, 3)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_an_original_checkpoint_predicts_packs(tmp_path: Path) -> None:
    """As `ensembles import` takes it: settings, weights, and a prediction for a pack of the right shape."""
    path, theirs = checkpoint(tmp_path)
    config, weights = FAMILY.import_checkpoint(path, "packs")
    save_state(tmp_path / "w.safetensors", weights)
    pack = tmp_path / "x.cellSpike_3prT.data.h5"
    frames = np.random.default_rng(0).normal(size=(6, 50, 3)).astype(np.float32)
    with h5py.File(pack, "w") as file:
        file["test_frames"], file["test_unitStar_par"] = frames, np.zeros((6, 5), np.float32)
    meta = {"dataInfo": {"parName": list("abcde")}, "rawInfo": {"timeAxis": {"step": 0.1}}}
    pack.with_name("x.cellSpike_3prT.meta.yaml").write_text(yaml.safe_dump(meta))
    restored = FAMILY.restore(config, load_state(tmp_path / "w.safetensors"), Place())
    found = restored(FAMILY.open(pack, "test"))["ustar"]
    with torch.no_grad():
        np.testing.assert_allclose(found, theirs(torch.from_numpy(frames)).numpy(), rtol=1e-4, atol=1e-5)


def test_weights_of_another_design_are_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    other = tmp_path / "other.hpar.yaml"
    other.write_text(A2F)
    with pytest.raises(BadInput, match="use_manual_features"):
        original.convert(path, other)
    changed(other, use_manual_features=False)
    with pytest.raises(BadInput, match="2 convolutions are not 3"):
        original.convert(path, other)
    two = {"filter": [6, 9], "kernel": [3, 3], "pool": [2, 2]}
    changed(other, model__conv_block=two, model__layer_norm=True,
            model__fc_block={"dims": [12, 10], "dropFrac": 0.1})  # fmt: skip
    with pytest.raises(BadInput, match=r"design a2f791f3a_ontra4 has \(9, 6, 3\) there"):
        original.convert(path, other)
    with pytest.raises(BadInput, match="tensors, but design"):
        original.convert(path, changed(other, model__layer_norm=False))
    (tmp_path / original.SUMMARY).unlink()
    other.unlink()
    with pytest.raises(BadInput, match="no design beside it"):
        original.convert(path)


def test_a_pickle_of_more_than_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(TheirNet(50, 3, 5, -9, False, False), path)
    with pytest.raises(BadInput, match="checkpoint of weights alone"):
        original.load(path)
    path.write_bytes(b"PK garbage")
    with pytest.raises(BadInput, match=r"model\.pth"):
        original.load(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(BadInput, match="model_state"):
        original.load(path)
    torch.save({"model_state": {"w": torch.tensor([float("nan")])}}, path)
    with pytest.raises(BadInput, match="not all finite"):
        original.load(path)
