from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from copairs.map import average_precision, mean_average_precision
from pycytominer import normalize

from models.cellprofiler import evaluate
from models.cellprofiler.__main__ import main
from models.cellprofiler.aggregate import process
from models.cellprofiler.enrichment import enrichment, interpolated, matches, ranked, similarities
from models.cellprofiler.evaluated import ACTIVITY, CONTROLS, LABELS, MECHANISMS, Asked, evaluated
from models.cellprofiler.tables import features_of, read_table
from tests.models.cellprofiler.test_enrichment import slow_odds


def table(
    seed: int = 0, plates: int = 2, batch: float = 0.0, features: str = "Cells_F", noise: float = 1.0
) -> pd.DataFrame:
    """Wells: eight compounds of four mechanisms, two wells of each a plate, and six of DMSO."""
    rng = np.random.default_rng(seed)
    kinds, rows = np.random.default_rng(77).normal(size=(8, 6)), []
    for plate in range(plates):
        shift = batch * rng.normal(size=6)
        for well in range(22):
            label = "DMSO" if well >= 16 else f"C{well // 2}"
            x = (0 if label == "DMSO" else 3) * kinds[well // 2 % 8] + noise * rng.normal(size=6) + shift
            mechanism = None if label == "DMSO" else f"m{well // 4}"
            rows.append([f"P{plate}", f"A{well + 1:02d}", label, mechanism, *x])
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", "Metadata_moa"]
    return pd.DataFrame(rows, columns=[*names, *(f"{features}{k}" for k in range(6))])


def written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return path


def run(*words: Any) -> int:
    return main(["evaluate", *map(str, words)])


FAST = ["--null", "200"]


def wells(frame: pd.DataFrame, control: str | None = "DMSO") -> tuple[np.ndarray, pd.DataFrame]:
    found, _ = evaluate.wells_of(frame, "Compound", control, "moa")
    names = {"_label": "label", "_plate": "plate", "_control": "control", "_mechanism": "mechanism"}
    return found[features_of(found)].to_numpy(float), found[list(names)].rename(columns=names)


@pytest.mark.parametrize("other_plates", [False, True])
def test_precision_and_p_values_are_those_of_copairs(other_plates: bool, tmp_path: Path) -> None:
    values, about = wells(table(noise=4.0))
    found = evaluated("t", values, about, Asked(other_plates=other_plates, null=500, seed=3))
    treated = ~about["control"].to_numpy()
    diff = ["plate"] if other_plates else []
    each = average_precision(
        about[treated][["label", "plate"]].reset_index(drop=True), values[treated], ["label"], diff, [], ["label"],
        progress_bar=False,
    )  # fmt: skip
    expected = mean_average_precision(each, ["label"], 500, 0.05, 3, progress_bar=False, cache_dir=tmp_path)
    scores = found.scores[LABELS]
    assert scores["mAP"] == pytest.approx(each["average_precision"].mean())
    assert scores["labels found, %"] == pytest.approx(100 * expected["below_corrected_p"].mean())
    assert scores["mAP, from"] < scores["mAP"] < scores["mAP, to"]
    classes = found.classes.set_index("label")
    for row in expected.itertuples():
        assert classes.loc[row.label, "mAP"] == pytest.approx(row.mean_average_precision)
        assert classes.loc[row.label, "p value"] == pytest.approx(row.p_value)
    assert classes["wells"].tolist() == [4] * 8


def test_labels_are_told_from_controls() -> None:
    values, about = wells(table())
    found = evaluated("t", values, about, Asked(null=500))
    control = about["control"].to_numpy()
    precision = []
    for label in sorted(set(about["label"][~control])):
        own = about["label"].to_numpy() == label
        s = similarities(values)
        for i in np.flatnonzero(own):
            others = [j for j in range(len(s)) if j != i and (own[j] or control[j])]
            order = sorted(others, key=lambda j: -s[i, j])
            ranks = [rank for rank, j in enumerate(order, 1) if own[j]]
            precision.append(np.mean([(k + 1) / rank for k, rank in enumerate(ranks)]))
    assert found.scores[ACTIVITY]["mAP"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert found.scores[ACTIVITY]["controls"] == 12 and found.scores[ACTIVITY]["labels active, %"] == 100
    # nothing but noise is not active
    noise = evaluated("n", np.random.default_rng(0).normal(size=values.shape), about, Asked(null=500))
    assert noise.scores[ACTIVITY]["labels active, %"] == 0 and noise.scores[LABELS]["labels found, %"] == 0


def test_mechanisms_are_of_labels() -> None:
    frame = table()
    values, about = wells(frame)
    found = evaluated("t", values, about, Asked()).scores[MECHANISMS]
    assert found["labels"] == found["with a match"] == 8
    medians = frame[frame["Metadata_Compound"] != "DMSO"].groupby("Metadata_Compound")[features_of(frame)].median()
    s, same = similarities(medians.to_numpy()), np.arange(8) // 2
    ranks = [sorted(range(8), key=lambda j: -s[i, j]).index(i ^ 1) for i in range(8)]
    assert np.array_equal(same[np.arange(8) ^ 1], same)
    assert found["mAP"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    none = evaluated("t", values, about.assign(mechanism=[f"m{k}" for k in about["label"]]), Asked())
    assert MECHANISMS not in none.scores and "no two of 8 labels" in none.notes[0]
    parts = about["mechanism"].map({"m0": "a|b", "m1": "b|c", "m2": "d", "m3": "e"})
    assert (
        evaluated("t", values, about.assign(mechanism=parts), Asked()).scores[MECHANISMS]["odds of queries"]
        != (
            evaluated("t", values, about.assign(mechanism=parts), Asked(split=None)).scores[MECHANISMS][
                "odds of queries"
            ]
        )
    )


def test_the_batch_effect_is_shown_by_controls() -> None:
    quantiles = {"quantiles": (0.8,)}
    plain = evaluated("t", *wells(table()), Asked(**quantiles)).scores[CONTROLS]
    batch = evaluated("t", *wells(table(batch=8.0)), Asked(**quantiles)).scores[CONTROLS]
    assert plain["wells"] == 12 and plain["plates"] == 2
    assert batch["odds at 0.8"] > 20 and plain["odds at 0.8"] < 5
    assert CONTROLS not in evaluated("t", *wells(table(plates=1)), Asked()).scores


def test_two_tables_are_compared_on_the_wells_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = table(noise=0.5), table(seed=1, features="deep_", noise=6.0)
    poor["Metadata_Well"] = [name.replace("A0", "a") for name in poor["Metadata_Well"]]
    poor = poor[poor["Metadata_Well"] != "A16"].sample(frac=1, random_state=0)
    one, other = written(good, tmp_path / "cp.csv"), written(poor, tmp_path / "deep.parquet")
    out = tmp_path / "out"
    words = [one, other, "--label", "Compound", "--control", "DMSO", "--moa", "moa", *FAST, "-o", out]
    assert run(*words) == 0
    told = capsys.readouterr()
    assert "42 rows in common (44 of cp, 42 of deep)" in told.err
    scores = pd.read_csv(out / "scores.csv").set_index(["section", "score"])
    assert list(scores.columns) == ["cp", "deep"] and scores.loc[(LABELS, "wells")].tolist() == [30, 30]
    assert scores.loc[(LABELS, "mAP"), "cp"] > scores.loc[(LABELS, "mAP"), "deep"] + 0.3
    # as if each were evaluated by itself on those wells
    kept = good[good["Metadata_Well"] != "A16"]
    alone = evaluated("cp", *wells(kept), Asked(null=200)).scores
    for section, found in alone.items():
        for score, value in found.items():
            np.testing.assert_allclose(scores.loc[(section, score), "cp"], value, rtol=1e-6)
    classes = pd.read_csv(out / "classes.csv")
    assert set(classes["table"]) == {"cp", "deep"} and len(classes) == 16
    about = json.loads((out / "evaluation.json").read_text())
    assert (
        about["rows"] == 42
        and about["features"] == {"cp": 6, "deep": 6}
        and about["scores"]["cp"][LABELS]["wells"] == 30
    )
    page = (out / "evaluation.html").read_text()
    assert "Labels: mean average precision in both tables" in page and "plotly" in page and "http-equiv" not in page
    assert run(*words) == 2 and "--overwrite" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


def test_tables_that_cannot_be_compared_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = table()
    one = written(frame, tmp_path / "a.csv")
    for other, said in (
        (frame.replace({"P0": "Q0", "P1": "Q1"}), "no well in common"),
        (pd.concat([frame, frame[:1]]), "is there twice"),
        (frame.assign(Metadata_Compound=["X", *frame["Metadata_Compound"][1:]]), "is C0 in a, X in b"),
    ):
        assert run(one, written(other, tmp_path / "b.csv"), "--label", "Compound", *FAST) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in last and last.count("python -m models.cellprofiler") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "Drug"], "no column Drug; its metadata are Metadata_Plate"),
        (["--label", "Compound", "--control", "water"], "no row has Metadata_Compound water"),
        (["--label", "Compound", "--moa", "target"], "no column target"),
        (["--label", "Compound", "--features", "deep_*"], "no features"),
        (["--label", "Compound", "--quantile", "99"], "between 0 and 1"),
        (["--label", "Compound", "--k", "0"], "at least 1"),
        (["--label", "Compound", "--null", "5"], "at least 100"),
        (["--label", "Well"], "nothing can be scored"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(table(plates=1), tmp_path / "t.csv")
    assert run(path, *words) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_is_missing_is_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(plates=3)
    frame.loc[:9, "Cells_F0"] = np.nan  # too many: the feature goes
    frame.loc[20, "Cells_F1"] = np.inf  # few: the well goes
    frame.loc[3, "Metadata_Compound"] = None
    frame.loc[30, [f"Cells_F{k}" for k in range(6)]] = np.nan
    path = written(frame, tmp_path / "t.parquet")
    assert run(path, "--label", "Compound", "--control", "DMSO", *FAST, "-o", tmp_path) == 0
    told = capsys.readouterr().err
    assert "1 rows without any finite feature" in told and "1 of 6 features left out" in told
    assert "1 rows left out: a feature" in told and "1 rows without Metadata_Compound" in told
    assert json.loads((tmp_path / "evaluation.json").read_text())["rows"] == 63


def test_a_table_of_treatments_is_scored_by_mechanisms_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table().groupby("Metadata_Compound").first().reset_index().drop(columns=["Metadata_Plate", "Metadata_Well"])
    path = written(frame, tmp_path / "t.csv")
    assert run(path, path, "--label", "Compound", "--control", "DMSO", "--moa", "moa", *FAST, "-o", tmp_path) == 0
    assert "no label has two wells" in capsys.readouterr().err
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert [set(scores) for scores in about["scores"].values()] == [{MECHANISMS}] * 2
    assert len(about["scores"]) == 2  # two tables of one name keep names apart


def test_single_cells_are_to_be_aggregated_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(table(), tmp_path / "t.parquet")
    monkeypatch.setattr(evaluate, "MOST", 43)
    assert run(path, "--label", "Compound", *FAST) == 2
    assert "44 rows" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "MOST", 44)
    assert run(path, "--label", "Compound", *FAST) == 0


def test_titles_tell_tables_apart() -> None:
    assert evaluate.titles([Path("a/x.csv.gz"), Path("b/y.parquet")]) == ["x", "y"]
    assert evaluate.titles([Path("/q/a/x.csv"), Path("/q/b/x.parquet")]) == ["a/x", "b/x"]
    assert evaluate.titles([Path("/q/a/x.csv"), Path("/q/a/x.parquet")]) == ["1: a/x", "2: a/x"]


# ---- the real plate


@pytest.fixture(scope="module")
def lincs(shared: Path) -> Path:
    name = "SQ00015054_normalized_feature_select.csv.gz"
    return next(path for path in (shared / "data/cellpainting" / name, shared / "cellpainting" / name) if path.exists())


def test_the_lincs_plate_as_published(lincs: Path) -> None:
    """Interpolated mAP .319, .317 as the published loop has it: wells with a mechanism, equal text, Pearson."""
    frame = read_table(lincs)
    known = frame[frame["Metadata_moa"].notna()]
    names = features_of(frame)
    assert frame.shape == (384, 480) and len(known) == 342 and len(names) == 454
    similarity = similarities(known[names].to_numpy(), "pearson")
    match = matches(known["Metadata_moa"].tolist())
    hits = ranked(similarity, match)
    assert np.nanmean(interpolated(hits)) == pytest.approx(0.3193, abs=5e-5)
    assert np.nanmean(interpolated(hits, published=True)) == pytest.approx(0.3170, abs=5e-5)
    odds, p, table = slow_odds(similarity, match, 0.995)
    found = enrichment(similarity, match, 0.995)
    assert found["odds"] == pytest.approx(odds) and found["p_value"] == p
    assert [found[name] for name in ("v11", "v12", "v21", "v22")] == table


def test_the_lincs_plate_by_copairs(lincs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [lincs, "--label", "broad_sample", "--control", "DMSO", "--moa", "moa", "--null", "1000", "-o", tmp_path]
    assert run(*words) == 0
    scores = json.loads((tmp_path / "evaluation.json").read_text())["scores"][lincs.name.removesuffix(".csv.gz")]
    frame = read_table(lincs)
    names = features_of(frame)
    treated = frame[frame["Metadata_broad_sample"] != "DMSO"].reset_index(drop=True)
    label = ["Metadata_broad_sample"]
    each = average_precision(treated[label], treated[names].to_numpy(), label, [], [], label, progress_bar=False)
    table = mean_average_precision(each, label, 1000, 0.05, 0, progress_bar=False, cache_dir=tmp_path / "cache")
    assert scores[LABELS]["mAP"] == pytest.approx(each["average_precision"].mean(), abs=1e-7)
    assert scores[LABELS]["normalized mAP"] == pytest.approx(each["normalized_average_precision"].mean(), abs=1e-7)
    assert scores[LABELS]["labels found, %"] == pytest.approx(100 * table["below_corrected_p"].mean())
    classes = pd.read_csv(tmp_path / "classes.csv").set_index("label")
    expected = table.set_index("Metadata_broad_sample")["mean_average_precision"]
    np.testing.assert_allclose(classes["mAP"], expected.loc[classes.index], atol=1e-6)
    # negatives are the control wells alone
    reference = frame.assign(Metadata_reference=np.where(frame[label[0]] == "DMSO", np.arange(len(frame)), -1))
    by = [*label, "Metadata_reference"]
    active = average_precision(reference[by], frame[names].to_numpy(), by, [], [], by, progress_bar=False)
    active = active[active[label[0]] != "DMSO"]["average_precision"].mean()
    assert scores[ACTIVITY]["mAP"] == pytest.approx(active, abs=1e-7)
    assert scores[MECHANISMS]["labels"] == 55
    assert "wells of one label against controls" in capsys.readouterr().out


def test_the_lincs_plate_is_sphered_as_by_pycytominer(lincs: Path) -> None:
    frame = read_table(lincs)
    names = features_of(frame)
    meta = [name for name in frame if name.startswith("Metadata")]
    expected = normalize(
        frame[[*meta, *names]], features=names, meta_features=meta, samples="Metadata_broad_sample == 'DMSO'",
        method="spherize", spherize_method="ZCA-cor", spherize_epsilon=1e-6,
    )  # fmt: skip
    found, kept = process(frame, names, "broad_sample", "DMSO", spherize=True)
    assert kept == names
    np.testing.assert_allclose(found[names], expected[names], rtol=1e-6, atol=1e-9)
    robust, kept = process(frame, names, "broad_sample", "DMSO", normalize="mad_robustize")
    plain = normalize(frame[[*meta, *names]], features=names, meta_features=meta, method="mad_robustize",
                      samples="Metadata_broad_sample == 'DMSO'")  # fmt: skip
    np.testing.assert_allclose(robust[kept], plain[kept], rtol=1e-9)
