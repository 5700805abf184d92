"""What every model family must do. A family's test inherits it in one line of code:

class TestMine(Conformance):
    ...                      # the fixtures below
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ground.states import load_state, save_state
from models.base import Diverged, Family


class Conformance:
    """Subclass and give the fixtures `family`, `config` (a few epochs long) and `data`."""

    poison: dict[str, Any] = {}
    """Settings under which training must diverge (a huge learning rate, say)."""
    overfit: dict[str, Any] = {}
    """Settings for over-fitting one batch: no regularisation, enough epochs."""

    def train(self, family: Family, config: dict[str, Any], data: Any, epochs: int, seed: int = 3) -> Any:
        learner = family.learner(config, data, "cpu", seed)
        for _ in range(epochs):
            learner.train_epoch()
        return learner

    def test_shapes(self, family: Family, config: dict[str, Any], data: Any) -> None:
        prediction = self.train(family, config, data, 1).predict(data)
        truth = family.truth(data)
        for name in family.scored() or truth:
            assert prediction[name].shape[0] == truth[name].shape[0]
        assert all(np.isfinite(array).all() for array in prediction.values())
        assert np.isfinite(family.score(prediction, truth))

    def test_metrics_name_the_family_metric(self, family: Family, config: dict[str, Any], data: Any) -> None:
        metrics = self.train(family, config, data, 1).validate()
        for metric in family.snapshots.values():
            assert metric.name in metrics
        assert family.metric.name in metrics

    def test_validation_metric_is_the_score(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 2)
        value = learner.validate()[family.metric.name]
        assert value == pytest.approx(family.score(learner.predict(data), family.truth(data)), abs=1e-5)

    def test_seed_reproduces(self, family: Family, config: dict[str, Any], data: Any) -> None:
        first, second = (self.train(family, config, data, 2).predict(data) for _ in range(2))
        other = self.train(family, config, data, 2, seed=4).predict(data)
        name = next(iter(first))
        assert np.array_equal(first[name], second[name])
        assert not np.array_equal(first[name], other[name])

    def test_validation_leaves_training_alone(self, family: Family, config: dict[str, Any], data: Any) -> None:
        plain = self.train(family, config, data, 2)
        watched = family.learner(config, data, "cpu", 3)
        for _ in range(2):
            watched.train_epoch()
            watched.validate()
        name = next(iter(plain.predict(data)))
        assert np.array_equal(plain.predict(data)[name], watched.predict(data)[name])

    def test_save_load_predict(self, family: Family, config: dict[str, Any], data: Any, tmp_path: Path) -> None:
        learner = self.train(family, config, data, 2)
        save_state(tmp_path / "w.safetensors", learner.weights())
        restored = family.restore(config, load_state(tmp_path / "w.safetensors"), "cpu")(data)
        for name, array in learner.predict(data).items():
            assert np.array_equal(array, restored[name])

    def test_resume_equals_uninterrupted(
        self, family: Family, config: dict[str, Any], data: Any, tmp_path: Path
    ) -> None:
        whole = self.train(family, config, data, 4)
        cut = self.train(family, config, data, 2)
        cut.validate()
        save_state(tmp_path / "s.safetensors", cut.state())
        resumed = family.learner(config, data, "cpu", 3)
        resumed.load_state(load_state(tmp_path / "s.safetensors"))
        for _ in range(2):
            resumed.train_epoch()
        assert resumed.progress == whole.progress
        for name, array in whole.predict(data).items():
            assert np.array_equal(array, resumed.predict(data)[name])

    def test_one_batch_can_be_learned(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = family.learner({**config, **self.overfit}, data, "cpu", 0)
        losses = [learner.train_epoch()["train_loss"]]
        while not learner.done:
            losses.append(learner.train_epoch()["train_loss"])
        assert np.mean(losses[-3:]) < 0.9 * losses[0]

    def test_divergence_is_told(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = family.learner({**config, **self.poison}, data, "cpu", 0)
        with pytest.raises(Diverged):
            for _ in range(50):
                learner.train_epoch()
                learner.validate()

    def test_prediction_does_not_depend_on_the_batch(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 1)
        whole = learner.predict(data)
        half = self.part(copy.deepcopy(data), slice(0, len(next(iter(whole.values()))) // 2))
        for name, array in learner.predict(half).items():
            np.testing.assert_allclose(array, whole[name][: len(array)], rtol=1e-4, atol=1e-6)

    def part(self, data: Any, rows: slice) -> Any:
        """`data` with only some samples to predict."""
        raise NotImplementedError
