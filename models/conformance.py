"""What every model family must do, as tests to inherit. Needs pytest; shipped for families outside, too.

class TestMine(Conformance):
    poison = {"lr": 1e30}        # must diverge
    overfit = {"epochs": 60}     # must learn one batch

    @pytest.fixture
    def family(self): ...        # the Family
    @pytest.fixture
    def config(self): ...        # settings of a training of a few pieces
    @pytest.fixture
    def block(self, tmp_path): ...   # the `data` block of a small data set
    @pytest.fixture
    def other_block(self): ...   # the same with one value changed, or None where nothing can be changed

One class an ability: a family without one of the optional abilities (`HoldsOut`, `Transfers`, `ReadsLazily`) leaves
that class out, one with it adds it: `class TestMine(Conformance, HoldsOut)`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ground.errors import BadInput
from ground.states import load_state, save_state
from models.base import Diverged, Family, Learner, Place, Prediction

CPU = Place()
_MOST_PIECES = 10_000


class Given:
    """What a family's test gives: fixtures as above, and these."""

    poison: dict[str, Any] = {}
    """Settings under which training must diverge (a huge learning rate, say)."""
    overfit: dict[str, Any] = {}
    """Settings for over-fitting one batch: no regularisation, enough epochs."""

    @pytest.fixture
    def data(self, family: Family, block: dict[str, Any]) -> Any:
        return family.load(block, "val")

    def train(self, family: Family, config: dict[str, Any], data: Any, pieces: int, seed: int = 3) -> Learner:
        learner = family.learner(family.check(config), data, CPU, seed)
        for _ in range(pieces):
            learner.train_piece()
        return learner


def same(one: Prediction, other: Prediction) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


class Settings(Given):
    def test_check_is_idempotent(self, family: Family, config: dict[str, Any]) -> None:
        once = family.check(config)
        assert family.check(once) == once

    def test_unknown_settings_are_refused_in_one_line(self, family: Family, config: dict[str, Any]) -> None:
        with pytest.raises(BadInput) as error:
            family.check({**config, "NO_SUCH_SETTING_OF_ANY_FAMILY": 1})
        assert "\n" not in str(error.value)

    def test_default_space_passes_check(self, family: Family) -> None:
        import search_spaces

        space = search_spaces.load(family.default_space)
        for corner in search_spaces.corners(space.space):
            family.check({**space.fixed, **corner})


class Data(Given):
    def test_fingerprint_is_stable_and_sensitive(
        self, family: Family, block: dict[str, Any], other_block: dict[str, Any] | None
    ) -> None:
        first = family.fingerprint(block)
        assert family.fingerprint(dict(block)) == first
        assert isinstance(first, str)
        if other_block is not None:
            assert family.fingerprint(other_block) != first

    def test_missing_data_is_one_line(self, family: Family, tmp_path: Path) -> None:
        for call in (lambda: family.own_data(str(tmp_path / "nowhere"), {}),):
            with pytest.raises(BadInput) as error:
                call()
            assert "\n" not in str(error.value)

    def test_groups_are_one_a_sample(self, family: Family, data: Any) -> None:
        groups = family.groups(data)
        assert groups is None or np.asarray(groups).shape == (family.scorer(family.truth(data)).samples,)

    def test_phase_test_can_be_predicted(self, family: Family, config: dict[str, Any], data: Any, block: Any) -> None:
        prediction = self.train(family, config, data, 1).predict(family.load(block, "test"))
        assert prediction


class Training(Given):
    def test_metrics_name_the_family_metric(self, family: Family, config: dict[str, Any], data: Any) -> None:
        metrics = self.train(family, config, data, 1).validate()
        assert {family.metric.name, *(m.name for m in family.snapshots.values())} <= set(metrics)

    def test_training_ends_and_counts(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = family.learner(family.check(config), data, CPU, 3)
        steps, progress = [learner.steps], [learner.progress]
        for _ in range(_MOST_PIECES):
            if learner.done:
                break
            assert "train_loss" in learner.train_piece()
            if learner.due:
                learner.validate()
            steps.append(learner.steps)
            progress.append(learner.progress)
        assert learner.done
        assert all(a < b for a, b in itertools.pairwise(steps))
        assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(progress))
        assert progress[-1] == 1.0

    def test_seed_reproduces(self, family: Family, config: dict[str, Any], data: Any) -> None:
        first, second = (self.train(family, config, data, 2).predict(data) for _ in range(2))
        other = self.train(family, config, data, 2, seed=4).predict(data)
        assert same(first, second)
        assert not same(first, other)

    def test_validation_leaves_training_alone(self, family: Family, config: dict[str, Any], data: Any) -> None:
        plain = self.train(family, config, data, 2)
        watched = family.learner(family.check(config), data, CPU, 3)
        for _ in range(2):
            watched.train_piece()
            watched.validate()
        assert same(plain.predict(data), watched.predict(data))

    def test_two_learners_do_not_disturb_each_other(self, family: Family, config: dict[str, Any], data: Any) -> None:
        alone = self.train(family, config, data, 2)
        one = family.learner(family.check(config), data, CPU, 3)
        two = family.learner(family.check(config), data, CPU, 8)
        for _ in range(2):
            one.train_piece()
            two.train_piece()
            two.validate()
        assert same(alone.predict(data), one.predict(data))

    def test_one_batch_can_be_learned(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = family.learner(family.check({**config, **self.overfit}), data, CPU, 0)
        losses = [learner.train_piece()["train_loss"]]
        while not learner.done:
            losses.append(learner.train_piece()["train_loss"])
        assert np.mean(losses[-3:]) < 0.9 * losses[0]

    def test_divergence_is_told(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = family.learner(family.check({**config, **self.poison}), data, CPU, 0)
        with pytest.raises(Diverged):
            for _ in range(50):
                learner.train_piece()
                learner.validate()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    def test_on_a_gpu(self, family: Family, config: dict[str, Any], data: Any, tmp_path: Path) -> None:
        gpu = Place("cuda")
        learner = family.learner(family.check(config), data, gpu, 3)
        learner.train_piece()
        learner.validate()
        save_state(tmp_path / "s.safetensors", learner.state())
        resumed = family.learner(family.check(config), data, gpu, 3)
        resumed.load_state(load_state(tmp_path / "s.safetensors"))
        assert all(np.isfinite(a).all() for a in resumed.predict(data).values() if a.dtype.kind == "f")
        here = family.restore(family.check(config), resumed.weights(), CPU)(data)
        for name, array in resumed.predict(data).items():
            np.testing.assert_allclose(here[name], array, rtol=1e-2, atol=1e-3)


class Resuming(Given):
    def test_save_load_predict(self, family: Family, config: dict[str, Any], data: Any, tmp_path: Path) -> None:
        learner = self.train(family, config, data, 2)
        save_state(tmp_path / "w.safetensors", learner.weights())
        restored = family.restore(family.check(config), load_state(tmp_path / "w.safetensors"), CPU)
        assert same(learner.predict(data), restored(data))

    def test_prediction_does_not_depend_on_the_batch(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 1)
        small = family.restore(family.check(config), learner.weights(), Place(batch=2))(data)
        for name, array in learner.predict(data).items():
            np.testing.assert_allclose(small[name], array, rtol=1e-4, atol=1e-6)

    def test_resume_equals_uninterrupted(
        self, family: Family, config: dict[str, Any], data: Any, tmp_path: Path
    ) -> None:
        whole = self.train(family, config, data, 4)
        cut = self.train(family, config, data, 2)
        cut.validate()
        save_state(tmp_path / "s.safetensors", cut.state())
        resumed = family.learner(family.check(config), data, CPU, 3)
        resumed.load_state(load_state(tmp_path / "s.safetensors"))
        assert resumed.steps == cut.steps
        for _ in range(2):
            resumed.train_piece()
        assert (resumed.progress, resumed.steps) == (whole.progress, whole.steps)
        assert same(whole.predict(data), resumed.predict(data))


class Scoring(Given):
    def test_shapes(self, family: Family, config: dict[str, Any], data: Any) -> None:
        prediction = self.train(family, config, data, 1).predict(data)
        assert all(np.isfinite(array).all() for array in prediction.values() if array.dtype.kind == "f")
        scorer = family.scorer(family.truth(data))
        for name, array in scorer.reduce(prediction).items():
            assert len(array) == (len(scorer.rows[name]) if name in scorer.rows else scorer.samples)
        assert np.isfinite(scorer(prediction))

    def test_validation_metric_is_the_score(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 2)
        value = learner.validate()[family.metric.name]
        assert value == pytest.approx(family.score(learner.predict(data), family.truth(data)), abs=1e-5)

    def test_selection_scores_what_combine_gives(self, family: Family, config: dict[str, Any], data: Any) -> None:
        members = [self.train(family, config, data, 1, seed).predict(data) for seed in (1, 2, 3)]
        weights = [0.5, 0.2, 0.3]
        scorer = family.scorer(family.truth(data))
        reduced = [scorer.reduce(member) for member in members]
        whole = family.score(family.combine(members, weights), family.truth(data))
        assert scorer.score(family.combine(reduced, weights)) == pytest.approx(whole, rel=1e-5, abs=1e-7)
        if family.associative:
            pair = family.combine(reduced[:2], weights[:2])
            stepwise = family.combine([pair, reduced[2]], [0.7, 0.3])
            assert scorer.score(stepwise) == pytest.approx(whole, rel=1e-5, abs=1e-7)

    def test_calibration_keeps_the_metric(self, family: Family, config: dict[str, Any], data: Any) -> None:
        prediction, truth = self.train(family, config, data, 2).predict(data), family.truth(data)
        scorer = family.scorer(truth)
        calibration = json.loads(json.dumps(family.calibrate(scorer.reduce(prediction), truth)))
        after = scorer(family.calibrated(prediction, calibration))
        assert after == pytest.approx(scorer(prediction), abs=1e-6)
        assert same(family.calibrated(prediction, {}), prediction)

    def test_members_must_agree_on_what_is_no_average(self, family: Family) -> None:
        one = {"value": np.ones(3), "id": np.arange(3)}
        assert np.array_equal(family.combine([one, one], [1, 3])["id"], np.arange(3))
        with pytest.raises(BadInput):
            family.combine([one, {**one, "id": np.arange(1, 4)}], [1, 1])
        with pytest.raises(BadInput):
            family.combine([one, {**one, "value": np.ones(4)}], [1, 1])

    def test_parts_are_the_whole(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 1)
        parts = [learner.predict(part) for part in family.parts(data)]
        for name, array in learner.predict(data).items():
            np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), array, rtol=1e-4, atol=1e-6)


class Conformance(Settings, Data, Training, Resuming, Scoring):
    """What no family can do without."""


class HoldsOut(Given):
    """`Family.subset`: validation samples that a holdout keeps from the search."""

    def test_a_subset_is_predicted_and_scored_alike(self, family: Family, config: dict[str, Any], data: Any) -> None:
        learner = self.train(family, config, data, 1)
        scorer = family.scorer(family.truth(data))
        chosen = np.arange(1, scorer.samples, 2)
        reduced = scorer.reduce(learner.predict(data))
        kept = {
            name: array[np.isin(scorer.rows[name], chosen)] if name in scorer.rows else array[chosen]
            for name, array in reduced.items()
        }
        part = family.subset(data, chosen)
        alone = family.scorer(family.truth(part))
        assert alone.samples == len(chosen)
        expected = scorer.take(chosen).score(kept)
        assert alone(learner.predict(part)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


class Transfers(Given):
    """`Learner.start_from`: the setting INIT."""

    def test_starts_with_the_weights_given(self, family: Family, config: dict[str, Any], data: Any) -> None:
        trained = self.train(family, config, data, 2)
        fresh = family.learner(family.check(config), data, CPU, 9)
        assert not same(fresh.predict(data), trained.predict(data))
        fresh.start_from(trained.weights())
        assert same(fresh.predict(data), trained.predict(data))
        assert fresh.steps == 0

    def test_weights_that_do_not_fit_are_refused(self, family: Family, config: dict[str, Any], data: Any) -> None:
        with pytest.raises(BadInput):
            family.learner(family.check(config), data, CPU, 9).start_from({"network": {}})


class ReadsLazily(Given):
    """Data that is read while training: what happens when its files are lost."""

    @pytest.fixture
    def lost(self) -> Iterator[Any]:
        """Data whose files were taken away after `load`."""
        raise NotImplementedError

    def test_lost_files_are_named(self, family: Family, config: dict[str, Any], lost: Any) -> None:
        with pytest.raises((OSError, BadInput)):
            self.train(family, config, lost, 2)
