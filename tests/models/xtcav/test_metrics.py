from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as reference

from models.xtcav.metrics import (
    BalancedAccuracy,
    apply_temperature,
    balanced_accuracy,
    calibration_error,
    class_scores,
    confusion,
    fit_temperature,
    log_losses,
    mean_r2,
    posterior,
    r2,
    reliability,
    target_scorer,
    target_scores,
)
from models.xtcav.plots import most_confident_errors

# the last confusion matrix of the 6-layer net
SIX_LAYER = np.array([[56, 0, 1, 0], [3, 29, 1, 9], [0, 0, 142, 27], [1, 6, 11, 114]])


def random(n: int, classes: int, seed: int, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them, raised to `sharp`."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n)
    labels = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    p = p**sharp
    return (p / p.sum(1, keepdims=True)).astype(np.float32), labels


@given(st.integers(2, 60), st.integers(2, 6), st.integers(0, 1000))
def test_scores_are_the_references(n: int, classes: int, seed: int) -> None:
    p, y = random(n, classes, seed)
    guess, scores = p.argmax(1), class_scores(p, p.argmax(1), y)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    recalls = [np.mean(guess[y == k] == k) for k in np.unique(y)]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(y, guess, average="macro", zero_division=0))
    q = p.astype(float) / p.astype(float).sum(1, keepdims=True)
    assert scores["log_loss"] == pytest.approx(reference.log_loss(y, q, labels=range(classes)), rel=1e-4)
    assert np.array_equal(confusion(y, guess, classes), reference.confusion_matrix(y, guess, labels=range(classes)))
    assert BalancedAccuracy(y)({"likelihood": p}) == pytest.approx(scores["balanced_accuracy"])
    other = (guess + 1) % classes
    wrong = class_scores(p, other, y)
    assert wrong["accuracy"] == pytest.approx(reference.accuracy_score(y, other))
    assert wrong["top_accuracy"] == scores["accuracy"]


def test_the_six_layer_run() -> None:
    assert SIX_LAYER.trace() / SIX_LAYER.sum() == pytest.approx(0.8525)
    assert balanced_accuracy(SIX_LAYER) == pytest.approx(0.8443, abs=1e-4)


def test_rows_without_a_label_do_not_count() -> None:
    p, y = random(50, 4, 1)
    masked = np.where(np.arange(50) % 3 == 0, -1, y)
    kept = masked >= 0
    told = p.argmax(1)
    assert class_scores(p, told, masked) == class_scores(p[kept], told[kept], y[kept])
    assert BalancedAccuracy(masked)({"likelihood": p}) == BalancedAccuracy(y[kept])({"likelihood": p[kept]})
    assert math.isnan(BalancedAccuracy(np.full(50, -1))({"likelihood": p}))
    assert math.isnan(class_scores(p, told, np.full(50, -1))["accuracy"])


def test_a_member_that_is_not_finite_scores_nothing() -> None:
    p, y = random(20, 3, 0)
    p[3, 1] = np.nan
    assert math.isnan(BalancedAccuracy(y)({"likelihood": p}))


def test_errors_are_those_of_repeated_draws() -> None:
    rng, found, told = np.random.default_rng(0), [], []
    p, _ = random(2000, 4, 5)
    for _ in range(200):
        y = (p.cumsum(1) > rng.random((2000, 1))).argmax(1)
        scores = class_scores(p, p.argmax(1), y)
        found.append([scores[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")])
        told.append([scores[f"{name}_se"] for name in ("accuracy", "balanced_accuracy", "macro_f1")])
    assert np.std(found, 0) == pytest.approx(np.mean(told, 0), rel=0.2)


probabilities = arrays.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(2, 5)), elements=st.floats(1e-6, 1))


@given(probabilities, st.floats(0.06, 15))
def test_a_temperature_keeps_order_and_sum(raw: np.ndarray, temperature: float) -> None:
    p = raw / raw.sum(1, keepdims=True)
    changed = apply_temperature(p, temperature)
    assert np.allclose(changed.sum(1), 1)
    assert np.allclose(changed.max(1), changed[np.arange(len(p)), p.argmax(1)])
    assert np.allclose(apply_temperature(p, 1.0), p, atol=1e-9)
    back = apply_temperature(changed, 1 / temperature)
    if changed.min() > 1e-9:
        assert np.allclose(back, p, atol=1e-5)


EVEN, RARE = np.full(4, 0.25), np.array([0.7, 0.2, 0.06, 0.04])


def drawn(n: int, seed: int, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Likelihoods of classes with the shares `RARE`, and labels; `sharp` as in `random`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, n, p=RARE)
    evidence = rng.normal(size=(n, 4))
    # unit noise about 1.5 at the class: the logarithm of the likelihood ratio is 1.5 times what is seen
    evidence[np.arange(n), labels] += 1.5
    powers = np.exp(1.5 * evidence * sharp)
    return powers / powers.sum(1, keepdims=True), labels


@given(st.integers(0, 200), st.floats(0.3, 3), st.integers(5, 80))
def test_the_fitted_temperature_never_harms(seed: int, sharp: float, n: int) -> None:
    p, y = random(n, 4, seed, sharp)
    fitted = fit_temperature(p, RARE, y)
    assert 0.04 < fitted < 21
    before, after = (log_losses(posterior(q, RARE), y).mean() for q in (p, apply_temperature(p, fitted)))
    assert after <= before + 1e-6


@pytest.mark.parametrize("sharp", [0.5, 1.0, 2.0])
def test_the_temperature_that_was_put_in_is_found(sharp: float) -> None:
    for (p, y), shares in ((random(20000, 4, 3, sharp), EVEN), (drawn(20000, 3, sharp), RARE)):
        found = fit_temperature(p, shares, y)
        assert found == pytest.approx(sharp, rel=0.06)
        before, after = (calibration_error(posterior(q, shares), y) for q in (p, apply_temperature(p, found)))
        assert after < 0.012 and (sharp == 1.0 or after < before / 2)


def test_no_label_no_temperature() -> None:
    assert fit_temperature(np.full((3, 2), 0.5), np.full(2, 0.5), np.full(3, -1)) == 1.0


def test_the_likeliest_class_is_bayes_rule_of_balanced_accuracy() -> None:
    p, y = drawn(40000, 1)
    probabilities = posterior(p, RARE)
    assert np.allclose(probabilities.mean(0), RARE, atol=0.01)  # calibrated to the data's shares
    by_likelihood, by_probability = (class_scores(probabilities, q.argmax(1), y) for q in (p, probabilities))
    assert BalancedAccuracy(y)({"likelihood": p}) == by_likelihood["balanced_accuracy"]
    assert by_likelihood["balanced_accuracy"] > by_probability["balanced_accuracy"] + 0.1
    assert by_probability["accuracy"] == by_likelihood["top_accuracy"] > by_likelihood["accuracy"] + 0.1


@given(probabilities, st.integers(0, 100))
def test_a_posterior_is_turned_back_by_its_shares(raw: np.ndarray, seed: int) -> None:
    p = raw / raw.sum(1, keepdims=True)
    shares = np.random.default_rng(seed).dirichlet(np.full(p.shape[1], 5.0))
    there = posterior(p, shares)
    assert np.allclose(there.sum(1), 1) and np.allclose(posterior(there, 1 / shares), p)


def test_reliability_counts_every_row() -> None:
    p, y = random(300, 3, 2)
    table = reliability(p, y)
    assert table[:, 2].sum() == 300
    assert (table[:, 1] * table[:, 2]).sum() == (p.argmax(1) == y).sum()


def test_the_most_confident_errors_come_first() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.99, 0.01]])
    assert most_confident_errors(p, np.array([1, 0, 1, 0])).tolist() == [0, 1]


def test_r2_counts_only_what_is_there() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(40, 2))
    told = true + 0.1 * rng.normal(size=true.shape)
    expected = [reference.r2_score(true[:, 0], told[:, 0]), reference.r2_score(true[5:, 1], told[5:, 1])]
    true[:5, 1] = np.nan
    assert r2(told, true) == pytest.approx(expected)
    assert mean_r2(told, true) == pytest.approx(np.mean(expected))
    assert target_scorer(true)({"values": told}) == pytest.approx(np.mean(expected))
    assert math.isnan(mean_r2(told, np.full_like(true, np.nan)))
    constant = np.stack([true[:, 0], np.ones(40)], 1)
    assert np.isnan(r2(told, constant)[1])


def test_errors_of_targets_stand_beside_the_means() -> None:
    true = np.array([[1.0, np.nan], [3.0, 2.0]])
    scores = target_scores({"values": np.array([[1.0, 9.0], [2.0, 2.0]]), "presence": np.array([[0.9, 0.2], [1, 1]])},
                           true, ("a", "b"), np.array([2.0, 5.0]))  # fmt: skip
    assert scores["a_rmse"] == pytest.approx(math.sqrt(0.5)) and scores["a_rmse_of_mean"] == pytest.approx(1.0)
    assert scores["b_rmse"] == 0 and scores["b_rmse_of_mean"] == 3
    assert scores["a_presence_accuracy"] == scores["b_presence_accuracy"] == 1
