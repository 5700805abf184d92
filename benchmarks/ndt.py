"""Steps of an NDT on one core: ours against the textbook loop, full-size mc_maze_small shapes, in CPU time.

64 trials x 180 bins x 142 units, 4 layers, and two cases: "band" is what searches end at (dropout .5, context 50
each way), "no band" every bin seeing every other under light dropout (.1). Both loops run in processes of their
own, turn by turn, so that a noisy machine disturbs them alike; ours with the allocator settings that trials get.

    python -m benchmarks.ndt [--rounds 5]
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.clock import answer, instruction_set, turn_by_turn

SETTINGS: dict[str, Any] = {
    "MODEL.NUM_LAYERS": 4,
    "MODEL.DROPOUT": 0.5,
    "MODEL.DROPOUT_RATES": 0.5,
    "MODEL.DROPOUT_EMBEDDING": 0.5,
    "MODEL.CONTEXT_FORWARD": 50,
    "MODEL.CONTEXT_BACKWARD": 50,
    "TRAIN.MASK_TOKEN_RATIO": 0.7,
    "TRAIN.BATCH_SIZE": 64,
}
CASES: dict[str, dict[str, Any]] = {
    "band": SETTINGS,
    "no band": {
        **SETTINGS,
        "MODEL.DROPOUT": 0.1,
        "MODEL.DROPOUT_RATES": 0.1,
        "MODEL.DROPOUT_EMBEDDING": 0.1,
        "MODEL.FULL_CONTEXT": True,
    },
}


def worker(kind: str, case: str) -> None:
    """Answer each line on stdin with the CPU seconds of one update."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    from benchmarks.plain_ndt import PlainLoop
    from ground.machine import tune_allocator
    from models.base import Place
    from models.ndt.config import resolve
    from models.ndt.data import SpikeData, Spikes
    from models.ndt.learner import NDTLearner
    from models.ndt.network import NDT

    config = resolve(CASES[case])
    rng = np.random.default_rng(0)

    def counts(*shape: int) -> np.ndarray:
        return rng.poisson(0.06, shape).astype(np.float32)

    spikes = Spikes(counts(64, 140, 107), counts(64, 140, 35), counts(64, 40, 107), counts(64, 40, 35))
    step: Any
    if kind == "ours":
        tune_allocator()
        step = NDTLearner(config, SpikeData(spikes, spikes, "generated"), Place(), 0).train_piece
    else:
        assert spikes.heldout is not None and spikes.forward is not None
        arrays = {
            "heldin": torch.from_numpy(spikes.heldin),
            "heldout": torch.from_numpy(spikes.heldout),
            "forward": torch.from_numpy(spikes.forward),
        }
        step = PlainLoop(config, arrays, NDT(config, 180, 142, 10).state_dict()).epoch
    answer(step)


def measure(rounds: int, case: str) -> dict[str, float]:
    """The median CPU seconds of an update, by kind of loop."""
    return turn_by_turn("benchmarks.ndt", case, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="updates of each loop (default 5)")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    print(f"CPU seconds of an update on one core, {instruction_set()}, median of {arguments.rounds}")
    for case in CASES:
        times = measure(arguments.rounds, case)
        ratio = times["plain"] / times["ours"]
        print(f"{case:8} plain loop {times['plain']:.3f} s, ours {times['ours']:.3f} s: {ratio:.2f} x", flush=True)


if __name__ == "__main__":
    main()
