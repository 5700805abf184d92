from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.pool import Growing, Pool
from ensembles.select import RULES
from ground.errors import BadInput
from models.base import Place, Prediction
from models.cellprofiler import FAMILY, baselines, plots
from models.cellprofiler.data import CellData
from models.cellprofiler.scorers import MeanAveragePrecision
from tests.models.cellprofiler import plates

CONFIG = {"WIDTH": 4, "BLOCKS": 2, "FEATURES": 8, "EPOCHS": 2, "BATCH_SIZE": 8, "LAYERS": "pool,features", "LR": 0.05}


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"project": str(plates.stored(tmp_path_factory.mktemp("cells") / "project", wells=3))}


@pytest.fixture(scope="module")
def data(block: dict[str, Any]) -> CellData:
    return FAMILY.load(block, "val")


@pytest.fixture(scope="module")
def members(data: CellData) -> list[Prediction]:
    learners = [FAMILY.learner(CONFIG, data, Place(), seed) for seed in range(3)]
    for one in learners:
        one.train_piece()
    return [one.predict(data) for one in learners]


def unit(rng: np.random.Generator, rows: int, d: int) -> np.ndarray:
    x = rng.normal(size=(rows, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def told(rng: np.random.Generator, wells: int, d: int) -> Prediction:
    return {"profile": unit(rng, wells, d), "probabilities": rng.dirichlet(np.ones(3), wells).astype(np.float32)}


positive = st.floats(0.01, 10)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(positive, min_size=1, max_size=5), st.booleans())
def test_combining_profiles_commutes_with_reducing(seed: int, weights: list[float], other_plates: bool) -> None:
    rng = np.random.default_rng(seed)
    label, plate = rng.integers(0, 4, 14), rng.integers(0, 2, 14)
    scorer = MeanAveragePrecision(label, plate, other_plates=other_plates)
    some = [told(rng, 14, int(rng.integers(2, 9))) for _ in weights]  # members may have different numbers of features
    whole = FAMILY.combine(some, weights)
    reduced = FAMILY.combine([scorer.reduce(one) for one in some], weights)
    np.testing.assert_allclose(scorer.reduce(whole)["similarity"], reduced["similarity"], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(whole["profile"], axis=1), 1, atol=1e-5)
    expected = np.average([one["probabilities"] for one in some], axis=0, weights=weights)
    np.testing.assert_allclose(whole["probabilities"], expected, atol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(positive, min_size=2, max_size=5))
def test_combining_step_by_step_is_combining_at_once(seed: int, weights: list[float]) -> None:
    assert FAMILY.associative
    rng = np.random.default_rng(seed)
    some = [told(rng, 7, 4) for _ in weights]
    at_once, stepwise, total = FAMILY.combine(some, weights), some[0], weights[0]
    for one, weight in zip(some[1:], weights[1:], strict=True):
        stepwise = FAMILY.combine([stepwise, one], [total, weight])
        total += weight
    for name, array in at_once.items():
        np.testing.assert_allclose(stepwise[name], array, atol=2e-6)
    scorer = MeanAveragePrecision(np.arange(7) % 3, np.zeros(7, int))
    halves = [FAMILY.combine([scorer.reduce(one) for one in part], [1] * len(part)) for part in (some[:1], some[1:])]
    joined = FAMILY.combine(halves, [1, len(some) - 1])["similarity"]
    np.testing.assert_allclose(
        joined, FAMILY.combine([scorer.reduce(o) for o in some], [1] * len(some))["similarity"], atol=2e-6
    )


def test_members_of_other_wells_are_refused() -> None:
    rng = np.random.default_rng(0)
    one = told(rng, 5, 3)
    with pytest.raises(BadInput, match="number of profiles"):
        FAMILY.combine([one, {**one, "profile": unit(rng, 4, 3)}], [1, 1])
    with pytest.raises(BadInput, match="number of profiles"):
        FAMILY.combine([one, {"probabilities": one["probabilities"]}], [1, 1])
    with pytest.raises(BadInput, match="probabilities"):
        FAMILY.combine([one, {**one, "probabilities": one["probabilities"][:3]}], [1, 1])


def test_selection_scores_what_the_ensemble_gives(data: CellData, members: list[Prediction]) -> None:
    scorer = FAMILY.scorer(FAMILY.truth(data))
    reduced = [scorer.reduce(one) for one in members]
    pool = Pool(FAMILY, reduced, scorer, FAMILY.groups(data))
    for rule in RULES.values():
        weights = rule(pool, np.random.default_rng(0))
        chosen = [(one, w) for one, w in zip(members, weights, strict=True) if w]
        whole = FAMILY.combine([one for one, _ in chosen], [w for _, w in chosen])
        assert FAMILY.score(whole, FAMILY.truth(data)) == pytest.approx(pool.value(pool.combine(weights)), abs=1e-6)
    growing = Growing(pool)
    for member in (0, 1, 1, 2):
        now = growing.join(member)
    at_once = pool.combine(np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(now["similarity"], at_once["similarity"], atol=1e-6)


def test_two_that_err_differently_find_more_together() -> None:
    """Each member sees half of what tells labels apart; side by side they see it all."""
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(16), 3)
    bits = np.stack([label // 4, label % 4])
    scorer = MeanAveragePrecision(label, np.zeros(48, int))
    some = []
    for half in bits:
        x = np.eye(4)[half] + 0.1 * rng.normal(size=(48, 4))
        some.append({"profile": (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32),
                     "probabilities": np.ones((48, 2), np.float32)})  # fmt: skip
    alone = [scorer(one) for one in some]
    assert scorer(FAMILY.combine(some, [1, 1])) > max(alone) + 0.3


def test_the_metric_goes_by_the_objective(block: dict[str, Any]) -> None:
    assert FAMILY.metric.name == "map" and FAMILY.of({}).metric.name == "map"
    other = FAMILY.of({"objective": "balanced_accuracy"})
    wells = FAMILY.load(block, "val")
    label, ideal = wells.wells.target[wells.samples], np.eye(4, dtype=np.float32)
    assert FAMILY.score({"profile": ideal[label]}, FAMILY.truth(wells)) == 1.0
    assert FAMILY.score({"profile": ideal[np.roll(label, 1)]}, FAMILY.truth(wells)) < 0.8
    assert other.metric.name == "balanced_accuracy" and set(other.snapshots) == {"best", "calm"}
    data = other.load({**block, "objective": "balanced_accuracy"}, "val")
    assert len(data.samples) == len(data.wells)  # controls are classes, too
    rng = np.random.default_rng(0)
    prediction = told(rng, len(data.samples), 3) | {"probabilities": np.eye(4)[data.wells.target[data.samples]]}
    assert other.score(prediction, other.truth(data)) == 1.0
    assert np.array_equal(other.groups(data), np.arange(len(data.samples)))
    each = baselines.precisions(data, prediction)  # of which controls are no part
    assert np.array_equal(np.isnan(each), data.wells.control[data.samples])


def test_wells_of_a_label_stay_together_unless_labels_are_few(data: CellData) -> None:
    assert np.array_equal(FAMILY.groups(data), np.arange(len(data.samples)))  # three labels
    count = 24
    wells = data.wells.take(np.arange(count) % len(data.wells))
    many = replace(data, wells=replace(wells, target=np.arange(count) // 2), samples=np.arange(count))
    assert np.array_equal(FAMILY.groups(many), np.arange(count) // 2)


def test_a_part_of_the_wells_is_scored_as_in_the_whole(data: CellData) -> None:
    learner = FAMILY.learner(CONFIG, data, Place(), 0)
    learner.train_piece()
    scorer = FAMILY.scorer(FAMILY.truth(data))
    reduced = scorer.reduce(learner.predict(data))
    chosen = np.arange(0, scorer.samples, 2)
    part = FAMILY.subset(data, chosen)
    prediction = learner.predict(part)
    assert prediction["similarity"].shape == (len(chosen), scorer.samples)
    alone = FAMILY.scorer(FAMILY.truth(part))
    assert alone.samples == len(chosen)
    expected = scorer.take(chosen).score({"similarity": reduced["similarity"][chosen]})
    assert alone(prediction) == pytest.approx(expected, abs=1e-6)
    whole = FAMILY.combine([prediction, prediction], [1, 2])
    assert alone(whole) == pytest.approx(expected, abs=1e-6)


def test_wells_that_have_nothing_to_find_are_told_before_training(block: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="on another plate") as error:
        FAMILY.load({**block, "pairs": "plates"}, "val")
    assert "\n" not in str(error.value) and "balanced_accuracy" in str(error.value)


def test_unknown_labels_are_no_truth(data: CellData) -> None:
    unknown = replace(data, wells=replace(data.wells, target=np.full(len(data.wells), -1)))
    with pytest.raises(BadInput, match="no labels"):
        FAMILY.truth(unknown)


def test_predictions_are_exported_with_their_wells_and_scored_from_the_file(
    block: dict[str, Any], data: CellData, tmp_path: Path
) -> None:
    learner = FAMILY.learner(CONFIG, data, Place(), 0)
    learner.train_piece()
    test = FAMILY.load(block, "test")
    prediction = learner.predict(test)
    line = FAMILY.export([(test, prediction)], tmp_path / "p.h5", {"study": "mine"})
    assert "profile" in line and "well" in line
    with h5py.File(tmp_path / "p.h5") as file:
        assert json.loads(file.attrs["classes"]) == list(test.classes) and file.attrs["study"] == "mine"
        ids = [tuple(pair) for pair in zip(file["plate"][:].astype(str), file["well"][:].astype(str), strict=True)]
        wells = test.wells.take(test.samples)
        assert ids == list(zip(wells.plate, wells.well, strict=True))
        assert file["label"][:].astype(str).tolist() == wells.label.tolist()
        assert np.array_equal(file["told"][:], prediction["probabilities"].argmax(1))
        rows = {name: file[name][()] for name in file}
    scored = FAMILY.evaluate(learner.predict, block, None, "mine")
    assert FAMILY.evaluate(tmp_path / "p.h5", block, None, "mine") == scored
    # the order of a file's rows does not matter, a missing well does
    with h5py.File(tmp_path / "shuffled.h5", "w") as file:
        for name, array in rows.items():
            file[name] = array[::-1]
    assert FAMILY.evaluate(tmp_path / "shuffled.h5", block, None, "mine") == scored
    with h5py.File(tmp_path / "short.h5", "w") as file:
        for name, array in rows.items():
            file[name] = array[1:]
    with pytest.raises(BadInput, match=f"no prediction for the well {'/'.join(ids[0])}"):
        FAMILY.evaluate(tmp_path / "short.h5", block, None, "mine")
    with pytest.raises(BadInput, match="of its study only"):
        FAMILY.evaluate(tmp_path / "p.h5", {}, None, "mine")


def test_classes_are_the_models_whatever_the_project_calls_its_own(data: CellData, tmp_path: Path) -> None:
    learner = FAMILY.learner(CONFIG, data, Place(), 0)
    renamed = plates.project(tmp_path / "other", {"Q": "Test"})
    index = renamed / "inputs" / "metadata" / "index.csv"
    index.write_text(index.read_text().replace(",lupin,", ",zinnia,"))
    other = FAMILY.open(renamed, "test")
    assert len(other.classes) == len(data.classes) and other.classes != data.classes
    FAMILY.export([(other, learner.predict(other))], tmp_path / "p.h5", {})
    with h5py.File(tmp_path / "p.h5") as file:
        assert json.loads(file.attrs["classes"]) == list(data.classes)
        assert set(file["label"][:].astype(str)) == {"DMSO", "malva", "nerin", "zinnia"}


def test_the_test_wells_are_scored_beside_what_nobody_learned(block: dict[str, Any], data: CellData) -> None:
    test = FAMILY.load(block, "test")
    label = test.wells.target[test.samples]
    ideal = {"profile": np.eye(len(test.classes), dtype=np.float32)[label], "probabilities": np.eye(4)[label]}
    scored = FAMILY.evaluate(lambda given: ideal, block, None, "mine")
    assert [name.partition(": ")[2] for name in scored] == ["", "random networks", "mean intensities"]
    first, random, plain = scored.values()
    assert first["map"] == first["balanced_accuracy"] == 1.0 and first["wells"] == len(label) and first["labels"] == 3
    for other in (random, plain):
        assert 0 < other["map"] <= 1 and other["map_low"] <= other["map"] <= other["map_high"]
        assert "balanced_accuracy" not in other
    # brightness tells these compounds apart, so that it is no straw man
    assert plain["map"] > 0.6
    elsewhere = FAMILY.evaluate(lambda given: ideal, block, Path(block["project"]), "mine")
    assert next(iter(elsewhere.values())) == first


def test_mean_intensities_are_those_of_the_crops(data: CellData) -> None:
    found = baselines.intensities(data)
    crops = data.store.read(data.eval)
    np.testing.assert_allclose(found, crops.mean((2, 3)), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 120))
def test_baselines_see_cells_of_every_well(data: CellData, seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 12, len(data.wells))
    well_of = np.repeat(np.arange(len(data.wells)), counts)
    rng.shuffle(well_of)
    full = replace(data, eval=np.arange(len(well_of)), well_of=well_of, wells=replace(data.wells, cells=counts))
    thin = baselines.thinned(full, most)
    assert len(thin.eval) <= max(most, len(counts)) and np.array_equal(thin.well_of, well_of[thin.eval])
    got = np.bincount(thin.well_of, minlength=len(counts))
    assert np.array_equal(got, thin.wells.cells) and (got >= 1).all()
    if len(thin.eval) < len(well_of):  # another cell of each of the larger wells would have been too many
        assert np.minimum(counts, got.max() + 1).sum() > most
        assert np.array_equal(got, np.minimum(counts, got.max()))


def test_pictures_show_wells_classes_and_cells(data: CellData, members: list[Prediction]) -> None:
    found = FAMILY.pictures(data, FAMILY.combine(members, [1, 1, 1]))
    captions = [caption for caption, _ in found]
    assert len(found) == 5 and "principal components" in captions[0] and captions[1].startswith("Wells of one label")
    assert all(figure.to_json() for _, figure in found)
    plane, bars, confusion, label, grid = (figure for _, figure in found)
    assert sum(len(trace.x) for trace in plane.data) == len(data.samples)
    assert list(bars.data[0].x) == ["this ensemble", "random networks", "mean intensities"]
    assert int(np.sum(confusion.data[0].text)) == len(data.samples)
    assert set(label.data[0].x) == set(plates.COMPOUNDS) - {"DMSO"}
    assert len(grid.data) == min(plots.SHOWN_CELLS, 18) * 4 and np.asarray(grid.data[0].z).shape == (16, 32)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (3, 1), (1, 5)])
def test_principal_components_are_those_of_the_decomposition(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    places, share = plots.components(x)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = np.zeros((shape[0], 2))
    expected[:, : min(2, len(s))] = (u * s)[:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-7)
    total = (s**2).sum()
    np.testing.assert_allclose(share[: len(s)], s[:2] ** 2 / total if total > 1e-9 else 0, atol=1e-7)


def test_descriptions_count_wells(data: CellData) -> None:
    told = FAMILY.describe(data)
    assert told["wells"].startswith(f"{len(data.samples)} scored, of 3 labels on 1 plates; 6 of controls (DMSO)")
    assert "DNA, ER" in told["crops"] and "same label on any plate" in told["to be found"]
