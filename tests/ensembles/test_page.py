"""The report in a real browser: nothing fails or runs that should not, figures are drawn, tables sort, labels fit."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from ensembles import build, report
from ensembles.figures import axis_label, short_names
from ground.files import write_json
from ground.page import sortable
from models import registry
from search_spaces import Domain
from studies.study import Study, open_study
from tests.conftest import ROOT
from tests.ensembles.browser import Browser, started
from tests.ensembles.studies import add_trial, write_data, write_study

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
NAME = "a&b <img src=x onerror=window.hacked=1>"
LONG = [
    "MODEL.DROPOUT_EMBEDDING", "MODEL.CONTEXT_BACKWARD", "MODEL.CONTEXT_FORWARD", "TRAIN.LR.SCHEDULE_WARMUP_FRACTION",
    "TRAIN.WEIGHT_DECAY", "TRAIN.MASK_RATIO", "NUMBEROFCONVOLUTIONALFILTERS", "TRAIN.MASK_TOKEN_RATIO",
    "a.b-c_d e.f g.h.i", f"MODEL.{EVIL}",
]  # fmt: skip
SPACE = {
    **{name: Domain("loguniform" if "W" in name else "uniform", 1e-4, 1.0) for name in LONG},
    "kind": Domain("choice", options=("plain", EVIL, "W" * 40)),
    "layers": Domain("choice", options=([16], [16, 16], [32, 32, 64, 128])),
}
"""Twelve axes and the metric's."""
TRIALS = 13


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def families() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.EXTRA_FOLDERS, str(ROOT / "tests" / "families"))
        yield


@pytest.fixture(scope="module")
def page(families: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study whose every name, setting and caption wants to be code."""
    folder = tmp_path_factory.mktemp("studies")
    study = write_study(folder / NAME, write_data(folder / "data.npz"), [])
    command = ["noisy", "--set", f"a={EVIL}"]
    space = {name: domain.to_json() for name, domain in SPACE.items()}
    write_json(study.path / "study.json", {**study.config, "space": space, "command": command})
    study = open_study(study.path)
    rng = np.random.default_rng(3)
    for number in range(TRIALS):
        settings = {name: float(10 ** rng.uniform(-4, 0)) for name in LONG}
        settings |= {"kind": SPACE["kind"].options[number % 3], "layers": SPACE["layers"].options[number % 3]}
        if number % 4 == 0:
            del settings["TRAIN.MASK_RATIO"]
        add_trial(study, number, 0.2 + 0.15 * number, settings)
    _failed(study)
    build.build(study)
    family: Any = study.family
    with pytest.MonkeyPatch.context() as patch:
        figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=EVIL, line_color="red"), layout={"title": EVIL})
        patch.setattr(type(family), "pictures", lambda *_: [(EVIL, figure)])
        patch.setattr(type(family), "describe", lambda *_: {EVIL: EVIL})
        return report.write(study)


def _failed(study: Study) -> None:
    folder = study.trials / "t99"
    settings = dict.fromkeys(LONG, 0.5) | {"level": 1.0}
    write_json(folder / "config.json", {"trial_id": "t99", "number": 99, "seed": 0, "settings": settings})
    write_json(folder / "result.json", {"status": "failed", "reason": EVIL, "seconds": 10.0, "best": {}, "metrics": {}})


@pytest.mark.parametrize("width", [1100, 400])
def test_every_figure_is_drawn_and_nothing_fails(window: Browser, page: Path, width: int) -> None:
    window.open(page, width)
    if folder := os.environ.get("CONCERT_SCREENSHOTS"):
        window.whole(Path(folder) / f"report-{width}.png")
    figures = window.find(".figure .plotly-graph-div")
    headings = [h.text for h in window.find("section:has(.figure) h2")]
    assert len(figures) == 6 and [h.split(" (")[0] for h in headings[:5]] == [
        "Optimization history", "Parameter importance", "Parallel coordinates", "Learning curves", "Ensemble size",
    ]  # fmt: skip
    for heading, figure in zip(headings, figures, strict=True):
        pixels = window.picture(figure)
        coloured = int((pixels.max(2) - pixels.min(2) > 70).sum())  # axes, grids and texts are grey or nearly
        assert coloured > 150, f"{heading}: {coloured} pixels of {pixels.shape}"
    assert window.run(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )  # only figures scroll sideways
    assert window.errors() == []


def test_nothing_foreign_runs_and_nothing_is_fetched(window: Browser, page: Path) -> None:
    window.open(page, 1100)
    assert window.run("return window.hacked") is None
    assert window.find("img, iframe, object, embed") == []
    assert window.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    text = window.run("return document.body.textContent")
    assert window.run("return document.title") == NAME == window.find("h1")[0].text
    assert text.count(EVIL) >= 8  # caption, contents, data, command, reason, setting: as they are
    assert "--set" in text and "Words" in text and "mean squared error" in text


@pytest.mark.parametrize("width", [1100, 400])
def test_labels_of_parallel_axes_stand_clear(window: Browser, page: Path, width: int) -> None:
    window.open(page, width)
    boxes = window.run("""
        const box = e => {
            const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom, e.textContent]};
        const all = s => [...document.querySelectorAll('.parcoords ' + s)].map(box);
        return {titles: all('.axis-title'), ends: all('.axis-extent-text'),
                figure: box(document.querySelector('.parcoords').closest('svg'))}""")
    titles = boxes["titles"]
    assert len(titles) == len(SPACE) + 1
    for one, other in itertools.combinations([*titles, *(e for e in boxes["ends"] if e[4])], 2):
        assert not _meet(one, other), f"{one} meets {other} at {width}"
    left, right, top, bottom, _ = boxes["figure"]
    for title in titles:
        assert title[1] - title[0] > 5 and title[4]
        assert left <= title[0] and title[1] <= right and top <= title[2] and title[3] <= bottom
    # nothing is lost by what is shortened: the list below has every name in the order of the axes
    assert [b.text for b in window.find(".notes li b")] == [*SPACE, "mse"]


def _meet(a: list[Any], b: list[Any]) -> bool:
    return bool(a[0] < b[1] - 0.5 and b[0] < a[1] - 0.5 and a[2] < b[3] - 0.5 and b[2] < a[3] - 0.5)


def _column(window: Browser, title: str) -> tuple[Any, list[str]]:
    table = next(t for t in window.find("table.sortable") if t.get_attribute("aria-label") == "All checkpoints")
    heads = table.find_elements("css selector", "thead button")
    at = [head.text for head in heads].index(title)
    cells = "[...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]])"
    return heads[at], window.run(f"return {cells}.map(cell => cell.dataset.value ?? cell.textContent)", table, at)


def test_tables_sort_by_a_click_and_by_the_keyboard(window: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    window.open(page, 1100)
    head, before = _column(window, "mse")
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"  # as it is written
    scores = [float(value) for value in before if value]
    assert scores == sorted(scores) and before[-1] == "" and len(scores) == TRIALS + 1
    head.click()
    _, after = _column(window, "mse")
    assert [float(value) for value in after if value] == scores[::-1]
    assert after[-1] == ""  # what has no score stays last
    head, _ = _column(window, "seconds")
    head.send_keys(Keys.ENTER)  # 1 and 10: as text, "10.0" would come before "2"
    _, seconds = _column(window, "seconds")
    numbers = [float(value) for value in seconds if value]
    assert numbers == sorted(numbers) and numbers[-1] == 10.0
    head, _ = _column(window, "trial")
    head.send_keys(Keys.SPACE)
    _, trials = _column(window, "trial")
    assert trials == sorted(trials) and "ensemble" in trials
    (marked,) = window.find("tr.ensemble")
    assert "greedy" in marked.text


def test_numbers_sort_as_numbers(window: Browser, tmp_path: Path) -> None:
    rows = [[value, str(n)] for n, value in enumerate([10, 9.5, None, -3e-7, np.nan, 1e12, 200, -np.inf, np.inf])]
    path = tmp_path / "table.html"
    path.write_text(
        f"<meta charset=utf-8>{sortable('All checkpoints', ['value', 'row'], rows)}"
        f"<script>{(ROOT / 'ground/page.js').read_text()}</script>"
    )
    window.open(path, 600)
    head, _ = _column(window, "value")
    for expected in (["7", "3", "1", "0", "6", "5", "8", "2", "4"], ["8", "5", "6", "0", "1", "3", "7", "2", "4"]):
        head.click()
        assert _column(window, "row")[1] == expected


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("co-bps", ["co-bps"]),
        ("CONTEXT_BACKWARD", ["CONTEXT_", "BACKWARD"]),
        ("NUMBEROFCONVOLUTIONALFILTERS", ["NUMBEROF…"]),
        ("a_b_c_d", ["a_b_c_d"]),
        ("ONE_TWO_THREE_FOUR_FIVE_SIX", ["ONE_TWO_", "THREE_", "FOUR_FIV…"]),
        ("<b>&", ["&lt;b&gt;&amp;"]),
        ("", [""]),
    ],
)
def test_axis_labels(name: str, lines: list[str]) -> None:
    assert axis_label(name).split("<br>")[1:] == lines


def test_names_are_shortened_where_they_stay_apart() -> None:
    assert short_names(["MODEL.A", "TRAIN.A", "TRAIN.LR.INIT", "width"]) == {
        "MODEL.A": "MODEL.A", "TRAIN.A": "TRAIN.A", "TRAIN.LR.INIT": "LR.INIT", "width": "width",
    }  # fmt: skip
