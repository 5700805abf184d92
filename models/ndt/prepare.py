"""Raw NWB of the Neural Latents Benchmark -> tensors by nlb_tools -> NDT files, each step cached.

    NLB_DATA_RAW/<dandiset>/<subject>/*.nwb
    NLB_CACHE_DIR/<dataset>[_20]_target_val.h5     what nlb_tools' evaluate() compares with, phase val
    NDT_CACHE_DIR/<dataset>[_20]_train.h5          phase val: train on train, score on val
    NDT_CACHE_DIR/<dataset>[_20]_test.h5           phase test: train on train + val, predict test

Memory: one dataset is loaded at 1 ms as float16 without the behaviour that no target needs, resampled, and
dropped before the arrays are written.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import atomic_path
from ground.paths import made
from ground.typed import command
from models.ndt.folders import folder


@dataclass(frozen=True)
class Dataset:
    """One of the benchmark's datasets: where it comes from and what sizes it has.

    Attributes:
        dandiset: its number in the DANDI archive.
        subject: the folder with its NWB files.
        bins, forward: at 5 ms.
        units: (held-in, held-out) of each release.
    """

    dandiset: str
    subject: str
    bins: int
    units: tuple[tuple[int, int], ...]
    forward: int = 40


DATASETS = {
    "mc_maze": Dataset("000128", "sub-Jenkins", 140, ((137, 45),)),
    "mc_rtt": Dataset("000129", "sub-Indy", 120, ((98, 32),)),
    "area2_bump": Dataset("000127", "sub-Han", 120, ((49, 16),)),
    "dmfc_rsg": Dataset("000130", "sub-Haydn", 300, ((45, 15), (40, 14))),
    "mc_maze_large": Dataset("000138", "sub-Jenkins", 140, ((122, 40),)),
    "mc_maze_medium": Dataset("000139", "sub-Jenkins", 140, ((114, 38),)),
    "mc_maze_small": Dataset("000140", "sub-Jenkins", 140, ((107, 35),)),
}
# recorded at 1 ms and needed for no tensor: most of an mc_maze session's memory beside the spikes
_UNUSED_FIELDS = [
    "cursor_pos", "eye_pos", "hand_pos", "finger_pos", "target_pos", "force", "joint_ang", "joint_vel",
    "muscle_len", "muscle_vel",
]  # fmt: skip
BIN_WIDTHS = (5, 20)


def known(dataset: str) -> Dataset:
    """Raises: BadInput: not one of the seven."""
    if dataset not in DATASETS:
        raise BadInput(f"{dataset!r} is not an NLB dataset; there are {', '.join(DATASETS)}")
    return DATASETS[dataset]


def suffix(bin_ms: int) -> str:
    """nlb_tools' suffix of names: none at 5 ms, `_20` at 20 ms."""
    if bin_ms not in BIN_WIDTHS:
        raise BadInput(f"bin_ms {bin_ms}: NLB data is binned at 5 or 20 ms")
    return "" if bin_ms == 5 else f"_{bin_ms}"


def name_of(config: Mapping[str, Any]) -> tuple[str, int, str]:
    """The dataset of a `data` block, its bin width, and what nlb_tools and EvalAI call it at that width."""
    dataset, width = str(config["dataset"]), int(config.get("bin_ms", 5))
    return dataset, width, dataset + suffix(width)


def raw_folder(dataset: str) -> Path:
    source = known(dataset)
    return folder("NLB_DATA_RAW") / source.dandiset / source.subject


def ndt_file(dataset: str, phase: str, bin_ms: int = 5) -> Path:
    known(dataset)
    return folder("NDT_CACHE_DIR") / f"{dataset}{suffix(bin_ms)}_{'train' if phase == 'val' else 'test'}.h5"


def target_file(dataset: str, bin_ms: int = 5) -> Path:
    known(dataset)
    return folder("NLB_CACHE_DIR") / f"{dataset}{suffix(bin_ms)}_target_val.h5"


def ensure(dataset: str, phase: str, bin_ms: int = 5, say: Callable[[str], None] | None = None) -> Path:
    """The NDT file of a dataset and phase, made from the raw NWB if it is missing.

    Raises:
        BadInput: there is neither (with the command that downloads it), or the NWB is not what NLB's are.
    """
    path = ndt_file(dataset, phase, bin_ms)
    if not path.exists():
        _write(dataset, phase, bin_ms, say or _progress)
    return path


def ensure_target(dataset: str, bin_ms: int = 5, say: Callable[[str], None] | None = None) -> Path:
    """The evaluation targets of phase val, as `nlb_tools.evaluation.evaluate` reads them."""
    path = target_file(dataset, bin_ms)
    if not path.exists():
        _write(dataset, "val", bin_ms, say or _progress)
    return path


def _progress(text: str) -> None:
    import sys

    print(text, file=sys.stderr, flush=True)


def _write(dataset: str, phase: str, bin_ms: int, say: Callable[[str], None]) -> None:
    arrays, target = tensors(dataset, phase, bin_ms, say)
    made(folder("NDT_CACHE_DIR"))
    if target is not None:
        made(folder("NLB_CACHE_DIR"))
        with atomic_path(target_file(dataset, bin_ms)) as temporary, h5py.File(temporary, "w") as file:
            group = file.create_group(dataset + suffix(bin_ms))
            for name, array in target.items():
                # conditions are lists of trial indices of different lengths: nlb_tools keeps them as objects
                if array.dtype == object:
                    kind = h5py.vlen_dtype(np.dtype("int64"))
                    stored = group.create_dataset(name, (len(array),), dtype=kind)
                    for index, row in enumerate(array):
                        stored[index] = np.asarray(row, dtype=np.int64)
                else:
                    group.create_dataset(name, data=array, compression="gzip")
    path = ndt_file(dataset, phase, bin_ms)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")
        # bins before a trial's start are NaN in held-out truth: nlb_tools does not score them
        file.attrs["padded"] = True
    say(f"{dataset}: wrote {path}")


def tensors(
    dataset: str, phase: str, bin_ms: int = 5, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """The arrays of an NDT file, float32 (trials, bins, units), and in phase val nlb_tools' evaluation targets.

    Raises:
        BadInput: raw data missing or unusable.
    """
    source = raw_folder(dataset)
    if not source.is_dir() or not any(source.glob("*.nwb")):
        get = command("-m", "download", "data", dataset)
        raise BadInput(f"no raw data for {dataset} in {source}; get it with: {get}")
    count = len(list(source.glob("*.nwb")))
    say(f"{dataset}: reading {count} NWB file{'s' if count > 1 else ''} from {source} (minutes for the large ones)")
    with quiet_nlb_tools():
        try:
            return _tensors(source, dataset, phase, bin_ms, say)
        except MemoryError:
            raise BadInput(f"{dataset}: not enough memory to read its NWB files") from None
        except BadInput:
            raise
        except Exception as error:  # nlb_tools and pynwb raise whatever a wrong file makes them stumble over
            lines = str(error).splitlines() or [""]
            raise BadInput(
                f"{source}: not the NWB files of {dataset} ({type(error).__name__}: {lines[0][:120]})"
            ) from None


def _tensors(
    source: Path, dataset: str, phase: str, bin_ms: int, say: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    from nlb_tools.make_tensors import make_eval_input_tensors, make_eval_target_tensors, make_train_input_tensors
    from nlb_tools.nwb_interface import NWBDataset

    unused = _UNUSED_FIELDS if phase == "val" else [*_UNUSED_FIELDS, "hand_vel", "finger_vel", "cursor_vel"]
    recording = NWBDataset(str(source), skip_fields=unused)
    if "heldout_spikes" not in recording.data.columns.get_level_values(0):
        raise BadInput(f"{source}: holds no held-out units; the training NWB of {dataset} is missing")
    if "split" not in recording.trial_info:
        raise BadInput(f"{source}: its trials have no split")
    splits = set(recording.trial_info["split"])
    for split in ("train", "val") if phase == "val" else ("train", "val", "test"):
        if split not in splits:
            raise BadInput(f"{source}: has no {split} trials")
    say(f"{dataset}: resampling to {bin_ms} ms")
    recording.resample(bin_ms)
    gc.collect()
    say(f"{dataset}: making tensors for phase {phase}")
    trials = recording.trial_info.copy()
    common: dict[str, Any] = {"save_file": False, "return_dict": True}
    train_split = "train" if phase == "val" else ["train", "val"]
    train = make_train_input_tensors(recording, dataset, train_split, include_forward_pred=True, **common)
    recording.trial_info = trials.copy()  # jittered datasets leave a column behind
    evaluated = make_eval_input_tensors(recording, dataset, "val" if phase == "val" else "test", **common)
    arrays = {f"train_data_{name.removeprefix('train_spikes_')}": array for name, array in train.items()}
    arrays["eval_data_heldin"] = evaluated["eval_spikes_heldin"]
    target = None
    if phase == "val":
        recording.trial_info = trials.copy()
        made = make_eval_target_tensors(recording, dataset, "train", "val", include_psth=True, **common)
        target = made[dataset + suffix(bin_ms)]
        arrays["eval_data_heldout"] = target["eval_spikes_heldout"]
        for name in ("heldin_forward", "heldout_forward"):
            arrays[f"eval_data_{name}"] = target[f"eval_spikes_{name}"]
    del recording
    gc.collect()
    keeps_padding = {"eval_data_heldout"}
    return {
        name: np.asarray(array if name in keeps_padding else np.nan_to_num(array), dtype=np.float32)
        for name, array in arrays.items()
        if name.split("_", 2)[2] in ("heldin", "heldout", "heldin_forward", "heldout_forward")
    }, target


@contextlib.contextmanager
def quiet_nlb_tools() -> Any:
    """nlb_tools prints and warns of what is of no use to a user, and writes into what pandas may have made read-only:
    other libraries (pycytominer) switch pandas' copy-on-write on for the whole process."""
    logger = logging.getLogger("nlb_tools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            pd.option_context("mode.copy_on_write", False),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
