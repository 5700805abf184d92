"""What a person may want to do with a finished study, as commands that can be typed as they are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ensembles.artifact import Artifact
from ground.errors import BadInput
from ground.typed import command, way
from studies import ledger, places
from studies.study import Study

PLACEHOLDER = "NEW_DATA"
AGAIN = 5
"""How many models of the best setting are proposed: their spread says what the seed alone does."""


class Step(NamedTuple):
    """What a command does, in words, and the command."""

    words: str
    command: str


def next_steps(found: Artifact, study: Study | None = None) -> list[Step]:
    """How the ensemble is used, and how its study's best setting is trained again.

    Args:
        study: None for an ensemble's folder that was copied away from its study.
    """
    steps = []
    at = way()
    if at is not None:
        steps.append(Step("all of these, in Concert's folder", at))
    if study is not None and study.config["space"]:
        best = ledger.usable(study, ledger.table(study))
        if len(best):
            again: list[object] = ["--again", f"{_word(study.path)}/{best['trial_id'].iloc[0]}", "--samples", AGAIN]
            if study.config.get("holdout"):
                again += ["--holdout", study.config["holdout"]]
            if study.ranks > 1:
                again += ["--ranks", study.ranks]
            steps.append(Step("train the best setting again, by other seeds", command("run_hyperopt.py", *again)))
    place = found.path if study is None else study.path
    name = str(found.meta.get("study") or place.name)
    data = _data(found)
    words = "use the ensemble" + (f", with your own file in place of {PLACEHOLDER}" if data == PLACEHOLDER else "")
    predict = command("-m", "ensembles", "predict", _word(place), data, "-o", f"{name}-predicted.h5")
    return [*steps, Step(words, predict)]


def _word(path: Path) -> str:
    """A study by its name, or by its path where the name alone leads elsewhere."""
    path = path.resolve()
    try:
        return path.name if places.find(path.name).resolve() == path else str(path)
    except BadInput:
        return str(path)


def _data(found: Artifact) -> str:
    """The study's own data where they are a path: a command that works before anything is put in its place."""
    path = (found.meta.get("data") or {}).get("path")
    return path if isinstance(path, str) and Path(path).exists() else PLACEHOLDER
