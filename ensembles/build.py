"""From a study's checkpoints to its ensemble: rank, predict, select, score, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ensembles import artifact as artifacts
from ensembles.artifact import Artifact
from ensembles.estimate import Jackknife, fold_curve, out_of_fold
from ensembles.members import Candidate, candidates
from ensembles.pool import Pool
from ensembles.predict import FAILURES, Kept, combine, keep, reason, scratch
from ensembles.select import RULES, Rule, curve, describe, uniform
from ground.errors import BadInput
from ground.machine import tune_allocator
from models.base import Family, Place, Prediction
from studies import ledger
from studies.data import group_of_each
from studies.study import Study, versions

LIMIT = 60  # candidates: more only add to the time a choice takes
Say = Callable[[str], None]
Members = Sequence[tuple[Candidate, Kept]]


def digest(found: list[Candidate], rule: str, size: int | None) -> str:
    """Changes whenever another ensemble could come out."""
    key = [artifacts.FORMAT, rule, size, [[c.name, c.score, c.sha256] for c in found]]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def ensure(
    study: Study,
    rule: str = "greedy",
    size: int | None = None,
    place: Place | None = None,
    say: Say = lambda _: None,
) -> Artifact:
    """The study's ensemble by `rule`, built unless the very same is there already and whole."""
    found = candidates(study, LIMIT)
    if artifacts.exists(study.path):
        try:
            there = artifacts.read(study.path)
            if there.meta.get("inputs") == digest(found, rule, size):
                there.verify()
                return there
        except BadInput as error:
            say(f"ensemble: {error}; it is built anew")
    return build(study, rule, size, place, say)


def build(
    study: Study,
    rule: str = "greedy",
    size: int | None = None,
    place: Place | None = None,
    say: Say = lambda _: None,
) -> Artifact:
    """Build a study's ensemble and write its folder. The caller holds the study's lock.

    Args:
        rule: a name in `select.RULES`.
        size: with "topn", this many members instead of the best number.
        place: where members predict.

    Raises:
        BadInput: no usable checkpoints, an unknown rule, or changed data. The ensemble that was there stays.
    """
    if rule not in RULES:
        raise BadInput(f"unknown ensemble rule {rule!r}; there are {', '.join(RULES)}")
    if size is not None and rule != "topn":
        raise BadInput("a fixed size goes with the rule topn")
    tune_allocator()
    family, place = study.family, place or Place()
    found = candidates(study, LIMIT)
    _fits(size, len(found))
    say(f"ensemble: predicting the validation data with {len(found)} checkpoints")
    data = study.load_data()
    seed = int(study.config["seed"])
    with scratch(study.path) as folder:
        left_out: dict[str, str] = {}

        def note(candidate: Candidate, why: str) -> None:
            left_out[candidate.name] = why
            say(f"ensemble: {candidate.name} is left out: {why}")

        members, pool = _predict(family, found, data, place, folder / "validation", note)
        if not members:
            raise BadInput(f"not one of {len(found)} checkpoints can be used ({next(iter(left_out.values()))})")
        _fits(size, len(members))
        say(f"ensemble: choosing members by {rule} and scoring the choice out of fold")
        weights, scores, outside = choose(pool, rule, size, seed)
        calibration = {} if outside is None else family.calibrate(outside, family.truth(data))
        held = study.holdout()
        if held is not None:
            scores["holdout"] = _on_holdout(family, members, weights, held, place, folder / "holdout", seed, say)
        settings = {c["trial_id"]: c["settings"] for c in ledger.trial_configs(study)}
        order = [int(i) for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
        meta = {
            "study": study.name,
            "rule": rule if size is None else f"{rule} of {size}",
            "inputs": digest(found, rule, size),
            "metric": {"name": family.metric.name, "mode": family.metric.mode},
            "scores": scores,
            "calibration": calibration,
            "size": describe(weights),
            "curve": {
                "in_sample": (family.metric.sign * curve(pool)).tolist(),
                "out_of_fold": [e.to_json() for e in fold_curve(pool, seed)],
            },
            "order": [[c.trial_id, c.val_ckpt] for c, _ in members],
            "left_out": left_out,
            "data": study.config["data"],
            "fingerprint": study.config["fingerprint"],
            "fixed": study.config["fixed"],
            "seed": seed,
            "versions": versions(),
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        chosen = [(members[i][0], float(weights[i]), settings.get(members[i][0].trial_id, {})) for i in order]
        combined = _combined(family, [members[i][1] for i in order], [w for _, w, _ in chosen], data)
        validation = ((part, family.calibrated(prediction, calibration)) for part, prediction in combined)
        written, message = artifacts.write(study.path, family, chosen, meta, place, validation)
    if message:
        say(message)
    return written


def _fits(size: int | None, count: int) -> None:
    if size is not None and not 1 <= size <= count:
        raise BadInput(f"an ensemble of {size} cannot be built from {count} checkpoints")


def _predict(
    family: Family,
    found: Sequence[Candidate],
    data: Any,
    place: Place,
    folder: Path,
    note: Callable[[Candidate, str], None],
) -> tuple[list[tuple[Candidate, Kept]], Pool]:
    """Those candidates that can be used, with their predictions on disk and what selection holds of them."""
    scorer = family.scorer(family.truth(data))
    folder.mkdir()
    members, reduced = [], []
    for candidate, kept in keep(family, found, data, place, folder, note):
        try:
            reduced.append(scorer.reduce(kept))
            members.append((candidate, kept))
        except FAILURES as error:
            note(candidate, reason(error))
    return members, Pool(family, reduced, scorer, group_of_each(family, data, scorer.samples))


def _combined(
    family: Family, predictions: Sequence[Kept], weights: Sequence[float], data: Any
) -> Iterator[tuple[Any, Prediction]]:
    for number, part in enumerate(family.parts(data)):
        yield part, combine(family, (kept.part(number) for kept in predictions), weights)


def choose(pool: Pool, rule: str, size: int | None, seed: int) -> tuple[np.ndarray, dict[str, Any], Prediction | None]:
    """The weights, all scores on the validation data in the metric's own direction, and the reduced out-of-fold
    prediction where there is one of all samples."""
    count = len(pool.predictions)
    by_rule = {name: rule_(pool, np.random.default_rng(seed)) for name, rule_ in RULES.items()}
    weights = uniform(count, size) if size else by_rule[rule]

    def first(members: int) -> Rule:
        return lambda inner, _: uniform(len(inner.predictions), members)

    fixed = {"fixed size": first(size)} if size else {}
    outside = out_of_fold(pool, {**RULES, **fixed, "best single": first(1)}, seed)
    chosen, single = outside["fixed size" if size else rule], outside["best single"]
    scores: dict[str, Any] = {
        "in_sample": pool.scorer.score(pool.combine(weights)),
        "best_single": pool.scorer.score(pool.combine(uniform(count, 1))),
        "out_of_fold": chosen.to_json(),
        "best_single_out_of_fold": single.to_json(),
        "difference": chosen.minus(single).to_json(),
    }
    for name, found in by_rule.items():
        inside = pool.scorer.score(pool.combine(found))
        scores[name] = {"in_sample": inside, "out_of_fold": outside[name].to_json()}
    return weights, scores, chosen.prediction


def _on_holdout(
    family: Family,
    members: Members,
    weights: np.ndarray,
    data: Any,
    place: Place,
    folder: Path,
    seed: int,
    say: Say,
) -> dict[str, Any] | None:
    """The finished ensemble and the model that was best on the search's validation data, scored once on samples that
    nothing has seen. None, with a line, where a member cannot predict them."""
    wanted = np.flatnonzero(weights > 0)
    everyone = np.union1d(wanted, [0])  # candidates come best first
    say(f"ensemble: predicting the holdout with {len(everyone)} checkpoints")
    failed: dict[str, str] = {}
    checkpoints = [members[i][0] for i in everyone]
    _, pool = _predict(family, checkpoints, data, place, folder, lambda c, why: failed.update({c.name: why}))
    if failed:
        name, why = next(iter(failed.items()))
        say(f"ensemble: no holdout score: {name}: {why}")
        return None
    jackknife = Jackknife(pool, seed)
    ensemble = jackknife.estimate([pool.combine(weights[everyone])])
    single = jackknife.estimate([pool.combine(uniform(len(everyone), 1))])
    return {
        "ensemble": ensemble.to_json(),
        "best_single": single.to_json(),
        "difference": ensemble.minus(single).to_json(),
        "samples": pool.samples,
    }
