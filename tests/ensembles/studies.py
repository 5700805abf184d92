"""Finished studies without a search: snapshots of the family `noisy`, as a trial would have left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground.files import sha256, write_json
from ground.states import save_state
from models import registry
from models.base import Place
from search_spaces import Domain, SearchSpace
from studies import ledger
from studies.study import Study, begin


def write_data(path: Path, samples: int = 60, groups: int | None = None) -> Path:
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(samples, 2))
    arrays = {"signal": signal, "observed": signal + 0.3 * rng.normal(size=signal.shape)}
    if groups is not None:
        arrays["group"] = rng.integers(groups, size=samples)
    np.savez(path, **arrays)
    return path


def write_study(path: Path, data: Path, levels: Sequence[float], holdout: float | None = None) -> Study:
    """One trial for each level of noise, called t00, t01, ..."""
    family = registry.get("noisy")
    block = {"path": str(data)}
    space = SearchSpace("noisy", "noisy", block, {}, {"level": Domain("uniform", 0.0, 9.0)})
    study, _ = begin(path, space, family.fingerprint(block), 1, "mse", holdout)
    for number, level in enumerate(levels):
        add_trial(study, number, level)
    ledger.write(study, keep=len(levels) * 2)
    family.calls.clear()  # type: ignore[attr-defined]
    family.batches.clear()  # type: ignore[attr-defined]
    return study


def add_trial(
    study: Study, number: int, level: float, settings: Mapping[str, Any] | None = None, score: float | None = None
) -> Path:
    """The folder of a new trial; `score` in place of the true one."""
    family, data = study.family, study.load_data()
    folder = study.trials / f"t{number:02}"
    given = {"level": level, **(settings or {})}
    weights = {"level": torch.tensor(level), "number": number}
    if score is None:
        score = family.score(family.restore({}, weights, Place())(data), family.truth(data))
    metrics = {"step": 3, "seconds": 1.0, "mse": score}
    write_json(folder / "config.json", {"trial_id": folder.name, "number": number, "seed": 0, "settings": given})
    for name in family.snapshots:  # two names of one moment
        file = folder / f"{name}.safetensors"
        save_state(file, {"family": "noisy", "settings": given, "metrics": metrics, "weights": weights})
        write_json(file.with_suffix(".json"), {"metrics": metrics, "sha256": sha256(file)})
    (folder / "metrics.csv").write_text(f"step,seconds,mse\n1,0.5,9.0\n3,1.0,{score:g}\n")
    result = {"status": "finished", "reason": "", "seconds": 1.0, "best": {"mse": score}, "metrics": metrics}
    write_json(folder / "result.json", result)
    return folder
