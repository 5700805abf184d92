from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellspike import FAMILY, data
from models.cellspike.feeder import Feeder, sweep
from models.cellspike.options import resolve
from models.cellspike.traces import arranged, prepared
from tests.models.cellspike import written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Packs of three cells, the last a witness by the training meta."""
    for cell in range(3):
        written.ontra(tmp_path, cell)
    written.training_meta(tmp_path, ["bbp1021"])
    return tmp_path


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({}, "must name either path or generator"),
        ({"path": "x", "generator": "neurons"}, "must name either path or generator"),
        ({"path": "x", "probs": [0]}, "unknown data key probs; did you mean probes"),
        ({"path": "x", "stimuli": "serial"}, "data key stimuli is 'serial'"),
        ({"path": "x", "probes": [1.5]}, "data key probes"),
        ({"path": "x", "limit_mb": -1}, "data key limit_mb"),
        ({"path": "x", "options": {"types": 2}}, "belongs to a generator"),
    ],
)
def test_bad_blocks_are_refused(block: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve(block)


def test_witnesses_are_apart(folder: Path) -> None:
    found = data.load({"path": str(folder)}, "val")
    counts = [len(rows) for rows in (found.train, found.val, found.test, found.witness)]
    assert counts == [128, 24, 20, 10]
    assert found.cells == ("bbp1001", "bbp1011", "bbp1021")
    assert set(found.train.ids()["cell"]) == set(found.val.ids()["cell"]) == {0, 1}
    assert set(found.witness.ids()["cell"]) == {2}
    assert found.eval is found.val and data.load({"path": str(folder)}, "test").eval.ids()["split"].tolist() == [2] * 20
    mine = data.load({"path": str(folder), "witness": ["bbp1001"]}, "val")
    assert set(mine.witness.ids()["cell"]) == {0} and len(mine.train) == 128
    with pytest.raises(BadInput, match="no file is of a witness cell"):
        data.load({"path": str(folder), "witness": ["bbp9"]}, "val")


def test_groups_are_cells_or_rows(folder: Path, tmp_path: Path) -> None:
    many = data.load({"path": str(folder)}, "val")
    assert len(np.unique(FAMILY.groups(many))) == 2
    one = data.load({"path": str(folder / "bbp1001*.h5")}, "val")
    assert len(np.unique(FAMILY.groups(one))) == 12
    pack = written.mlpack(tmp_path / "x.mlPack1.h5")
    groups = FAMILY.groups(data.load({"path": str(pack), "stimuli": "samples"}, "val"))
    assert np.array_equal(groups, np.repeat(np.arange(12), 2))  # a row's samples stay together


def test_files_by_list_glob_and_folder_are_the_same(folder: Path) -> None:
    (folder / "some.txt").write_text("bbp10*.data.h5  # all\n")
    blocks: list[Any] = [str(folder), str(folder / "*.h5"), str(folder / "some.txt")]
    blocks.append([str(path) for path in folder.glob("*.h5")])
    assert len({data.fingerprint({"path": path}) for path in blocks[:3]}) == 1
    assert {len(data.load({"path": path}, "val").train) for path in blocks} == {128}
    with pytest.raises(BadInput, match="matches no file"):
        FAMILY.own_data(str(folder / "nothing*.h5"), {})


def test_targets_are_what_is_asked_for(folder: Path) -> None:
    starred, plain = (data.load({"path": str(folder), "target": t}, "val") for t in ("auto", "u"))
    assert starred.reading.starred and not plain.reading.starred
    segment = starred.val.segments[1]
    u, star = segment.pack.unit("val"), segment.pack.star("val")
    assert np.array_equal(plain.eval.targets()[12:], u)  # type: ignore[index]
    assert np.array_equal(starred.eval.targets()[12:], star)  # type: ignore[index]
    # one meaning for all cells, by the direct formula
    np.testing.assert_allclose(starred.units.physical(star), segment.pack.physical("val"), rtol=1e-5)  # type: ignore[union-attr, arg-type]
    assert plain.units is None  # u means something else in each
    with pytest.raises(BadInput, match=r"has no u\*"):
        data.load({"path": str(written.mlpack(folder / "a.mlPack1.h5")), "target": "ustar"}, "val")


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    path = written.mlpack(folder / "b.mlPack1.h5", stims=1)
    with pytest.raises(BadInput, match=r"ms, bbp1001|bins of 0.125|parameters are not those"):
        data.load({"path": str(folder)}, "val")
    with pytest.raises(BadInput, match="has no probe 'dend'; there are soma, axon"):
        data.load({"path": str(path), "probes": ["dend"]}, "val")
    with pytest.raises(BadInput, match="names one twice"):
        data.load({"path": str(path), "probes": ["soma", 0]}, "val")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_arranging_loses_nothing(n: int, bins: int, probes: int, stims: int, seed: int) -> None:
    raw = np.random.default_rng(seed).normal(size=(n, bins, probes, stims)).astype(np.float32)
    joined, apart, towers = (arranged(raw, how) for how in ("append", "samples", "towers"))
    for row in range(n):
        for s in range(stims):
            wanted = raw[row, :, :, s]
            assert np.array_equal(joined[row, s * bins : (s + 1) * bins], wanted)
            assert np.array_equal(apart[row * stims + s], wanted)
            assert np.array_equal(towers[row, :, :, s] if stims > 1 else towers[row], wanted)


@pytest.mark.parametrize("normalisation", ["sample", "probe"])
def test_normalisation_is_by_stimulus(normalisation: str) -> None:
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(3, 40, 2, 2)) * [1.0, 9.0] + [5.0, -2.0]).astype(np.float16)
    raw[1, :, 0] = 3.0  # constant: shifted only
    joined = prepared(torch.from_numpy(arranged(raw, "append")), normalisation, 2).numpy()
    towers = prepared(torch.from_numpy(raw), normalisation).numpy()
    np.testing.assert_allclose(joined, arranged(towers, "append"), atol=1e-4)
    x = raw.astype(np.float64)
    axis = (1, 2) if normalisation == "sample" else 1
    deviation = x.std(axis, keepdims=True)
    np.testing.assert_allclose(
        towers, (x - x.mean(axis, keepdims=True)) / np.where(deviation > 0, deviation, 1), atol=2e-3
    )


@pytest.mark.parametrize("stimuli", ["append", "samples", "towers"])
def test_streaming_gives_every_sample_once_and_goes_on_anywhere(tmp_path: Path, stimuli: str) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5", {"train": 203, "valid": 4, "test": 3})
    found = data.load({"path": str(path), "stimuli": stimuli}, "val")
    feeder = Feeder(found.train, 10, 5, limit=40_000)
    assert not feeder.in_memory and len(feeder.windows(0)) == 1 and len(feeder.windows(0)[0]) > 8
    whole = list(feeder.epoch(0))
    held = found.train.held()
    seen = np.concatenate([batch.where for batch in whole])
    assert len(whole) == feeder.steps == len(found.train) // 10 and len(set(seen)) == len(seen)
    for batch in whole:
        for mine, all_of_them in zip((batch.traces, batch.targets), (held[0], held[2]), strict=True):
            assert torch.equal(mine, all_of_them[torch.from_numpy(batch.where)])
    cut = list(feeder.epoch(0, 7))
    assert [b.where.tolist() for b in cut] == [b.where.tolist() for b in whole[7:]]
    other = np.concatenate([batch.where for batch in feeder.epoch(1)])
    assert not np.array_equal(seen, other)


def test_windows_are_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.cellspike import feeder as module

    monkeypatch.setattr(module, "_BLOCKS", 2)
    for cell in range(2):
        written.ontra(tmp_path, cell, {"train": 100, "val": 4, "test": 3})
    feeder = Feeder(data.load({"path": str(tmp_path)}, "val").train, 30, 5, limit=1000)
    assert len(feeder.windows(0)) == 7  # of two blocks of 16 rows, over both files
    whole = list(feeder.epoch(0))
    assert [len(b.where) for b in whole] == [30] * 6
    assert len(set(np.concatenate([b.where for b in whole]))) == 180
    assert [b.where.tolist() for b in feeder.epoch(0, 4)] == [b.where.tolist() for b in whole[4:]]


def test_ranks_hold_contiguous_shards_of_each_file(folder: Path) -> None:
    train = data.load({"path": str(folder)}, "val").train
    shards = [train.shard(rank, 3) for rank in range(3)]
    rows = [{(int(f), int(r)) for f, r in zip(s.ids()["file"], s.ids()["row"], strict=True)} for s in shards]
    assert [len(r) for r in rows] == [42] * 3 and not rows[0] & rows[1] and not rows[1] & rows[2]
    assert shards[1].ids()["row"].tolist() == [*range(21, 42)] * 2
    mine, whole = shards[1].held(), train.held()
    at = torch.tensor([*range(21, 42), *range(64 + 21, 64 + 42)])
    assert torch.equal(mine[0], whole[0][at]) and torch.equal(mine[2], whole[2][at])
    assert [Feeder(train, 10, 0, rank, 3).steps for rank in range(3)] == [4] * 3


def test_samples_of_an_epoch_are_shared_by_the_cells(folder: Path) -> None:
    found = data.load({"path": str(folder), "samples_per_epoch": 61}, "val")
    assert np.bincount(found.train.ids()["cell"]).tolist() == [30, 30]
    assert len(found.val) == 24  # never cut
    with pytest.raises(BadInput, match="samples_per_epoch: 1 samples are none for each of 2 cells"):
        data.load({"path": str(folder), "samples_per_epoch": 1}, "val")


def test_features_stand_beside_the_traces(tmp_path: Path) -> None:
    path = written.mlpack(tmp_path / "a.mlPack1.h5", features=True)
    found = data.load({"path": str(path), "features": "efel", "probes": [1]}, "val")
    assert found.features == 6  # 3 of each stimulus
    with h5py.File(path) as file:
        stored = file["train_efel_features"][:, 1].reshape(64, 6)
    assert torch.equal(found.train.held()[1].nan_to_num(), torch.from_numpy(stored).nan_to_num())
    mean, deviation = found.train.extras_moments()
    np.testing.assert_allclose(mean, np.nanmean(stored, 0), rtol=1e-5)
    np.testing.assert_allclose(deviation, np.nanstd(stored, 0), rtol=1e-5)
    with pytest.raises(BadInput, match="has no stim features"):
        data.load({"path": str(path), "features": "both"}, "val")


def test_traces_that_are_no_numbers_are_named(folder: Path) -> None:
    path = next(folder.glob("bbp1011*.h5"))
    with h5py.File(path, "r+") as file:
        file["train_frames"][17, 3, 1] = np.inf
    found = data.load({"path": str(folder)}, "val")
    with pytest.raises(BadInput, match=r"bbp1011.*train_frames row 17 is not finite"):
        found.train.held()


def test_any_samples_are_read_in_order(folder: Path) -> None:
    found = data.load({"path": str(folder)}, "val")
    whole = found.val.held()[0]
    for chosen in (np.array([0, 5, 11, 12, 23]), np.arange(24), np.array([13])):
        part = data.load({"path": str(folder)}, "val").subset(chosen).eval
        got = torch.cat([batch.traces for batch in part.batches(4)])
        assert torch.equal(got, whole[torch.from_numpy(chosen)])
        assert part.ids()["row"].tolist() == (chosen % 12).tolist()
        assert np.array_equal(part.targets(), found.val.targets()[chosen])  # type: ignore[index]
        assert torch.equal(found.subset(chosen).eval.held()[0], got)


def test_the_fingerprint_sees_content_and_meaning(folder: Path) -> None:
    block = {"path": str(folder)}
    before = data.fingerprint(block)
    assert data.fingerprint({**block, "limit_mb": 3}) == before
    assert data.fingerprint({**block, "stimuli": "towers"}) != before
    with h5py.File(next(folder.glob("bbp1011*.h5")), "r+") as file:
        file["val_frames"][0, 0, 0] += 0.01
    assert data.fingerprint(block) != before


def test_sweep_reads_an_epoch(folder: Path) -> None:
    found = data.load({"path": str(folder)}, "val")
    assert sweep(found.train, 16) == (128, found.train.bytes())
    assert json.loads(json.dumps(found.about()))["shape"] == [written.BINS, 2, 1, 0]
