"""The whole choice of an ensemble at mc_maze's size, and a piece of it against plain arithmetic.

Whole: 60 candidates for 574 trials x 140 bins x 45 held-out units (some 0.03 spikes a bin) are reduced, both rules
choose, and both, the best single model and the first N for every N are scored out of fold, as `python -m ensembles
build` does once predictions are there. Piece: one bag of the greedy rule (of the 120 that the whole has) and the score
of the first N candidates on all trials; the plain side averages whole arrays and scores each mean from scratch.
Processor time counts all threads.

    python -m benchmarks.selection
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from benchmarks import plain_selection
from ensembles.build import choose
from ensembles.estimate import fold_curve
from ensembles.pool import Pool
from ensembles.select import curve, draw, grow
from ground.machine import tune_allocator
from models.ndt.metrics import CoBps
from models.registry import get

TRIALS, BINS, UNITS, CANDIDATES = 574, 140, 45, 60


def truth(trials: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rates that vary over time and trials, and the spikes drawn from them: (trials, bins, units) each."""
    rng = np.random.default_rng(seed)
    phases, tuning = rng.uniform(0, 2 * np.pi, (trials, 3)), rng.normal(0, 0.4, (3, UNITS))
    latents = np.sin(np.linspace(0, 2 * np.pi, BINS)[None, :, None] + phases[:, None, :])
    rates = np.exp(latents @ tuning + rng.normal(-3.6, 0.5, UNITS))
    return rates.astype(np.float32), rng.poisson(rates).astype(np.float32)


def candidate(rates: np.ndarray, number: int) -> np.ndarray:
    """A model that is off by noise of its own, the more the higher its number."""
    rng = np.random.default_rng([1, number])
    noise = rng.normal(0, 0.3 + 0.01 * number, rates.shape).astype(np.float32)
    return rates * np.exp(noise)


def whole(trials: int = TRIALS, candidates: int = CANDIDATES) -> tuple[float, Pool]:
    """Processor seconds of the whole choice, and its pool."""
    tune_allocator()  # as a build does
    rates, spikes = truth(trials)
    family, name = get("ndt"), CoBps.NAME
    spent, reduced = -time.process_time(), []
    scorer = family.scorer({name: spikes})
    spent += time.process_time()
    for number in range(candidates):  # one at a time: what is kept is small
        prediction = {name: candidate(rates, number)}
        spent -= time.process_time()
        reduced.append(scorer.reduce(prediction))
        spent += time.process_time()
    pool = Pool(family, reduced, scorer, np.arange(trials))
    spent -= time.process_time()
    choose(pool, "greedy", None, 0)
    curve(pool)
    fold_curve(pool, 0)
    return spent + time.process_time(), pool


def piece(pool: Pool, trials: int = TRIALS) -> dict[str, float]:
    """Processor seconds of one bag and one curve, ours and plain; both must find the same.

    Raises:
        ArithmeticError: they do not.
    """
    rng = np.random.default_rng(0)
    samples, members = draw(pool, rng)
    begun = time.process_time()
    ours, our_curve = grow(pool.take(samples, members.tolist())), curve(pool)
    seconds = {"ours": time.process_time() - begun}
    rates, spikes = truth(trials)
    candidates = [candidate(rates, number) for number in range(len(pool.predictions))]
    begun = time.process_time()
    plain = plain_selection.bag(candidates, spikes, samples, members)
    plain_curve = plain_selection.curve(candidates, spikes)
    seconds["plain"] = time.process_time() - begun
    if not np.allclose(our_curve, plain_curve, atol=1e-6) or not np.allclose(ours, plain / plain.sum()):
        raise ArithmeticError("the two ways of selecting disagree")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    arguments = parser.parse_args()
    seconds, pool = whole(arguments.trials, arguments.candidates)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"whole choice: {seconds:.1f} CPU seconds, at most {memory:.2f} GiB resident")
    parts = piece(pool, arguments.trials)
    print(
        f"one bag and one curve: ours {parts['ours']:.2f}, plain {parts['plain']:.2f} CPU seconds: "
        f"{parts['plain'] / parts['ours']:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
