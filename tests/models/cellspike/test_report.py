from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as scipy_stats

from ground.errors import BadInput
from models.base import Place
from models.cellspike import FAMILY, plots, report
from models.cellspike.data import NewTraces
from models.cellspike.statistics import by_cell, residuals
from tests.models.cellspike import written

RNG = np.random.default_rng(0)
SETTINGS = {"CONV_DEPTH": 1, "FILTERS_1": 8, "KERNEL_1": 3, "POOL_1": 4, "FC_DEPTH": 1, "FC_1": 16, "EPOCHS": 8,
            "BATCH_SIZE": 16, "LR": 3e-3}  # fmt: skip

# ---- statistics


def made(share: float, rows: int = 4000, cells: int = 0) -> Any:
    """Predictions that explain about this share of the truth's variance."""
    rng = np.random.default_rng(3)
    truth = rng.uniform(-1, 1, (rows, 2))
    prediction = truth + rng.normal(0, np.sqrt((1 - share) / 3), truth.shape)
    return prediction, truth, rng.integers(0, cells, rows) if cells else None


@given(
    hnp.arrays(np.float64, (20, 3), elements=st.floats(-2, 2)),
    hnp.arrays(np.float64, (20, 3), elements=st.floats(-2, 2)),
)
def test_statistics_are_those_of_their_formulas(prediction: np.ndarray, truth: np.ndarray) -> None:
    found = residuals("abc", prediction, truth)
    table = found.table()
    for column in range(3):
        away = truth[:, column] - prediction[:, column]
        assert found.mean[column] == pytest.approx(away.mean(), abs=1e-12)
        assert found.rmse[column] ** 2 == pytest.approx((away**2).mean(), abs=1e-12)
        assert found.rmse[column] ** 2 == pytest.approx(found.mean[column] ** 2 + found.std[column] ** 2, abs=1e-12)
        assert found.mae[column] == pytest.approx(np.abs(away).mean(), abs=1e-12)
        mark = "BAD" if away.std() > 0.4 else "CONST" if away.std() < 0.01 else ""
        assert table["mark"][column] == mark
        if truth[:, column].std() > 1e-3 and prediction[:, column].std() > 1e-3:
            expected = scipy_stats.pearsonr(prediction[:, column], truth[:, column]).statistic
            assert found.pearson[column] == pytest.approx(expected, abs=1e-6)
            explained = 1 - away.var() / truth[:, column].var()
            assert found.explained[column] == pytest.approx(explained, rel=1e-9)
    assert found.loss == pytest.approx(((truth - prediction) ** 2).mean(), abs=1e-12)


def test_a_constant_truth_is_not_identifiable() -> None:
    truth = np.stack([np.full(50, 0.3), np.linspace(-1, 1, 50)], 1)
    found = residuals("ab", truth, truth)
    assert np.isnan([found.explained[0], found.pearson[0], found.low[0]]).all()
    assert found.classes == ["not", "identifiable"]


@pytest.mark.parametrize(("share", "kind"), [(0.97, "identifiable"), (0.5, "weak"), (0.02, "not")])
def test_classes_say_what_can_be_recovered(share: float, kind: str) -> None:
    found = residuals("ab", *made(share))
    assert found.classes == [kind, kind]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Explained variance of 1 - s²/(1/3) is known; 95 % of intervals shall hold it."""
    rng, inside = np.random.default_rng(5), 0
    for seed in range(120):
        truth = rng.uniform(-1, 1, (300, 1))
        found = residuals("a", truth + rng.normal(0, 0.3, truth.shape), truth, seed=seed)
        inside += found.low[0] <= 1 - 0.09 * 3 <= found.high[0]
    assert 0.88 * 120 <= inside <= 0.99 * 120


def test_intervals_are_over_cells_where_there_are_several() -> None:
    prediction, truth, cells = made(0.8, 2000, 4)
    # one cell whose conductances are shifted: rows would hide how little four cells say
    prediction[cells == 2] *= -1
    over_cells, over_rows = residuals("ab", prediction, truth, cells), residuals("ab", prediction, truth)
    assert (over_cells.groups, over_cells.over) == (4, "cells")
    assert (over_rows.groups, over_rows.over) == (2000, "rows")
    assert ((over_cells.high - over_cells.low) > 3 * (over_rows.high - over_rows.low)).all()
    np.testing.assert_array_equal(over_cells.explained, over_rows.explained)
    table = by_cell(prediction, truth, cells)
    assert list(table["rows"]) == list(np.bincount(cells))
    assert table["mse"].idxmax() == 2


# ---- the verb


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(prediction file, packs) of three cells, the last of them a witness, as `ensembles predict` leaves them."""
    folder = tmp_path_factory.mktemp("cells")
    packs = folder / "packs"
    packs.mkdir()
    for cell in range(3):
        written.ontra(packs, cell, {"train": 200, "val": 20, "test": 30})
    written.training_meta(packs, ["bbp1021"])
    data = FAMILY.load({"path": str(packs)}, "val")
    learner = FAMILY.learner(FAMILY.check(SETTINGS), data, Place(), 0)
    while not learner.done:
        learner.train_piece()
    restored = FAMILY.restore(FAMILY.check(SETTINGS), learner.weights(), Place())
    new = FAMILY.open(packs, "test")
    out = folder / "pred.h5"
    FAMILY.export([(new, restored(new))], out, {"study": "toy", "members": 1})
    return out, packs


def verb(prediction: Path, packs: Path, out: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    report.report_arguments(parser)
    return report.report_main(parser.parse_args([str(prediction), str(packs), "-o", str(out), *more]))


def truths(packs: Path, name: str) -> np.ndarray:
    """Test rows of all packs, in order of their names."""
    parts = []
    for path in sorted(packs.glob("*.h5")):
        with h5py.File(path) as file:
            parts.append(np.asarray(file[f"test_{name}"]))
    return np.concatenate(parts)


def test_the_summary_is_the_fields_and_right(
    predicted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(*predicted, tmp_path) == 0
    found = yaml.safe_load((tmp_path / "sum_pred_test.yaml").read_text())
    with h5py.File(predicted[0]) as file:
        told, physical = np.asarray(file["ustar"]), np.asarray(file["physical"])
    away = truths(predicted[1], "unitStar_par").astype(float) - told
    assert (found["domain"], found["numSamples"], found["inpShape"]) == ("test", 90, [48, 2])
    assert (found["modelDesign"], found["space"]) == ("toy", "u*")
    assert found["testLossMSE"] == pytest.approx((away**2).mean(), rel=1e-5)
    for (name, mean, std, mse), column, expected in zip(found["residual_mean_std"], away.T, written.NAMES, strict=True):
        assert name == expected
        assert (mean, std, mse) == pytest.approx((column.mean(), column.std(), (column**2).mean()), rel=1e-4)
    practice, witness = (away[:60] ** 2).mean(), (away[60:] ** 2).mean()
    assert found["practiceLossMSE"] == pytest.approx(practice, rel=1e-5)
    assert found["witnessLossMSE"] == pytest.approx(witness, rel=1e-5)
    assert sorted(name for names in found["identifiability"].values() for name in names) == sorted(written.NAMES)
    assert found["bootstrap"] == "3 cells"
    out = capsys.readouterr().out
    assert f"{(away**2).mean():.5f}" in out
    assert "not identifiable" in out
    # physical units, row by row
    true, told_csv = (pd.read_csv(tmp_path / f"{kind}_physical_test.csv") for kind in ("true", "predicted"))
    np.testing.assert_allclose(true[list(written.NAMES)], truths(predicted[1], "phys_par"), rtol=1e-5)
    np.testing.assert_allclose(told_csv[list(written.NAMES)], physical, rtol=1e-5)
    assert list(true["cell"].unique()) == ["bbp1001", "bbp1011", "bbp1021"]
    assert list(true["row"][:3]) == [0, 1, 2]


def test_the_page_stands_alone(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    verb(*predicted, tmp_path)
    page = (tmp_path / "report_test.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="(?!data:)', page)
    for words in ("Practice cells against witness cells", "Identifiability", "Residuals", "Loss of each of 3 cells",
                  "Histograms of predicted u*", "soma", *written.NAMES):  # fmt: skip
        assert words in page
    assert page.count("plotly-graph-div") == 6


def test_some_rows_other_domains_and_no_silent_overwriting(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    verb(*predicted, tmp_path, "-n", "25", "--domain", "mine", "--witness", "bbp1001")
    found = yaml.safe_load((tmp_path / "sum_pred_mine.yaml").read_text())
    assert (found["numSamples"], "mineLossMSE" in found) == (25, True)
    assert len(pd.read_csv(tmp_path / "true_physical_mine.csv")) == 25
    with pytest.raises(BadInput, match="exists; give --overwrite"):
        verb(*predicted, tmp_path, "--domain", "mine")
    assert yaml.safe_load((tmp_path / "sum_pred_mine.yaml").read_text())["numSamples"] == 25
    verb(*predicted, tmp_path, "--domain", "mine", "--overwrite")
    assert yaml.safe_load((tmp_path / "sum_pred_mine.yaml").read_text())["numSamples"] == 90


def test_what_does_not_belong_together_is_refused(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    prediction, packs = predicted
    with pytest.raises(BadInput, match="--witness nobody: the cells are bbp1001"):
        verb(prediction, packs, tmp_path, "--witness", "nobody")
    (tmp_path / "other").mkdir()
    pack = written.ontra(tmp_path / "other", 0)
    pack.rename(pack.with_name(pack.name.replace("bbp1001", "bbp9991")))
    with pytest.raises(BadInput, match="predicted for other files"):
        verb(prediction, tmp_path / "other", tmp_path)
    (tmp_path / "short").mkdir()
    for cell in range(3):
        written.ontra(tmp_path / "short", cell, {"train": 20, "val": 5, "test": 8})
    with pytest.raises(BadInput, match="has 8 test rows, not a row 29"):
        verb(prediction, tmp_path / "short", tmp_path)
    strange = tmp_path / "strange.h5"
    with h5py.File(strange, "w") as file:
        file["ustar"] = np.zeros((3, 3))
    with pytest.raises(BadInput, match="no prediction of conductances"):
        verb(strange, packs, tmp_path)
    assert not list(tmp_path.glob("sum_pred*"))


def test_stimuli_as_samples_each_have_their_rows_truth(tmp_path: Path) -> None:
    pack = written.mlpack(tmp_path / "L5.mlPack1.h5")
    data = FAMILY.load({"path": str(pack), "stimuli": "samples"}, "val")
    learner = FAMILY.learner(FAMILY.check({**SETTINGS, "EPOCHS": 1}), data, Place(), 0)
    learner.train_piece()
    new = NewTraces(str(pack))
    FAMILY.export([(new, learner.predict(new))], tmp_path / "p.h5", {})
    verb(tmp_path / "p.h5", pack, tmp_path)
    found = yaml.safe_load((tmp_path / "sum_pred_test.yaml").read_text())
    with h5py.File(pack) as file, h5py.File(tmp_path / "p.h5") as told:
        away = np.repeat(np.asarray(file["test_unit_par"]), 2, axis=0) - np.asarray(told["u"])
    assert (found["space"], found["numSamples"], found["inpShape"]) == ("u", 20, [48, 2, 2])
    assert '"name":"axon, stim1"' in (tmp_path / "report_test.html").read_text()
    assert found["testLossMSE"] == pytest.approx((away.astype(float) ** 2).mean(), rel=1e-4)


# ---- pictures


def test_families_pictures_draw_recordings_and_cells(predicted: tuple[Path, Path], tmp_path: Path) -> None:
    data = FAMILY.load({"path": str(predicted[1])}, "val")
    truth = data.eval.targets()
    captions = [caption for caption, _ in plots.pictures(data, {"ustar": truth})]
    assert [c.split(":")[0].split(" ")[0] for c in captions] == [
        "Predicted",
        "Identifiability",
        "The",
        "Loss",
        "Histograms",
    ]
    sweeps, figure = plots.over_sweeps(written.NAMES, RNG.normal(size=(40, 3)))
    assert "recordings" in sweeps
    assert len(figure.data) == 3


def test_the_histogram_counts_every_row_once() -> None:
    truth = RNG.uniform(-1, 1, (500, 3))
    found = residuals(written.NAMES, truth, truth)
    _, figure = plots.against_truth(truth, truth, found, "u")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [np.nansum(trace.z) for trace in maps] == [500, 500, 500]
    # perfect predictions lie on the diagonal, and are suspiciously constant
    assert all(np.isnan(trace.z[~np.eye(30, dtype=bool)]).all() for trace in maps)
    assert sum("CONST" in note.text for note in figure.layout.annotations) == 3


@pytest.mark.parametrize(
    ("name", "place"),
    [("gIhbar.Ih.som", "soma"), ("gImbar_Im_apical", "apical"), ("gIhbar_Ih_dend", "dendrites"),
     ("gK.Tstbar.K.Tst.axn", "axon"), ("cm_all", "elsewhere")],
)  # fmt: skip
def test_compartments_by_both_ways_of_naming(name: str, place: str) -> None:
    assert plots.compartment(name) == place
