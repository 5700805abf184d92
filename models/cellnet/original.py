"""Configurations of the original program (mlreco_cell), read in their own form and told in this family's terms."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground.documents import read_yaml
from ground.errors import BadInput
from ground.paths import expanded
from models.cellnet import config as settings
from models.cellnet.files import File, select
from models.cellnet.options import Options, ranges
from models.cellnet.options import tpcs as parse_tpcs
from models.cellnet.transforms import PLANES, parse

MODELS: dict[str, settings.Task] = {"cellnet_binary": "ghost", "cellnet_charge": "charge"}
# name there -> name here and what its options are called
LOSSES: dict[str, tuple[str, dict[str, str]]] = {
    "BCELoss": ("bce", {}),
    "BCEL1Loss": ("bce_l1", {"L1_lambda": "L1"}),
    "LabelWeightedBCELoss": ("label_weighted", {"positive_weight": "POSITIVE_WEIGHT"}),
    "ChargeWeightedBCELoss": ("charge_weighted", {"negative_weight": "NEGATIVE_WEIGHT"}),
    "MSELoss": ("mse", {}),
    "HuberLoss": ("huber", {"delta": "HUBER"}),
    "DownsampleMSELoss": ("downsample_mse", {"downsample": "COARSE", "weight": "COARSE_WEIGHT"}),
}
OPTIMIZERS = {"Adam": "adam", "AdamW": "adamw"}
_MODEL = {
    "spatial_size": "SPATIAL",
    "nChannels": "N_CHANNELS",
    "nStrides": "N_STRIDES",
    "n_2D": "N_2D",
    "reps": "REPS",
    "conv_kernel": "CONV_KERNEL",
    "momentum": "MOMENTUM",
    "leakiness": "LEAKINESS",
    "nHiddenLayers": "N_HIDDEN",
    "freeze": "FREEZE",
}
_KEYS = {
    "": ("trainer", "output_dir", "store_inference", "data", "model", "loss", "optimizer", "train", "metrics"),
    "trainer": ("name", "metric", "patience", "factor"),
    "store_inference": ("everyNepoch", "everyNsample", "outdir"),
    "data": (
        *("name", "data_path", "train_i", "inference_i", "tpcs", "batch_size", "threshold", "transforms", "full_y"),
    ),
    "model": ("name", "nInputFeatures", "downsample", "downsample_t", *_MODEL),
    "optimizer": ("name", "lr", "weight_decay"),
    "train": ("n_epochs", "start_epoch", "transfer"),
}
ACCURACY = "BinAccuracy"


@dataclass(frozen=True)
class Stored:
    """Which inferences are written: of every so many-th epoch and file, to a folder of the output."""

    epochs: int = 1
    samples: int = 1
    folder: str = "inference"


@dataclass(frozen=True)
class Original:
    """A configuration.

    Attributes:
        path: the YAML file.
        output: the run's folder.
        settings: complete settings of this family.
        options: thresholds and transforms of the data.
        train, inference: the files of each part, sorted by full path.
        epochs: how many there are in all.
        start: the epoch whose checkpoint it goes on from; None: as the command says.
        transfer: whether only weights are taken from that checkpoint, those that fit.
        stored: None: no inference is written.
        watched: of the plateau trainer, the metric whose stagnation lowers the rate.
        accuracy: what the accuracy's columns are called; "": there are none.
    """

    path: Path
    output: Path
    settings: dict[str, Any]
    options: Options
    train: list[File]
    inference: list[File]
    epochs: int
    start: int | None
    transfer: bool
    stored: Stored | None
    watched: str
    accuracy: str


def read(path: Path) -> Original:
    """A configuration and the files it means.

    Raises:
        BadInput: not such a file; an unknown key, model, loss or optimizer; no ranges, or no file in them.
    """
    content = read_yaml(path)

    def fail(message: str) -> BadInput:
        return BadInput(f"{path}: {message}")

    _known(content, "", fail)
    blocks = {name: _block(content, name, fail) for name in ("data", "model", "loss", "optimizer", "train")}
    task = _named(blocks["model"], "model", MODELS, fail)
    accuracy = _accuracy(content.get("metrics") or {}, task, fail)
    watched, plateau = _trainer(content.get("trainer", "basic"), accuracy, fail)
    try:
        options, train, inference = _data(blocks["data"], task)
        chosen = settings.resolve({
            **_model(blocks["model"], options.transforms.features, fail),
            **_loss(blocks["loss"], task, fail),
            **_optimizer(blocks["optimizer"], fail),
            **plateau,
            "EPOCHS": _whole(blocks["train"], "train", "n_epochs", 1, fail),
            "INPUT_SCALE": "none",
        })  # fmt: skip
        settings.loss_name(chosen, task)
    except BadInput as error:
        raise error if str(error).startswith(str(path)) else fail(str(error)) from None
    start = blocks["train"].get("start_epoch")
    return Original(
        path=path,
        output=_output(content.get("output_dir"), fail),
        settings=chosen,
        options=options,
        train=train,
        inference=inference,
        epochs=chosen["EPOCHS"],
        start=None if start is None else _whole(blocks["train"], "train", "start_epoch", 0, fail),
        transfer=_truth_value(blocks["train"], "transfer", fail),
        stored=_stored(content.get("store_inference"), fail),
        watched=watched,
        accuracy=accuracy,
    )


def _known(block: Mapping[str, Any], name: str, fail: Any) -> None:
    for key in block:
        if key not in _KEYS[name]:
            near = difflib.get_close_matches(str(key), _KEYS[name], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS[name])}"
            raise fail(f"unknown key {name + '.' if name else ''}{key}; {hint}")


def _block(content: Mapping[str, Any], name: str, fail: Any) -> dict[str, Any]:
    block = content.get(name)
    if isinstance(block, str) and name == "loss":  # a loss without arguments, by its name
        return {"name": block}
    if not isinstance(block, dict):
        raise fail(f"{name} is {block!r}; it takes a mapping")
    if name in _KEYS:
        _known(block, name, fail)
    return block


def _named(block: Mapping[str, Any], what: str, known: Mapping[str, Any], fail: Any) -> Any:
    name = block.get("name")
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise fail(f"unknown {what} {name!r}; {hint}")
    return known[str(name)]


def _whole(block: Mapping[str, Any], where: str, name: str, least: int, fail: Any) -> int:
    value = block.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise fail(f"{where}.{name} is {value!r}; it takes a whole number from {least}")
    return value


def _truth_value(block: Mapping[str, Any], name: str, fail: Any) -> bool:
    value = block.get(name, False)
    if not isinstance(value, bool):
        raise fail(f"{name} is {value!r}; it takes true or false")
    return value


def _output(given: Any, fail: Any) -> Path:
    if not isinstance(given, str):
        raise fail(f"output_dir is {given!r}; it takes the folder of the run")
    text = os.path.expandvars(given)
    if "$" in text:
        raise fail(f"output_dir is {given}, and the environment variable in it is not set")
    return expanded(text)


def _data(block: Mapping[str, Any], task: settings.Task) -> tuple[Options, list[File], list[File]]:
    if block.get("name", "sparse") != "sparse":
        raise BadInput(f"data.name is {block['name']!r}; it takes sparse")
    if block.get("batch_size", 1) != 1:
        raise BadInput(f"data.batch_size is {block['batch_size']!r}; it takes 1, a file a step")
    given = block.get("data_path")
    paths: Sequence[Any] = [given] if isinstance(given, str) else given or []
    if not paths or not all(isinstance(path, str) for path in paths):
        raise BadInput(f"data.data_path is {given!r}; it takes a folder or a list of folders")
    wanted = {key: ranges(f"data.{key}", block.get(key), len(paths)) for key in ("train_i", "inference_i")}
    if not any(wanted.values()):
        raise BadInput("has neither data.train_i nor data.inference_i: no range of file indices is asked for")
    planes = parse_tpcs(block.get("tpcs"), len(paths), not isinstance(given, str))
    threshold = block.get("threshold")
    options = Options(
        path=tuple(paths),
        task=task,
        # without a threshold the original's losses take what is above 0
        threshold=0.0 if threshold is None else float(threshold),
        transforms=parse(block.get("transforms"), len(paths)),
    )
    train, inference = (select(paths, wanted[key], planes) if wanted[key] else [] for key in wanted)
    return options, train, inference


def _model(block: Mapping[str, Any], features: int, fail: Any) -> dict[str, Any]:
    out = {here: block[there] for there, here in _MODEL.items() if there in block}
    if block.get("nInputFeatures", features) != features:
        raise fail(f"model.nInputFeatures is {block['nInputFeatures']}; the data has {features} ({PLANES} planes)")
    if list(block.get("downsample", [2, 2])) != [2, 2]:
        raise fail(f"model.downsample is {block['downsample']!r}; it takes [2, 2]")
    drift = list(block.get("downsample_t", [4, 4]))
    if len(drift) != 2 or drift[0] != drift[1]:
        raise fail(f"model.downsample_t is {drift!r}; it takes [2, 2] or [4, 4]")
    # the original's default is one hidden layer
    return {"N_HIDDEN": 1, **out, "DOWNSAMPLE_T": drift[0]}


def _loss(block: Mapping[str, Any], task: settings.Task, fail: Any) -> dict[str, Any]:
    name, options = _named(block, "loss", LOSSES, fail)
    for key in block:
        if key != "name" and key not in options:
            raise fail(f"unknown key loss.{key}; {block['name']} takes {', '.join(options) or 'none'}")
    return {"LOSS": name, **{here: block[there] for there, here in options.items() if there in block}}


def _optimizer(block: Mapping[str, Any], fail: Any) -> dict[str, Any]:
    out = {"OPTIMIZER": _named(block, "optimizer", OPTIMIZERS, fail), "LR": block.get("lr", 1e-3)}
    return {**out, "WEIGHT_DECAY": block["weight_decay"]} if "weight_decay" in block else out


def _trainer(given: Any, accuracy: str, fail: Any) -> tuple[str, dict[str, Any]]:
    block = given if isinstance(given, dict) else {"name": given}
    _known(block, "trainer", fail)
    if block.get("name") == "basic":
        return "", {"SCHEDULE": "constant"}
    if block.get("name") != "schedule_plateau":
        raise fail(f"unknown trainer {block.get('name')!r}; known are basic, schedule_plateau")
    watched = str(block.get("metric", accuracy))
    if watched not in ("loss", accuracy) or not watched:
        raise fail(f"trainer.metric is {watched!r}, which is not among the metrics")
    out = {"SCHEDULE": "plateau"}
    names = {"patience": "PLATEAU_PATIENCE", "factor": "PLATEAU_FACTOR"}
    return watched, {**out, **{here: block[there] for there, here in names.items() if there in block}}


def _accuracy(block: Any, task: str, fail: Any) -> str:
    if not isinstance(block, dict):
        raise fail(f"metrics is {block!r}; it takes a mapping such as {{acc: {ACCURACY}}}")
    for column, metric in block.items():
        if metric != ACCURACY or task != "ghost":
            raise fail(f"metrics.{column} is {metric!r}; ghost removal knows {ACCURACY}, charges none")
    return str(next(iter(block), ""))


def _stored(given: Any, fail: Any) -> Stored | None:
    if not given:
        return None
    if given is True:
        return Stored()
    if not isinstance(given, dict):
        raise fail(f"store_inference is {given!r}; it takes true, false or {{everyNepoch: 1, everyNsample: 1}}")
    _known(given, "store_inference", fail)
    each = {key: {key: given.get(key, 1)} for key in ("everyNepoch", "everyNsample")}
    epochs, samples = (_whole(block, "store_inference", key, 1, fail) for key, block in each.items())
    return Stored(epochs, samples, str(given.get("outdir", "inference")))
