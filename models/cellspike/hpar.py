"""Designs of the original PyTorch program: its `<design>.hpar.yaml` read into our settings, and written from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ground.documents import parse_yaml, read_text
from ground.errors import BadInput
from models.cellspike.tower import NEVER

SUFFIX = ".hpar.yaml"
COOLDOWN = 2
"""Epochs that the original's scheduler waits after it lowered the rate: fixed there, in no file."""
_MOST = 8
"""Layers of a kind that the settings can name."""
_STIMULI = {"serialize_stims": "samples", "append_stim": "append", "parallel_stim": "towers"}
_FLAT = {
    # key: (setting, kind of value)
    "max_epochs": ("EPOCHS", int),
    "batch_size": ("BATCH_SIZE", int),
    "const_local_batch": ("CONST_LOCAL_BATCH", bool),
    "opt_pytorch.amp": ("AMP", bool),
    "train_conf.warmup_epochs": ("WARMUP_EPOCHS", int),
    "train_conf.LRsched.plateau_patience": ("PLATEAU_PATIENCE", int),
    "train_conf.LRsched.reduceFactor": ("LR_FACTOR", float),
    "train_conf.clip_grad_norm": ("CLIP", float),
    "model.batch_norm_cnn_slot": ("BATCH_NORM_CNN_SLOT", int),
    "model.instance_norm_slot": ("INSTANCE_NORM_SLOT", int),
    "model.layer_norm": ("LAYER_NORM", bool),
    "model.batch_norm_flat": ("BATCH_NORM_FLAT", bool),
    "model.fc_block.dropFrac": ("DROPOUT", float),
}
_IDLE = {
    "data_path": "data are named by --data or the data block",
    "data_conf.num_data_workers": "data lie in memory",
    "num_data_workers": "data lie in memory",
    "validation_period": "every epoch is validated",
    "save_checkpoint": "the best and the last state are always kept",
    "resume_checkpoint": "the same command resumes",
    "do_ray": "run_hyperopt.py searches",
    "model_type": "the CNN is the only kind",
    "log_freq_per_epoch": "an epoch is a line of metrics.csv",
    "tb_show_graph": "TensorBoard shows numbers only",
    "opt_pytorch.apex": "AMP is torch's own",
    "opt_pytorch.autotune": "not needed",
    "opt_pytorch.zerograd": "not needed",
    "model.comment": "words",
    "model.inputShape": "the data say",
    "model.outputSize": "the data say",
    "model.num_cnn_blocks": "there is a tower a stimulus with parallel_stim, else one",
    "model.outputSize_override": "the data say how many conductances there are",
}
"""What has no meaning here, and why."""


@dataclass
class Design:
    """A design of the original program.

    Attributes:
        name: `model.myId`, else the file's name.
        settings: ours.
        data: keys of our data block.
        idle: keys read that change nothing here, with the reason.
        unknown: keys that the original's files are not known to have.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    idle: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def read(path: Path) -> Design:
    """The design that a file describes.

    Raises:
        BadInput: no readable YAML, no `model` with its blocks, or a value that cannot be meant; file and key named.
    """
    return of(parse_yaml(read_text(path), str(path)), path)


def of(content: Any, path: Path) -> Design:
    """The design that a file's content describes; `path` is for messages.

    Raises:
        BadInput: as `read`.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise BadInput(f"{path}: has no model: it is no design")
    given = dict(_leaves(content))
    design = Design(str(given.pop("model.myId", None) or path.name.removesuffix(SUFFIX)))
    reader = _Reader(path, given)
    design.settings = {"DESIGN": "torch", **reader.stack(), **reader.dense(), **reader.old()}
    for key, (setting, kind) in _FLAT.items():
        if key in given:
            design.settings[setting] = reader.value(key, kind)
    if "train_conf.optimizer" in given:
        design.settings |= reader.optimizer()
    if "PLATEAU_PATIENCE" in design.settings:
        design.settings |= {"SCHEDULE": "plateau", "PLATEAU_COOLDOWN": COOLDOWN}
    design.data = reader.data()
    for key in given:
        if reason := next((why for idle, why in _IDLE.items() if key == idle or key.startswith(f"{idle}.")), ""):
            design.idle[key] = reason
        elif key not in reader.read:
            design.unknown.append(key)
    return design


class _Reader:
    """Values of one file by dotted key; what was asked for counts as known."""

    def __init__(self, path: Path, given: Mapping[str, Any]) -> None:
        self.path, self.given, self.read = path, given, set[str]()

    def value(self, key: str, kind: type) -> Any:
        self.read.add(key)
        value = self.given[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is not bool and number and (kind is float or float(value).is_integer()):
            return kind(value)
        raise BadInput(f"{self.path}: {key} is {value!r}; it takes {_WORDS[kind]}")

    def whole(self, key: str) -> list[int]:
        """A list of whole numbers above zero, no longer than the settings can name."""
        self.read.add(key)
        value = self.given.get(key)
        if value is None:
            raise BadInput(f"{self.path}: has no {key}")
        if not isinstance(value, list) or not all(type(v) is int and v > 0 for v in value):
            raise BadInput(f"{self.path}: {key} is {value!r}; it takes a list of whole numbers above 0")
        return value

    def stack(self) -> dict[str, Any]:
        lists = {key: self.whole(f"model.conv_block.{key}") for key in ("filter", "kernel", "pool")}
        lengths = {key: len(values) for key, values in lists.items()}
        if len(set(lengths.values())) > 1 or not 0 < lengths["filter"] <= _MOST:
            told = ", ".join(f"{number} of {key}" for key, number in lengths.items())
            raise BadInput(f"{self.path}: model.conv_block has {told}; it takes as many of each, 1 to {_MOST}")
        out: dict[str, Any] = {"CONV_DEPTH": lengths["filter"]}
        for number, three in enumerate(zip(*lists.values(), strict=True), 1):
            out |= {f"{name}_{number}": v for name, v in zip(("FILTERS", "KERNEL", "POOL"), three, strict=True)}
        return out

    def dense(self) -> dict[str, Any]:
        units = self.whole("model.fc_block.dims")
        if not 0 < len(units) <= _MOST + 1:
            raise BadInput(f"{self.path}: model.fc_block.dims has {len(units)} layers; it takes 1 to {_MOST + 1}")
        named, last = units[:_MOST], units[_MOST:]
        out = {f"FC_{number}": width for number, width in enumerate(named, 1)}
        return {"FC_DEPTH": len(named), **out, "FC_LAST": last[0] if last else 0}

    def old(self) -> dict[str, Any]:
        """Keys of the first designs: batch_norm is batch_norm_flat, instance_norm stood after the first block."""
        out = {}
        if "model.batch_norm" in self.given:
            out["BATCH_NORM_FLAT"] = self.value("model.batch_norm", bool)
        if "model.instance_norm" in self.given:
            out["INSTANCE_NORM_SLOT"] = 3 if self.value("model.instance_norm", bool) else NEVER
        return out

    def optimizer(self) -> dict[str, Any]:
        key = "train_conf.optimizer"
        self.read.add(key)
        value = self.given[key]
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], (int, float)):
            raise BadInput(f"{self.path}: {key} is {value!r}; it takes [name, rate]")
        return {"OPTIMIZER": str(value[0]).lower(), "LR": float(value[1])}

    def data(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        keys = [f"data_conf.{key}" for key in _STIMULI]
        chosen = [_STIMULI[k.split(".")[1]] for k in keys if k in self.given and self.value(k, bool)]
        if len(chosen) > 1:
            raise BadInput(f"{self.path}: data_conf: only one of {', '.join(_STIMULI)} can be true")
        if chosen:
            out["stimuli"] = chosen[0]
        for key in ("data_conf.max_glob_samples_per_epoch", "max_glob_samples_per_epoch"):
            if key in self.given:
                out["samples_per_epoch"] = self.value(key, int)
        if "use_manual_features" in self.given and self.value("use_manual_features", bool):
            out["features"] = "efel"
        for key in ("recover_upar_from_ustar", "per_wavform_norm"):
            for place in (key, f"train_conf.{key}", f"data_conf.{key}"):
                if place in self.given and self.value(place, bool):
                    out |= {"target": "u"} if key.startswith("recover") else {"normalisation": "sample"}
        return out


_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested keys as dotted ones."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def written(settings: Mapping[str, Any], data: Mapping[str, Any], name: str) -> tuple[str, list[str]]:
    """A design in the original's form, and the settings that it cannot say.

    Args:
        settings: complete settings.
        data: our data block (only what a design says of it is used).
        name: becomes `model.myId`.

    Raises:
        BadInput: the Keras design, which these files cannot describe.
    """
    if settings["DESIGN"] != "torch":
        raise BadInput(f"DESIGN is {settings['DESIGN']}: a hpar.yaml describes the torch design only")
    depth = range(1, int(settings["CONV_DEPTH"]) + 1)
    dims = [int(settings[f"FC_{n}"]) for n in range(1, int(settings["FC_DEPTH"]) + 1)]
    plateau = settings["SCHEDULE"] == "plateau"
    stimuli = data.get("stimuli", "samples")
    # the original knows no constant rate: a patience that no training reaches is one
    factor, patience = (settings["LR_FACTOR"], settings["PLATEAU_PATIENCE"]) if plateau else (0.5, settings["EPOCHS"])
    content = {
        "data_conf": {key: stimuli == value for key, value in _STIMULI.items()},
        "max_epochs": settings["EPOCHS"],
        "batch_size": settings["BATCH_SIZE"],
        "const_local_batch": settings["CONST_LOCAL_BATCH"],
        "validation_period": [1, 1],
        "save_checkpoint": True,
        "resume_checkpoint": False,
        "do_ray": False,
        "model_type": "CNN",
        "use_manual_features": data.get("features", "none") == "efel",
        "opt_pytorch": {"amp": settings["AMP"], "apex": False, "autotune": False, "zerograd": False},
        "train_conf": {
            "warmup_epochs": settings["WARMUP_EPOCHS"],
            "optimizer": [settings["OPTIMIZER"], settings["LR"]],
            "LRsched": {"plateau_patience": patience, "reduceFactor": factor},
            "recover_upar_from_ustar": data.get("target") == "u",
            "per_wavform_norm": data.get("normalisation") == "sample",
        },
        "model": {
            "myId": name,
            "conv_block": {
                key: [int(settings[f"{ours}_{n}"]) for n in depth]
                for key, ours in (("filter", "FILTERS"), ("kernel", "KERNEL"), ("pool", "POOL"))
            },
            "batch_norm_cnn_slot": settings["BATCH_NORM_CNN_SLOT"],
            "instance_norm_slot": settings["INSTANCE_NORM_SLOT"],
            "layer_norm": settings["LAYER_NORM"],
            "batch_norm_flat": settings["BATCH_NORM_FLAT"],
            "fc_block": {
                "dims": dims + [int(settings["FC_LAST"])] * bool(settings["FC_LAST"]),
                "dropFrac": settings["DROPOUT"],
            },
        },
    }
    conf: dict[str, Any] = content["data_conf"]
    if data.get("samples_per_epoch"):
        conf["max_glob_samples_per_epoch"] = int(data["samples_per_epoch"])
    train: dict[str, Any] = content["train_conf"]
    if settings["CLIP"]:
        train["clip_grad_norm"] = settings["CLIP"]
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None), _lost(settings)


def _lost(settings: Mapping[str, Any]) -> list[str]:
    """Settings that the original program has no word for, where they are not what it does anyway."""
    as_theirs = {"OPTIMIZER": "adam", "LOSS": "mse", "WEIGHT_DECAY": 0.0, "EARLY_STOP": 0, "LEGACY_RESHAPE": True}
    if settings["SCHEDULE"] == "plateau":
        as_theirs["PLATEAU_COOLDOWN"] = COOLDOWN
    lost = [f"{k}: {settings[k]}" for k, theirs in as_theirs.items() if k in settings and settings[k] != theirs]
    return lost + ([f"SCHEDULE: {settings['SCHEDULE']}"] if settings["SCHEDULE"] == "cosine" else [])
