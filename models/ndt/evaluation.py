"""Scores by nlb_tools itself: what the benchmark's server computes, and nothing skipped in silence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
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


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    with reading_hdf5(path) as file:
        return {
            dataset: {name: group[name][()] for name in group}
            for dataset, group in file.items()
            if isinstance(group, h5py.Group)
        }
