from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.xtcav.config import DEFAULTS, biases, pair, resolve
from models.xtcav.schedule import Plateau, parse, rate


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("LERNING", 1, "unknown xtcav setting"),
        ("EPOCH", 1, "did you mean EPOCHS"),
        ("NET", "resnet", "did you mean resnet18"),
        ("NET", "vgg", "one of"),
        ("EPOCHS", 2.5, "whole number"),
        ("EPOCHS", 0, "at least 1"),
        ("DROPOUT", 1, "at most"),
        ("DROPOUT", True, "takes a number"),
        ("LR", float("nan"), "takes a number"),
        ("SCALARS", 1, "true or false"),
        ("LR.SCHEDULE", "cosin", "it takes cosine"),
        ("LR.SCHEDULE", "0.01,2,100", "it takes cosine"),
        ("POOL", "13", "window,stride"),
        ("POOL", "0,1", "at least 1"),
        ("K2STRD", "2", "rows,columns"),
        ("BIAS", "0.1", "layer=value"),
        ("BIAS", "1=0.1,1=0.2", "layer=value"),
        ("BIAS", "1=nan", "layer=value"),
        ("LR.SCHEDULE", "0.01/(1-0.1*t)", "it takes cosine"),
        ("LR.SCHEDULE", "0.01/0.5", "it takes cosine"),
    ],
)
def test_wrong_settings_are_one_line(setting: str, value: object, told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        resolve({setting: value})
    assert "\n" not in str(error.value)


def test_lists_stand_for_texts() -> None:
    assert pair(resolve({"POOL": [5, 3]}), "POOL") == (5, 3)
    assert pair(resolve({"K1STRD": [2, 1]}), "K1STRD") == (2, 1)
    assert biases(resolve({"BIAS": "1=0.1,3:-2e-1"})) == {1: 0.1, 3: -0.2} and biases(resolve({})) == {}
    assert resolve({"LR.SCHEDULE": [0.01, 0.96, 100]})["LR.SCHEDULE"] == "0.01,0.96,100"
    assert resolve(DEFAULTS) == DEFAULTS


def test_stepwise_rates_of_the_runs() -> None:
    steps = parse("0.01,0.96,50")
    assert [steps.rate(t) for t in (0, 49, 50, 100)] == pytest.approx([0.01, 0.01, 0.0096, 0.009216])
    # the 7-layer run: "× .97 each 100 while > .003", which ended at .00296
    assert parse("0.01,0.97,100,0.003").rate(10**6) == pytest.approx(0.00296, abs=5e-6)
    assert parse("0.001,0.97,100,0.003").rate(10**6) == 0.001


@pytest.mark.parametrize("text", ["0.01/(1+0.0004*t)", "1e-2 / (1 + .0004t)", ".01/(1+4e-4t)"])
def test_the_rate_of_the_keras_run(text: str) -> None:
    schedule = resolve({"LR.SCHEDULE": text})["LR.SCHEDULE"]
    rates = [rate(schedule, 99.0, step, 3000, 0) for step in (0, 1, 2500, 3000)]
    assert rates == pytest.approx([0.01, 0.01 / 1.0004, 0.005, 0.01 / 2.2])


@given(
    st.sampled_from(["cosine", "constant", "plateau", "0.01,0.9,7", "0.01/(1+0.3*t)"]),
    st.integers(0, 50),
    st.integers(0, 20),
)
def test_rates_stay_between_nothing_and_the_largest(schedule: str, step: int, warmup: int) -> None:
    assert 0 <= rate(schedule, 0.01, step, 50, warmup) <= 0.01 + 1e-12


def test_cosine_and_warmup() -> None:
    rates = [rate("cosine", 1.0, step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[55] == pytest.approx(0.5) and rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_plateau_halves_and_goes_on_from_its_state() -> None:
    plateau = Plateau(patience=1)
    assert math.isinf(plateau._best) and len(plateau.state()) == 2
    for loss in (1.0, 0.9, 0.9, 0.95):
        plateau.note(loss)
    assert plateau.factor == 0.5
    other = Plateau(patience=1)
    other.load_state(plateau.state())
    for loss in (0.91, 0.92):
        plateau.note(loss), other.note(loss)
    assert other.factor == plateau.factor == 0.25
