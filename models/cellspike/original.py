"""Weights of the original PyTorch program, read without trusting them.

A checkpoint is {iters, epoch, model_state, optimizer_state_dict}. Only tensors and plain containers are let through
(torch's restricted loader); weights are matched to our network by their order and shapes, which its design fixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ground import pickled
from ground.documents import parse_yaml, read_text
from ground.errors import BadInput
from models.cellspike import hpar
from models.cellspike.network import build

SUMMARY = "sum_train.yaml"
"""What the original program writes beside its checkpoints: `train_params` is the design, `input_meta` the data."""


@dataclass(frozen=True)
class Original:
    """A network of the original program, ready for ours.

    Attributes:
        settings: ours, LEGACY_RESHAPE among them: these weights saw scrambled channels.
        data: keys of our data block.
        network: the state of `models.cellspike.network.build(settings, bins, probes, outputs, towers=towers)`.
        bins, probes, outputs, towers: its sizes.
        names: of the outputs; par_0, par_1, ... where the summary does not say.
        meta: what the summary says of the data (`input_meta`).
        epoch: how far it was trained.
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    network: dict[str, Tensor]
    bins: int
    probes: int
    outputs: int
    towers: int
    names: tuple[str, ...]
    meta: Mapping[str, Any]
    epoch: int

    def weights(self) -> dict[str, Any]:
        """What `Family.restore` takes: the network, and how its traces are to be read as far as the summary says."""
        simulation = self.meta.get("simu_info") or {}
        probes = self.meta.get("featureName") or simulation.get("probe_names") or ()
        stims = [str(name) for name in simulation.get("stim_names") or ()]
        stimuli = self.data.get("stimuli", "samples" if self.towers == 1 else "towers")
        if self.towers > 1 and len(stims) != self.towers:
            stims = [f"stim_{number}" for number in range(self.towers)]
        # an ONTRA trace is 200 ms long, others have bins of .1 ms
        ontra = bool(self.meta.get("ustarTransform") or self.meta.get("conductName"))
        step = (self.meta.get("timeAxis") or {}).get("step") or (200 / self.bins if ontra else 0.1)
        reading = {
            "probes": [str(p) for p in probes] if len(probes) == self.probes else _numbered("probe", self.probes),
            "stims": stims or ["stim_0"],
            "stimuli": stimuli,
            "normalisation": self.data.get("normalisation", "stored"),
            "starred": ontra and self.data.get("target") != "u",
            "extras": [],
        }
        about = {
            "names": list(self.names),
            "reading": reading,
            "shape": [self.bins, self.probes, self.towers, 0],
            "step_ms": float(step),
            "units": None,
            "extras": [[], []],
        }
        return {"network": self.network, "about": about}


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        BadInput: missing, damaged, a pickle of more than tensors and plain values, or no such checkpoint.
    """
    try:
        content = pickled.load(path)
    except BadInput as error:
        raise BadInput(f"{error} (a checkpoint of weights alone is wanted)") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("model_state"), Mapping):
        raise BadInput(f"{path}: has no model_state: it is no checkpoint of the original program")
    for name, value in content["model_state"].items():
        if not isinstance(value, Tensor):
            raise BadInput(f"{path}: model_state {name} is no tensor")
    return dict(content)


def convert(path: Path, design: Path | None = None, bins: int | None = None) -> Original:
    """A checkpoint with the design and sizes that belong to it.

    Args:
        path: the checkpoint.
        design: its hpar.yaml (default: the only one beside it or one folder up, else `train_params` of SUMMARY).
        bins: of its input (default: SUMMARY says; where there is none it must be given).

    Raises:
        BadInput: as `load`; no design or bins; weights that are not those of the design.
    """
    content = load(path)
    folders = (path.resolve().parent, path.resolve().parent.parent)
    summary = next((f / SUMMARY for f in folders if (f / SUMMARY).is_file()), None)
    meta = _summary(summary) if summary else {}
    read = _design(path, design, folders, meta, summary)
    if read.data.get("features"):
        raise BadInput(f"{path}: was trained with use_manual_features, of which it does not say how they were scaled")
    settings = {**read.settings, "LEGACY_RESHAPE": True}
    state: Mapping[str, Tensor] = content["model_state"]
    convs = [value for value in state.values() if value.ndim == 3]
    linears = [value for value in state.values() if value.ndim == 2 and value.is_floating_point()]
    depth = settings["CONV_DEPTH"]
    # layer normalisation has two axes, too, but stands before the dense layers
    if not convs or len(convs) % depth or not linears:
        raise BadInput(f"{path}: {len(convs)} convolutions are not {depth} a tower, as {read.name} has")
    towers, probes, outputs = len(convs) // depth, convs[0].shape[1], linears[-1].shape[0]
    bins = bins or _bins(meta)
    if not bins:
        raise BadInput(f"{path}: how many time bins? there is no {SUMMARY} that says; give --bins")
    network = build({"DROPOUT": 0.0, **settings}, bins, probes, outputs, towers=towers)
    told = dict(meta.get("input_meta") or {})
    names = [str(name) for name in told.get("parName") or ()]
    return Original(
        settings=settings,
        data=read.data,
        network=_matched(path, read.name, network.state_dict(), state),
        bins=bins,
        probes=probes,
        outputs=outputs,
        towers=towers,
        names=tuple(names if len(names) == outputs else _numbered("par", outputs)),
        meta=told,
        epoch=int(content.get("epoch") or 0),
    )


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word}_{number}" for number in range(count)]


def _summary(path: Path) -> dict[str, Any]:
    content = parse_yaml(read_text(path), str(path))
    return content if isinstance(content, dict) else {}


def _design(
    path: Path, given: Path | None, folders: tuple[Path, ...], meta: Mapping[str, Any], summary: Path | None
) -> hpar.Design:
    if given is not None:
        return hpar.read(given)
    for folder in folders:
        found = sorted(folder.glob(f"*{hpar.SUFFIX}"))
        if len(found) > 1:
            raise BadInput(f"{path}: {len(found)} designs lie in {folder}; say which (--design)")
        if found:
            return hpar.read(found[0])
    if summary is not None and isinstance(meta.get("train_params"), Mapping):
        return hpar.of(meta["train_params"], summary)
    raise BadInput(f"{path}: no design beside it (*{hpar.SUFFIX} or {SUMMARY}); give --design")


def _bins(meta: Mapping[str, Any]) -> int | None:
    shape = ((meta.get("train_params") or {}).get("model") or {}).get("inputShape")
    told = shape[0] if isinstance(shape, list) and shape else (meta.get("input_meta") or {}).get("numTimeBin")
    return int(told) if isinstance(told, (int, float)) and told >= 1 else None


def _matched(path: Path, design: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if len(ours) != len(theirs):
        raise BadInput(f"{path}: {len(theirs)} tensors, but design {design} has {len(ours)}")
    for (name, one), (other, value) in zip(ours.items(), theirs.items(), strict=True):
        if one.shape != value.shape:
            raise BadInput(
                f"{path}: {other} is {tuple(value.shape)}, but design {design} has {tuple(one.shape)} there ({name})"
            )
    return {name: value.to(one.dtype) for (name, one), value in zip(ours.items(), theirs.values(), strict=True)}
