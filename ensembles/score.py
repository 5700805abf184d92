"""Scores by the field's own evaluation, which the family brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ensembles import artifact as artifacts
from ground.errors import BadInput
from models.base import Family, Place
from models.registry import choose

_HANDS_IN = "submission"
"""A file by itself is scored by the family that writes such files."""


def score(
    path: Path, target: Path | None = None, family: str | None = None, place: Place | None = None
) -> dict[str, Any]:
    """Score an ensemble on what its family holds ready for that, or a submission against a target file.

    Args:
        path: a study or ensemble folder, or a submission's file.
        target: the truth of the final test. Given, or where the family scores a test part of its own, the result says
            so, and nothing in Concert reads it back to choose by.
        family: whose evaluation it is, where the file does not say and several families hand in such files.
        place: where an ensemble predicts.

    Returns:
        {"phase": "val" | "test", "scores": {dataset: {metric: value}}}.

    Raises:
        BadInput: data or truth missing, or something that cannot be scored.
    """
    if target is not None and not target.is_file():
        raise BadInput(f"{target}: no such file")
    if path.is_file():
        handed = choose(_HANDS_IN, family)
        return _told(handed, handed.evaluate(path, {}, target, path.stem), path, target)
    found = artifacts.read(path)
    found.verify()
    if family not in (None, found.family.name):
        raise BadInput(f"{found.path}: is of family {found.family.name}, not {family}")
    config, name = found.meta["data"], str(found.meta["study"])
    if target is None:
        scores = found.family.evaluate(found.predictor(place or Place()), config, None, name)
    else:  # the very file that would be handed in
        submission = found.path / artifacts.SUBMISSION
        if not submission.is_file():
            raise BadInput(f"{submission}: there is no submission to score")
        scores = found.family.evaluate(submission, config, target, name)
    return _told(found.family, scores, path, target)


def _told(family: Family, scores: dict[str, dict[str, float]], path: Path, target: Path | None) -> dict[str, Any]:
    """A score with something behind it."""
    if not any(scores.values()):
        beside = "" if target is None else f" and {target}"
        raise BadInput(f"{path}{beside}: no dataset in common: there is nothing to score")
    return {"phase": family.evaluated if target is None else "test", "scores": scores}
