"""Independent random points: the baseline, and a good choice when everything runs at once."""

from __future__ import annotations

import numpy as np

from tuner.searchers.base import Point, SpaceSearcher


class RandomSearch(SpaceSearcher):
    def propose(self, rng: np.random.Generator) -> Point:
        return self.random_point(rng)
