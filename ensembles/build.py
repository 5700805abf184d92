"""From a study's checkpoints to its ensemble: rank, predict, select, score, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ensembles import artifact as artifacts
from ensembles.artifact import Artifact
from ensembles.members import Candidate, candidates, predictions
from ensembles.select import RULES, Pool, curve, describe, fold_curve, out_of_fold, uniform
from ground.errors import BadInput
from studies import ledger
from studies.study import Study, versions

LIMIT = 60  # candidates: more only add to the time a choice takes


def digest(found: list[Candidate], rule: str, size: int | None) -> str:
    """Changes whenever another ensemble could come out."""
    key = [rule, size, [[c.name, c.score] for c in found]]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def ensure(
    study: Study, rule: str = "greedy", size: int | None = None, say: Callable[[str], None] = lambda _: None
) -> Artifact:
    """The study's ensemble by `rule`, built unless the very same is there already."""
    found = candidates(study, LIMIT)
    if artifacts.exists(study.path):
        there = artifacts.read(study.path)
        if there.meta.get("inputs") == digest(found, rule, size):
            return there
    return build(study, rule, size, say)


def build(
    study: Study, rule: str = "greedy", size: int | None = None, say: Callable[[str], None] = lambda _: None
) -> Artifact:
    """Build a study's ensemble and write its folder. The caller holds the study's lock.

    Args:
        rule: a name in `select.RULES`.
        size: with "topn", this many members instead of the best number.

    Raises:
        BadInput: no checkpoints, an unknown rule, or changed data.
    """
    if rule not in RULES:
        raise BadInput(f"unknown ensemble rule {rule!r}; there are {', '.join(RULES)}")
    if size is not None and rule != "topn":
        raise BadInput("a fixed size goes with the rule topn")
    family = study.family
    found = candidates(study, LIMIT)
    if size is not None and not 1 <= size <= len(found):
        raise BadInput(f"an ensemble of {size} cannot be built from {len(found)} checkpoints")
    say(f"ensemble: predicting the validation data with {len(found)} checkpoints")
    data = study.load_data()
    pool = Pool(family, predictions(family, found, data), family.truth(data))
    seed = int(study.config["seed"])
    say(f"ensemble: choosing members by {rule} and scoring the choice out of fold")
    weights = uniform(len(found), size) if size else RULES[rule](pool, np.random.default_rng(seed))
    scores: dict[str, Any] = {
        "in_sample": family.score(pool.combine(weights), pool.truth),
        "best_single": family.metric.sign * pool.score(pool.predictions[0]),
    }
    for name, choose in RULES.items():
        scores[name] = {
            "in_sample": scores["in_sample"]
            if name == rule and not size
            else family.score(pool.combine(choose(pool, np.random.default_rng(seed))), pool.truth),
            "out_of_fold": out_of_fold(pool, choose, seed).to_json(),
        }
    if size:
        fixed = out_of_fold(pool, lambda inner, _: uniform(len(inner.predictions), size), seed)
        scores["out_of_fold"] = fixed.to_json()
    else:
        scores["out_of_fold"] = scores[rule]["out_of_fold"]
    single = out_of_fold(pool, lambda inner, _: uniform(len(inner.predictions), 1), seed)
    scores["best_single_out_of_fold"] = single.to_json()
    settings = {c["trial_id"]: c["settings"] for c in ledger.trial_configs(study)}
    chosen = [
        (found[i], float(weights[i]), settings.get(found[i].trial_id, {})) for i in np.argsort(-weights, kind="stable")
    ]
    meta = {
        "format": 1,
        "study": study.name,
        "rule": rule if size is None else f"{rule} of {size}",
        "inputs": digest(found, rule, size),
        "metric": {"name": family.metric.name, "mode": family.metric.mode},
        "scores": scores,
        "size": describe(weights),
        "curve": {
            "in_sample": (family.metric.sign * curve(pool)).tolist(),
            "out_of_fold": [e.to_json() for e in fold_curve(pool, seed)],
        },
        "order": [[c.trial_id, c.val_ckpt] for c in found],
        "data": study.config["data"],
        "fingerprint": study.config["fingerprint"],
        "fixed": study.config["fixed"],
        "seed": seed,
        "versions": versions(),
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    members = [entry for entry in chosen if entry[1] > 0]
    written, message = artifacts.write(study.path, family, members, meta, study.config["data"])
    if message:
        say(message)
    return written
