"""Scores by nlb_tools itself: what the benchmark's server computes, and nothing skipped in silence."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ensembles import artifact as artifacts
from ensembles.artifact import Artifact
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.ndt import prepare
from models.ndt.data import SpikeData
from models.ndt.submission import submission_arrays


def score(place: Path, target: Path | None = None) -> dict[str, Any]:
    """Score an ensemble on its validation phase, or a submission against a target file.

    Args:
        place: a study or ensemble folder, or a submission's HDF5 file.
        target: EvalAI's target file. Given, this is the final test: the result says so, and nothing in Concert
            reads it back to choose by.

    Returns:
        {"phase": "val" | "test", "scores": {dataset: {metric: value}}}.

    Raises:
        BadInput: data or truth missing, or a dataset that nlb_tools would have skipped.
    """
    if target is not None:
        submission = place if place.is_file() else artifacts.read(place).path / "submission.h5"
        if not submission.is_file():
            raise BadInput(f"{submission}: there is no submission to score")
        return {"phase": "test", "scores": evaluate(_read(target), _read(submission))}
    if place.is_file():
        raise BadInput(f"{place}: a submission holds test rates; its score needs the truth: --target FILE")
    found = artifacts.read(place)
    if found.meta["family"] != "ndt":
        raise BadInput(f"{found.path}: only ensembles of the ndt family are scored by nlb_tools")
    config = found.meta["data"]
    data = found.family.load(config, "val")
    if "dataset" in config and (
        prepare.target_file(config["dataset"], config.get("bin_ms", 5)).exists()
        or prepare.raw_folder(config["dataset"]).is_dir()
    ):
        return {"phase": "val", "scores": _benchmark(found, config, data)}
    return {"phase": "val", "scores": {found.meta["study"]: _spikes_alone(found, data)}}


def _benchmark(found: Artifact, config: dict[str, Any], data: SpikeData) -> dict[str, dict[str, float]]:
    width = int(config.get("bin_ms", 5))
    target = _read(prepare.ensure_target(config["dataset"], width))
    name = config["dataset"] + prepare.suffix(width)
    return evaluate(target, {name: submission_arrays(found.predict, data)})


def _spikes_alone(found: Artifact, data: SpikeData) -> dict[str, float]:
    """Without behaviour and conditions: the two scores that spikes allow."""
    from nlb_tools.evaluation import bits_per_spike

    predicted = found.predict(data)
    truth = data.eval
    if truth.heldout is None:
        raise BadInput(f"{data.source}: holds no held-out spikes to score against")
    # copies: nlb_tools replaces zero rates in the array it is given
    scores = {"co-bps": float(bits_per_spike(predicted["eval_rates_heldout"].astype(float), truth.heldout))}
    if truth.forward is not None:
        rates = [predicted[f"eval_rates_{part}_forward"] for part in ("heldin", "heldout")]
        scores["fp-bps"] = float(bits_per_spike(np.concatenate(rates, 2).astype(float), truth.forward))
    return scores


def evaluate(target: dict[str, Any], submission: dict[str, Any]) -> dict[str, dict[str, float]]:
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
