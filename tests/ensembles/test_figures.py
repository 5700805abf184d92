"""Figures of searches that are not plain: smaller is better, lists to choose from, settings that some trials lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensembles import build, figures, report, terminal
from ground.files import write_json
from models import registry
from search_spaces import Domain
from studies import ledger
from studies.study import open_study
from tests.conftest import ROOT
from tests.ensembles.studies import add_trial, write_data, write_study

SPACE = {
    "layers": Domain("choice", options=([16], [16, 16], [32, 32])),
    "kind": Domain("choice", options=("a", True, 1)),
    "rate": Domain("loguniform", 1e-4, 1e-1),
    "momentum": Domain("uniform", 0.0, 1.0),
    "never": Domain("uniform", 0.0, 1.0),
}


def trials() -> pd.DataFrame:
    """Momentum is a setting of some trials only, `never` of none."""
    rows = [
        {"trial_id": f"t{n}", "number": n, "layers": options, "kind": kind, "rate": rate, "momentum": momentum,
         "never": None, "mse": 1.0 / (n + 1), "status": "finished"}
        for n, (options, kind, rate, momentum) in enumerate(
            [([16], "a", 1e-3, 0.9), ([16, 16], True, 1e-2, None), ([32, 32], 1, 1e-4, 0.5),
             ([16], "a", 1e-1, None), ([64], "b", None, 0.1), ([16], 1, 1e-3, np.nan)]
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_hyperparameters_as_numbers() -> None:
    found = figures.encoded(trials(), SPACE)
    assert list(found) == ["layers", "kind", "rate", "momentum"]
    np.testing.assert_array_equal(found["layers"], [0, 1, 2, 0, np.nan, 0])
    np.testing.assert_array_equal(found["kind"], [0, 1, 2, 0, np.nan, 2])
    np.testing.assert_allclose(found["rate"], [-3, -2, -4, -1, np.nan, -3])


def test_missing_values_lie_below_all_others() -> None:
    _, figure = figures.coordinates(trials(), SPACE, "mse")
    axes = {axis.label: np.array(axis["values"], float) for axis in figure.data[0].dimensions}
    assert all(np.isfinite(values).all() for values in axes.values())
    momentum = axes["<br>momentum<br>*"]
    assert figure.layout.meta["notes"]["momentum"] == "below all others (*): trials without it"
    assert momentum[1] == momentum[3] == momentum[5] < 0.1
    assert figures.importance(trials(), SPACE, "mse") is not None


@pytest.mark.parametrize(("mode", "expected"), [("min", [3, 2, 2, 1]), ("max", [3, 3, 4, 4])])
def test_best_so_far_follows_the_mode(mode: str, expected: list[float]) -> None:
    frame = pd.DataFrame({"trial_id": list("abcd"), "number": range(4), "mse": [3.0, 2.0, 4.0, 1.0]})
    _, figure = figures.history(frame, "mse", mode)
    assert list(figure.data[1].y) == expected


def test_a_report_of_such_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(ROOT / "tests" / "families"))
    study = write_study(tmp_path / "study", write_data(tmp_path / "data.npz"), [])
    space = {name: domain.to_json() for name, domain in SPACE.items()}
    write_json(study.path / "study.json", {**study.config, "space": space})
    study = open_study(study.path)
    for number, (_, row) in enumerate(trials().iterrows()):
        settings = {name: row[name] for name in SPACE if row[name] is not None and row[name] == row[name]}
        add_trial(study, number, 0.5 + 0.1 * number, settings)
    found = build.build(study)
    (study.path / "trials/t01/metrics.csv").unlink()
    (study.path / "trials/t02/metrics.csv").write_bytes(b"step,mse\n1,\xff\n")
    _, curves = figures.learning_curves(study, ledger.table(study))
    assert {curve.name[:3] for curve in curves.data} == {"t00", "t03", "t04", "t05"}
    page = report.write(study).read_text()
    for words in ("Parameter importance", "Parallel coordinates", "Learning curves", "Ensemble size", "t00.best"):
        assert words in page
    assert "smaller is better" in page
    terminal.leaderboard(study, found)
