"""Settings, and the original program's configurations: read in their own form, run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from ground.errors import BadInput
from models.base import Place
from models.cellnet import checkpoint, config, events, original
from models.cellnet.__main__ import main
from models.cellnet.names import parse
from models.cellnet.network import SparseCellNet
from models.cellnet.run import placed, train
from tests.conftest import run
from tests.models.cellnet import written

SMALL = {"spatial_size": [32, 32, 32], "nChannels": 4, "nStrides": 2, "n_2D": 0, "downsample_t": [2, 2]}
GHOST: dict[str, Any] = {
    "trainer": "basic",
    "output_dir": "$CELLNET_TEST/ghost",
    "store_inference": {"everyNepoch": 2, "everyNsample": 2},
    "data": {
        "name": "sparse",
        "data_path": ["$CELLNET_TEST/electrons", "$CELLNET_TEST/beam"],
        "train_i": [[1, 2], [1, 1]],
        "inference_i": [[3, 3], [2, 3]],
        "tpcs": [None, [1]],
        "batch_size": 1,
        "threshold": 0.001,
    },
    "model": {"name": "cellnet_binary", **SMALL},
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.01},
    "train": {"n_epochs": 3},
    "metrics": {"acc": "BinAccuracy"},
}
CHARGE: dict[str, Any] = {
    **{key: GHOST[key] for key in ("trainer", "data", "optimizer")},
    "output_dir": "$CELLNET_TEST/charge",
    "store_inference": {"everyNepoch": 1, "everyNsample": 1},
    "model": {"name": "cellnet_charge", **SMALL, "freeze": False, "nHiddenLayers": 2},
    "loss": "MSELoss",
    "train": {"n_epochs": 2, "transfer": False},
}
GHOST_INF: dict[str, Any] = {
    **{key: GHOST[key] for key in ("trainer", "output_dir", "metrics")},
    "store_inference": True,
    "data": {"name": "sparse", "data_path": "$CELLNET_TEST/real", "inference_i": [9, 10], "batch_size": 1,
             "threshold": 0.001},
    "model": {"name": "cellnet_binary", **SMALL, "conv_kernel": 3},
    "loss": {"name": "BCEL1Loss", "L1_lambda": 0.1},
    "optimizer": {"name": "Adam", "lr": 0.001},
    "train": {"n_epochs": 1000, "start_epoch": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("original")
    written.folder(place / "electrons", files=3, events=1)
    written.folder(place / "beam", "BeamCosmic", files=3, events=2)
    written.folder(place / "beam", "BeamCosmic", files=3, tpc=5, events=2)
    written.folder(place / "real", "protoDUNE", files=2, first=9, truth=False)
    return place


@pytest.fixture
def home(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("electrons", "beam", "real"):
        (tmp_path / name).symlink_to(files / name)
    monkeypatch.setenv("CELLNET_TEST", str(tmp_path))
    return tmp_path


def start(place: Path, content: dict[str, Any], resume: int | None = None) -> list[str]:
    path, said = place / "config.yaml", []
    path.write_text(yaml.safe_dump(content))
    train(path, resume, Place(), said.append)
    return said


def changed(content: dict[str, Any], **over: Any) -> dict[str, Any]:
    """A configuration with other values, named by `block__key`."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for name, value in over.items():
        block, _, key = name.partition("__")
        if key:
            out[block][key] = value
        else:
            out[block] = value
    return out


def summaries(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "summaries_0.csv", sep="\t")


def test_the_three_configurations_run_one_after_another(home: Path) -> None:
    start(home, GHOST)
    output = home / "ghost"
    text = (output / "summaries_0.csv").read_text()
    assert text.splitlines()[0].split("\t") == [
        "epoch", "train_loss", "train_acc", "train_time", "valid_loss", "valid_acc", "valid_time",
    ]  # fmt: skip
    assert re.fullmatch(r"0(\t\d+\.\d{6}){6}", text.splitlines()[1])
    assert summaries(output)["epoch"].tolist() == [0, 1, 2]
    assert len(list((output / "checkpoints").iterdir())) == 3
    # every second epoch, every second of [beam 2, beam 3, electron 3]
    stored = sorted(path.name for path in (output / "inference").iterdir())
    assert stored == sorted(
        f"epoch{epoch}-reco_{name}_yinf-TPC1.npy" for epoch in (0, 2) for name in ("BeamCosmic_002", "Electron_003")
    )
    array = np.load(output / "inference" / stored[0])
    rows = len(np.load(home / "beam/reco_BeamCosmic_002_xy-TPC1.npz")["X"])
    assert array.dtype == np.float32 and array.shape == (1, rows, 1) and 0 <= array.min() < array.max() <= 1
    assert parse(stored[0]).epoch == 0

    start(home, CHARGE)
    assert len(list((home / "charge/inference").iterdir())) == 2 * 3
    assert list(summaries(home / "charge")) == ["epoch", "train_loss", "train_time", "valid_loss", "valid_time"]

    before = text
    said = start(home, GHOST_INF)
    assert (output / "summaries_0.csv").read_text() == before  # one evaluation leaves no line
    new = {path.name for path in (output / "inference").iterdir()} - set(stored)
    assert new == {f"epoch1-reco_protoDUNE_{index:03d}_yinf-TPC1.npy" for index in (9, 10)}
    assert "epoch 1" in said[-1]


def test_going_on_is_as_if_never_stopped(home: Path) -> None:
    plateau = {"name": "schedule_plateau", "metric": "acc", "patience": 0, "factor": 0.2}
    whole = changed(GHOST, trainer=plateau, output_dir=str(home / "whole"), train__n_epochs=4)
    cut = changed(whole, output_dir=str(home / "cut"), train__n_epochs=2)
    start(home, whole)
    start(home, cut)
    cut["train"]["n_epochs"] = 4
    with pytest.raises(BadInput, match="holds a run up to epoch 1; go on with --resume"):
        start(home, cut)
    start(home, cut, -1)
    timeless = [summaries(home / n).drop(columns=["train_time", "valid_time"]) for n in ("whole", "cut")]
    pd.testing.assert_frame_equal(*timeless)
    states = [torch.load(checkpoint.place(home / n, 3), weights_only=True) for n in ("whole", "cut")]
    assert all(torch.equal(a, b) for a, b in zip(*(s["model"].values() for s in states), strict=True))
    assert states[0]["optimizer"]["param_groups"][0]["lr"] == states[1]["optimizer"]["param_groups"][0]["lr"]
    assert states[0]["plateau"] == states[1]["plateau"]
    # back to epoch 0: later lines are kept in a copy
    start(home, cut, 0)
    assert summaries(home / "cut")["epoch"].tolist() == [0, 1, 2, 3]
    assert len(pd.read_csv(home / "cut/summaries_0.until-3.csv", sep="\t")) == 4
    assert "nothing is left to do" in start(home, cut, -1)[-1]
    start(home, cut, 1)  # once more: what the first copy holds stays
    copies = sorted(path.name for path in (home / "cut").glob("summaries_0.until-*"))
    assert copies == ["summaries_0.until-3-2.csv", "summaries_0.until-3.csv"]


def test_a_plateau_follows_the_validation_accuracy(home: Path) -> None:
    plateau = {"name": "schedule_plateau", "metric": "acc", "patience": 0, "factor": 0.1}
    slow = changed(GHOST, trainer=plateau, optimizer__lr=1e-7, train__n_epochs=4, store_inference=False)
    start(home, slow)
    state = torch.load(checkpoint.place(home / "ghost", 3), weights_only=True)
    assert len(summaries(home / "ghost")["valid_acc"].unique()) <= 4
    accuracies, lr, best, bad = summaries(home / "ghost")["valid_acc"].tolist(), 1e-7, -1.0, 0
    for accuracy in accuracies:  # ReduceLROnPlateau's rule, mode max
        best, bad = (accuracy, 0) if accuracy > best * (1 + 1e-4) else (best, bad + 1)
        if bad > 0:
            lr, bad = (lr * 0.1 if lr * 0.9 > 1e-8 else lr), 0
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(lr, rel=1e-6)


def test_a_transfer_takes_the_trunk_and_then_goes_on(home: Path) -> None:
    start(home, changed(GHOST, train__n_epochs=1))
    shared = changed(CHARGE, output_dir=str(home / "ghost"), train={"n_epochs": 3, "transfer": True})
    said = start(home, changed(shared, train__n_epochs=2))
    assert "its trunk is taken over" in said[0]
    assert summaries(home / "ghost")["epoch"].tolist() == [0, 1]
    said = start(home, shared, -1)
    assert said[0].endswith("loaded")
    with pytest.raises(BadInput, match="has no summaries_0"):
        start(home, changed(CHARGE, train__transfer=True))


def test_large_files_are_evaluated_in_pieces_and_stored_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(home, changed(GHOST, train__n_epochs=2, store_inference=False))
    for name, most in (("whole", events.MOST_VOXELS), ("pieces", 1)):
        monkeypatch.setattr(events, "MOST_VOXELS", most)
        start(home, changed(GHOST_INF, store_inference={"outdir": name}))
    whole, pieces = (sorted((home / "ghost" / name).iterdir()) for name in ("whole", "pieces"))
    assert [path.name for path in whole] == [path.name for path in pieces] and len(whole) == 2
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(np.load(one), np.load(other), rtol=1e-4, atol=1e-6)


WRONG = {
    "loss": ({"loss__name": "BCELos"}, "unknown loss 'BCELos'; did you mean BCELoss"),
    "missing loss": ({"loss": {"name": "WeightedBCELoss", "negative_weight": 0.1}}, "unknown loss"),
    "model": ({"model__name": "cellnet"}, "unknown model 'cellnet'"),
    "optimizer": ({"optimizer__name": "Sgd"}, "unknown optimizer"),
    "no ranges": ({"data__train_i": None, "data__inference_i": None}, "neither data.train_i nor data.inference_i"),
    "range": ({"data__train_i": [1, 2]}, "for each of the 2 paths"),
    "empty": ({"data__train_i": [[50, 60], None]}, "no xy file has an index"),
    "key": ({"data__treshold": 1}, "unknown key data.treshold; did you mean threshold"),
    "top": ({"trains": 1}, "unknown key trains; did you mean train"),
    "nothing to train": ({"data__train_i": None}, "no checkpoint is named"),
    "no checkpoint": ({"train__start_epoch": 7}, "checkpoint_007.pth.tar: no such checkpoint"),
    "loss of the other task": ({"loss__name": "MSELoss"}, "LOSS is mse"),
    "size": ({"model__nChannels": 0}, "N_CHANNELS is 0"),
    "variable": ({"output_dir": "$NO_SUCH_VARIABLE/x"}, "environment variable in it is not set"),
    "batch": ({"data__batch_size": 2}, "a file a step"),
    "metric": ({"trainer": {"name": "schedule_plateau", "metric": "auc"}}, "trainer.metric is 'auc'"),
    "epochs": ({"train__n_epochs": 0}, "train.n_epochs is 0"),
    "drift": ({"model__downsample_t": [2, 4]}, "model.downsample_t"),
    "option": ({"loss__L1_lambda": 1}, "unknown key loss.L1_lambda"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_configuration_is_one_line(case: str, home: Path) -> None:
    over, words = WRONG[case]
    with pytest.raises(BadInput, match=re.escape(words)) as error:
        start(home, changed(GHOST, **over))
    assert "\n" not in str(error.value) and str(home) in str(error.value)
    assert not (home / "ghost/checkpoints").exists()


def test_published_configurations_are_told_in_our_terms(home: Path) -> None:
    path = home / "c.yaml"
    published = changed(GHOST, model={"name": "cellnet_binary", "spatial_size": [1024, 1024, 512], "nChannels": 16,
                                      "nStrides": 4, "n_2D": 0, "downsample_t": [2, 2]})  # fmt: skip
    path.write_text(yaml.safe_dump(published))
    found = original.read(path)
    assert found.settings["LOSS"] == "bce" and found.settings["INPUT_SCALE"] == "none" and found.settings["LR"] == 0.01
    network = SparseCellNet(config.network_settings(found.settings, "ghost", 3))
    assert sum(p.numel() for p in network.parameters()) == 1_406_433
    assert [f.name.index for f in found.train] == [1, 1, 2] and found.options.threshold == 0.001
    weights = changed(CHARGE, loss={"name": "DownsampleMSELoss", "downsample": [4, 5, 6], "weight": 2})
    path.write_text(yaml.safe_dump(weights))
    assert original.read(path).settings["COARSE"] == "4,5,6"


def test_the_verb_trains_and_tells_what_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "ghost.yaml"
    path.write_text(yaml.safe_dump(changed(GHOST, train__n_epochs=1)))
    assert main(["train", str(path)]) == 0
    assert "epoch 0: train_loss" in capsys.readouterr().out
    assert main(["train", str(path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(home / "nowhere.yaml")]) == 2
    path.write_text(yaml.safe_dump(changed(GHOST, train__n_epochs=2)))
    assert main(["train", str(path), "--resume"]) == 0
    assert main(["train", str(path), "--resume", "0"]) == 0


@pytest.mark.slow
def test_several_ranks_train_a_configuration(home: Path) -> None:
    path = home / "ghost.yaml"
    path.write_text(yaml.safe_dump(changed(GHOST, train__n_epochs=2)))
    ranks = ("-m", "torch.distributed.run", "--nproc-per-node", 2)
    done = run(*ranks, "-m", "models.cellnet", "train", path, "-d", "gloo", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1: train_loss") == 1
    assert summaries(home / "ghost")["epoch"].tolist() == [0, 1]
    # three files of inference, numbers 0 and 2 of epoch 0: by whichever rank had them
    assert len(list((home / "ghost/inference").iterdir())) == 2


def test_ranks_need_somebody_who_started_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="names no rank"):
        placed("cpu", "gloo", home / "c.yaml")
    assert placed("cpu", None, home / "c.yaml") == Place("cpu")


# ---- checkpoints


def theirs(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state as the original's layers name and shape it: the trunk numbered, weights (K, 1, in, out)."""
    out = {}
    for number, (name, tensor) in enumerate(state.items()):
        shaped = (
            tensor[:, None]
            if tensor.ndim == 3 and len(tensor) > 1
            else tensor.squeeze(0)
            if tensor.ndim == 3
            else tensor
        )
        part = name.rpartition(".")[2]
        out[f"sparseModel.2.{number}.{part}" if name.startswith("trunk.") else name.replace("head.", "linear.")] = (
            shaped
        )
    return out


@pytest.fixture
def network() -> SparseCellNet:
    torch.manual_seed(0)
    return SparseCellNet(config.network_settings(config.resolve({"N_CHANNELS": 4, "N_STRIDES": 2}), "ghost", 3))


def test_checkpoints_of_the_originals_layers_are_taken_in_order(network: SparseCellNet, tmp_path: Path) -> None:
    path = tmp_path / "c.pth.tar"
    given = {name: torch.randn_like(v) for name, v in network.state_dict().items()}
    torch.save({"model": theirs(given), "optimizer": {}}, path)
    model = checkpoint.read(path)["model"]
    checkpoint.fill(path, model, network)
    assert all(torch.equal(v, given[name]) for name, v in network.state_dict().items())
    assert checkpoint.same_head(model, network)
    charge = SparseCellNet(config.network_settings(config.resolve({"N_CHANNELS": 4, "N_STRIDES": 2}), "charge", 3))
    assert not checkpoint.same_head(model, charge)
    checkpoint.fill(path, model, charge, trunk_only=True)
    assert torch.equal(charge.trunk.norm.weight, network.trunk.norm.weight)
    wider = SparseCellNet(config.network_settings(config.resolve({"N_CHANNELS": 8, "N_STRIDES": 2}), "ghost", 3))
    with pytest.raises(BadInput, match="the configured network takes"):
        checkpoint.fill(path, model, wider)
    deeper = SparseCellNet(config.network_settings(config.resolve({"N_CHANNELS": 4, "N_STRIDES": 3}), "ghost", 3))
    with pytest.raises(BadInput, match="tensors, the configured network"):
        checkpoint.fill(path, model, deeper)


class Runs:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_checkpoints_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.pth.tar"
    for content in (
        {"model": Runs()},
        {"weights": {}},
        {"model": {"a": 1}},
        {"model": {"a": torch.tensor([np.nan])}},
        [1],
    ):
        torch.save(content, path)
        with pytest.raises(BadInput, match=re.escape(str(path))) as error:
            checkpoint.read(path)
        assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="not a readable checkpoint"):
        checkpoint.read(path)
    assert "run" not in capsys.readouterr().out


# ---- settings


def test_settings_are_checked() -> None:
    complete = config.resolve({"SPATIAL": [64, 64, 32]})
    assert complete["SPATIAL"] == "64,64,32" and config.resolve(complete) == complete
    wrong = {"CONV_KERNEL": 2, "DOWNSAMPLE_T": 3, "SPATIAL": "1,2", "COARSE": "0,1,2", "N_CHANELS": 3, "LOSS": "l1"}
    for name, value in {**wrong, "SPATIAL ": "40000,2,2"}.items():
        with pytest.raises(BadInput, match=name.strip()):
            config.resolve({name.strip(): value})
    told = config.network_settings(complete, "charge", 5)
    assert told["SPATIAL"] == [64, 64, 32] and told["HEAD"] == "charge" and told["N_FEATURES"] == 5
