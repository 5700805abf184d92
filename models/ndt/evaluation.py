"""Scores by nlb_tools itself: what the benchmark's server computes, and nothing skipped in silence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from ground.limits import shown
from models.base import Predictor
from models.ndt import prepare
from models.ndt.data import SpikeData, load
from models.ndt.submission import submission_arrays


def evaluate(
    predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
) -> dict[str, dict[str, float]]:
    """`Family.evaluate`: on the validation phase, or against EvalAI's target file.

    A benchmark dataset is scored by all that its targets allow; any other data by the two scores that spikes allow.

    Raises:
        BadInput: data or truth missing, or a dataset that nlb_tools would have skipped.
    """
    if isinstance(predicted, Path):
        if target is None:
            raise BadInput(f"{predicted}: a submission holds test rates; its score needs the truth: --target FILE")
        return compare(_read(target), _read(predicted))
    if target is not None:
        if "dataset" not in config:
            raise BadInput(f"{name}: belongs to no dataset of the benchmark, so no target fits it")
        return compare(_read(target), {prepare.name_of(config)[2]: submission_arrays(predicted, load(config, "test"))})
    data = load(config, "val")
    if "dataset" in config:
        dataset, width, group = prepare.name_of(config)
        if _has_targets(dataset, width):
            return compare(_read(prepare.ensure_target(dataset, width)), {group: submission_arrays(predicted, data)})
    return {name: _spikes_alone(predicted, data)}


def _has_targets(dataset: str, width: int) -> bool:
    return prepare.target_file(dataset, width).exists() or prepare.raw_folder(dataset).is_dir()


def _spikes_alone(predict: Predictor, data: SpikeData) -> dict[str, float]:
    """Without behaviour and conditions: the two scores that spikes allow."""
    from nlb_tools.evaluation import bits_per_spike

    predicted = predict(data)
    truth = data.eval
    if truth.heldout is None:
        raise BadInput(f"{data.source}: holds no held-out spikes to score against")
    # copies: nlb_tools replaces zero rates in the array it is given
    scores = {"co-bps": float(bits_per_spike(predicted["eval_rates_heldout"].astype(float), truth.heldout))}
    if truth.forward is not None:
        rates = [predicted[f"eval_rates_{part}_forward"] for part in ("heldin", "heldout")]
        scores["fp-bps"] = float(bits_per_spike(np.concatenate(rates, 2).astype(float), truth.forward))
    return scores


def compare(target: dict[str, Any], submission: dict[str, Any]) -> dict[str, dict[str, float]]:
    """`nlb_tools.evaluation.evaluate`, with an error where it would leave a dataset out.

    Raises:
        BadInput: a dataset without truth, or arrays that do not fit.
    """
    from nlb_tools.evaluation import evaluate as reference

    if not set(submission) & set(target):
        told = [", ".join(list(map(shown, of))[:8]) or "nothing" for of in (submission, target)]
        raise BadInput(f"no dataset in common: the submission has {told[0]}, the target {told[1]}")
    for dataset, arrays in submission.items():
        if dataset not in target:
            raise BadInput(f"there is no truth for {dataset} (the target has {', '.join(target) or 'nothing'})")
        for name in ("eval_spikes_heldout", "train_behavior", "eval_behavior"):
            if name not in target[dataset]:
                raise BadInput(f"the target of {dataset} has no {name}")
        rates, spikes = arrays.get("eval_rates_heldout"), target[dataset]["eval_spikes_heldout"]
        if rates is None:
            raise BadInput(f"the submission of {dataset} has no eval_rates_heldout")
        if rates.shape != spikes.shape:
            raise BadInput(f"{dataset}: rates {rates.shape} and truth {spikes.shape} differ in shape")
        if not np.isfinite(rates).all():
            raise BadInput(f"the submission of {dataset} holds non-finite rates")
    scores: dict[str, dict[str, float]] = {}
    for dataset in submission:
        try:
            with prepare.quiet_nlb_tools():
                result = reference({dataset: _Arrays(target[dataset])}, {dataset: _Arrays(submission[dataset])})
        except (KeyError, ValueError, AssertionError, IndexError, TypeError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise BadInput(f"{dataset}: nlb_tools cannot score this ({type(error).__name__}: {line[:120]})") from None
        values = _flatten(result)
        if "co-bps" not in values:
            raise BadInput(f"nlb_tools skipped {dataset}")
        scores[dataset] = values
    return scores


def _flatten(result: Any) -> dict[str, float]:
    """nlb_tools' list of {split: {metric: value}} as {metric: value}, without its dataset-size marks."""
    out: dict[str, float] = {}
    for entry in result:
        for values in entry.values():
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    out[re.sub(r"^\[\d+\] ", "", str(name))] = float(value)  # "[100] co-bps" of mc_maze_small
    return out


class _Arrays(dict[str, Any]):
    """Arrays under names, copied at each reading: nlb_tools changes what it is given."""

    def __getitem__(self, name: str) -> Any:
        return np.array(super().__getitem__(name))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The arrays of each dataset (group) of a submission or of a target file."""
    with reading_hdf5(path) as file:
        groups = {name: hdf5.member(file, path, name) for name in file}
        return {name: _arrays(group, path, name) for name, group in groups.items() if isinstance(group, h5py.Group)}


def _arrays(group: h5py.Group, path: Path, dataset: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in group:
        kind = hdf5.described(group, path, name, kinds=f"{hdf5.NUMBERS}O")
        if kind.dtype.kind == "O" and h5py.check_vlen_dtype(kind.dtype) is None:
            raise BadInput(f"{path}: {dataset}/{name} holds {kind.dtype}, not numbers")
        # conditions are lists of trials, of different lengths
        found[name] = kind[()] if kind.dtype.kind == "O" else hdf5.array(group, path, name)
    return found
