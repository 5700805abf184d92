"""Our skopt searcher against skopt as Ray used it and Optuna's GP sampler, on a noisy synthetic objective.

The space is AESMTE3's own for mc_maze (12 dimensions, mixed, logarithmic). The objective has the shape that
NDT searches show: a broad optimum, a learning-rate ridge that bends with the dropout, and failures at high
rates. Eight workers run asynchronously: each evaluation takes a random while, and a searcher must propose
while seven others are under way.

    python -m benchmarks.searchers [--seeds 5] [--evaluations 64]
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable

import numpy as np
from skopt import Optimizer

import search_spaces
from benchmarks.clock import cpu_seconds
from tuner.searchers.base import SpaceSearcher
from tuner.searchers.optuna_search import OptunaGPSearch
from tuner.searchers.random_search import RandomSearch
from tuner.searchers.skopt_search import SkOptSearch, dimension

NOISE = 0.01


class PlainSkOpt(SkOptSearch):
    """The searcher Ray shipped: one optimizer, told what finished, asked without word of what is under way."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._plain = Optimizer(
            [dimension(domain, name) for name, domain in self.space.items()], random_state=self.seed
        )
        self._told = 0

    def propose(self, rng: np.random.Generator) -> dict[str, object]:
        for observation in self.history[self._told :]:
            if observation.loss is not None:  # NaN results were dropped
                self._plain.tell(self._row(observation.point), observation.loss)
        self._told = len(self.history)
        return self._point(self._plain.ask())

    def _fresh(self, point: dict[str, object], rng: np.random.Generator) -> dict[str, object]:
        return point  # the same point could be handed out again


def objective(point: dict[str, float]) -> float:
    """The noiseless score, at most about 0.36; NaN where training diverges."""
    lr = math.log10(point["TRAIN.LR.INIT"])
    drop = point["MODEL.DROPOUT"]
    best_lr = -2.9 + 1.2 * (drop - 0.45)
    if lr > -2.42 and point["TRAIN.LR.WARMUP"] < 150:
        return math.nan
    score = 0.36
    score -= 0.06 * (lr - best_lr) ** 2 if lr < best_lr else 0.25 * (lr - best_lr) ** 2
    score -= 0.9 * (drop - 0.5) ** 2 + 0.5 * (point["MODEL.DROPOUT_RATES"] - 0.42) ** 2
    score -= 0.4 * (point["MODEL.DROPOUT_EMBEDDING"] - 0.38) ** 2
    score -= 0.03 * ((point["MODEL.CONTEXT_FORWARD"] - 30) / 90) ** 2
    score -= 0.05 * ((point["MODEL.CONTEXT_BACKWARD"] - 65) / 90) ** 2
    score -= 0.6 * (point["TRAIN.MASK_RATIO"] - 0.26) ** 2
    score -= 0.15 * (point["TRAIN.MASK_RANDOM_RATIO"] - 0.93) ** 2
    score -= 0.05 * (math.log(point["TRAIN.MASK_TOKEN_RATIO"]) + 0.3) ** 2
    score -= 0.002 * (point["TRAIN.MASK_MAX_SPAN"] - 4) ** 2
    score -= 0.001 * (math.log10(point["TRAIN.WEIGHT_DECAY"]) + 5) ** 2
    return score


def run(searcher: SpaceSearcher, evaluations: int, workers: int, seed: int) -> tuple[float, float, int]:
    """The best noiseless score found, CPU seconds a suggestion at the end, and how often a point was repeated."""
    rng = np.random.default_rng(1000 + seed)
    running: list[tuple[float, int, dict[str, float]]] = []
    seen: set[str] = set()
    best, repeats, started, clock = -math.inf, 0, 0, 0.0
    cost: list[float] = []
    while started < evaluations or running:
        while started < evaluations and len(running) < workers:
            begun = cpu_seconds()
            point = searcher.suggest(str(started))
            cost.append(cpu_seconds() - begun)
            assert isinstance(point, dict)
            repeats += str(point) in seen
            seen.add(str(point))
            heapq.heappush(running, (clock + float(rng.lognormal(0, 0.4)), started, point))
            started += 1
        clock, number, point = heapq.heappop(running)
        true = objective(point)
        if math.isfinite(true):
            best = max(best, true)
        searcher.on_trial_complete(str(number), {"co-bps": true + float(rng.normal(0, NOISE))})
    return best, float(np.mean(cost[-10:])), repeats


CONTENDERS: dict[str, Callable[..., SpaceSearcher]] = {
    "skopt (ours)": SkOptSearch,
    "skopt as Ray used it": PlainSkOpt,
    "optuna GP": OptunaGPSearch,
    "random": RandomSearch,
}


def compare(name: str, seeds: int, evaluations: int, workers: int = 8) -> list[tuple[float, float, int]]:
    """`run` for each seed of one contender."""
    space = search_spaces.load("mc_maze").space
    return [run(CONTENDERS[name](space, "co-bps", "max", seed), evaluations, workers, seed) for seed in range(seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="independent repetitions (default 5)")
    parser.add_argument("--evaluations", type=int, default=64, help="trials each (default 64)")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="only these contenders")
    arguments = parser.parse_args()
    print(f"best noiseless score after {arguments.evaluations} evaluations, 8 asynchronous workers")
    print(f"{'searcher':22} {'mean':>8} {'std':>8} {'CPU s/sugg.':>13} {'repeats':>8}   per seed")
    for name in arguments.only or CONTENDERS:
        results = compare(name, arguments.seeds, arguments.evaluations)
        scores = np.array([r[0] for r in results])
        each = " ".join(f"{score:.4f}" for score in scores)
        print(
            f"{name:22} {scores.mean():8.4f} {scores.std(ddof=1) if len(scores) > 1 else 0:8.4f}"
            f" {np.mean([r[1] for r in results]):13.2f} {sum(r[2] for r in results):8d}   {each}",
            flush=True,
        )


if __name__ == "__main__":
    main()
