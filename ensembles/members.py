"""The checkpoints of a study as candidates for an ensemble, and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.states import load_state
from models.base import Family, Prediction
from studies import ledger
from studies.study import Study


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may become a member; `score` is its validation metric."""

    trial_id: str
    val_ckpt: str
    score: float
    path: Path

    @property
    def name(self) -> str:
        return f"{self.trial_id}.{self.val_ckpt}"


def candidates(study: Study, limit: int | None = None) -> list[Candidate]:
    """A study's usable checkpoints, best first.

    Where two snapshots of a trial are the same moment of its training only one counts, except in an imported
    archive, which is taken as it was published.

    Raises:
        BadInput: there is none.
    """
    frame = ledger.table(study)
    metric = study.family.metric.name
    frame = frame[frame["status"].isin(["finished", "stopped"]) & (frame["path"] != "") & frame[metric].notna()]
    if not study.config.get("imported") and "epoch" in frame:
        frame = frame.drop_duplicates(["trial_id", "epoch"])
    found = [
        Candidate(str(r["trial_id"]), str(r["val_ckpt"]), float(r[metric]), study.path / str(r["path"]))
        for _, r in frame.iterrows()
    ]
    if not found:
        raise BadInput(f"study {study.name} has no checkpoint to build an ensemble from")
    return found[:limit]


def restore(family: Family, path: Path, device: str = "cpu") -> Callable[[Any], Prediction]:
    """A predictor from a snapshot file.

    Raises:
        BadInput: the file is missing, damaged, or of another family.
    """
    try:
        state = load_state(path)
        if state["family"] != family.name:
            raise BadInput(f"{path}: is a checkpoint of family {state['family']}, not {family.name}")
        return family.restore(state["settings"], state["weights"], device)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint") from None
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a usable checkpoint ({str(error).splitlines()[0][:120]})") from None


def predictions(family: Family, found: Sequence[Candidate], data: Any, device: str = "cpu") -> list[Prediction]:
    """What each candidate predicts for `data`, only the arrays that scoring reads."""
    members = [restore(family, candidate.path, device) for candidate in found]
    keep = family.scored()
    return [
        {k: np.asarray(v) for k, v in p.items() if keep is None or k in keep}
        for p in family.predict_many(members, data)
    ]
