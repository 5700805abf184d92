#!/usr/bin/env python3
"""One trial by hand, without Ray: load, train, go on from a checkpoint, restore, score.

    python examples/one_trial.py [SPACE]        default: lorenz, the generated spikes

What a search does with every point it tries, in a session that can be debugged and profiled.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import search_spaces
from ground.states import load_state, save_state
from models.base import Place
from models.registry import get


def main(name: str = "lorenz") -> float:
    """Train one model of the search space `name` at a point of it; its score on the validation data."""
    # 1. A search space: which family, which data, what is fixed, what is searched.
    space = search_spaces.load(name)
    family = get(space.family)
    data = family.load(space.data, "val")
    print(f"{name}: family {family.name}; " + "; ".join(f"{k}: {v}" for k, v in family.describe(data).items()))

    # 2. A point: here the first corner of the space that the family accepts; a searcher would propose it.
    settings = family.check({**space.fixed, **next(iter(search_spaces.corners(space.space)))})

    # 3. Train in pieces, validating when the learner says so.
    place = Place(device="cpu", threads=1)
    torch.set_num_threads(place.threads)
    learner = family.learner(settings, data, place, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "last.safetensors"
        while not learner.done:
            metrics = learner.train_piece()
            if learner.due or learner.done:
                metrics |= learner.validate()
                loss, score = metrics["train_loss"], metrics[family.metric.name]
                print(
                    f"step {learner.steps:5d} {learner.progress:5.0%} loss {loss:.4f} {family.metric.name} {score:.4f}"
                )
            # 4. Half-way, stop as a power cut would, and go on in a fresh learner: the end is the same.
            if 0.5 <= learner.progress < 1 and not last.exists():
                save_state(last, learner.state())
                learner = family.learner(settings, data, place, seed=1)
                learner.load_state(load_state(last))
                print(f"went on from step {learner.steps}")

        # 5. What a snapshot keeps is enough to predict, anywhere.
        snapshot = Path(folder) / "best.safetensors"
        save_state(snapshot, learner.weights())
        predictor = family.restore(settings, load_state(snapshot), place)

    # 6. The score of a prediction is the family's metric.
    score = family.score(predictor(data), family.truth(data))
    print(f"{family.metric.name} of the restored model: {score:.4f} ({family.metric.describes})")
    return score


if __name__ == "__main__":
    main(*sys.argv[1:2])
