"""Which files make which part, what is made of their voxels, what is kept, what is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellnet import xy
from models.cellnet.data import fingerprint, load, open_files, own_block, truth_arrays
from models.cellnet.events import Store
from models.cellnet.options import resolve
from models.cellnet.transforms import Transforms, parse
from tests.models.cellnet import written

SPATIAL = (32, 32, 32)
ANY = Transforms()


def indices(events: Any) -> list[int]:
    return [file.name.index for file in events.files]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Electrons of TPC 1, and beam events of TPCs 1 and 5, in two folders."""
    place = tmp_path_factory.mktemp("two")
    written.folder(place / "b_electrons", files=4, events=1)
    for tpc in (1, 5):
        written.folder(place / "a_beam", "BeamCosmic", files=3, tpc=tpc, events=2)
    return place


def test_ranges_are_inclusive_and_of_each_path(two: Path) -> None:
    paths = [str(two / "b_electrons"), str(two / "a_beam")]
    block = {"path": paths, "train": [[1, 2], [1, 1]], "val": [[3, 3], None], "test": [None, [2, 9]]}
    data = load({**block, "tpcs": [None, [5]]}, "val")
    # sorted by full path: a_beam first, though it is the second path
    assert [file.path.name for file in data.train.files] == [
        "reco_BeamCosmic_001_xy-TPC5.npz", "reco_Electron_001_xy-TPC1.npz", "reco_Electron_002_xy-TPC1.npz",
    ]  # fmt: skip
    assert indices(data.val) == [3] and indices(data.test) == [2, 3]
    assert len(load(block, "test").eval) == 8
    assert [file.folder for file in data.train.files] == [1, 0, 0]


def test_limit_keeps_so_many_files(two: Path) -> None:
    data = load({"path": str(two / "a_beam"), "train": [1, 2], "val": [3, 3], "limit": 1}, "val")
    assert len(data.train.files) == len(data.val.files) == 1


WRONG = {
    "ranges of one part": ({"train": [1, 2]}, "none for val"),
    "no such key": ({"tresh": 1}, "did you mean threshold"),
    "a file in two parts": ({"train": [1, 2], "val": [2, 3]}, "is in both train and val"),
    "nothing in the range": ({"train": [1, 2], "val": [70, 80]}, "no xy file has an index"),
    "a range that falls": ({"train": [2, 1], "val": [3, 3]}, "takes \\[first, last\\]"),
    "two ranges, one path": ({"train": [[1, 1], [2, 2]], "val": [3, 3]}, "takes \\[first, last\\]"),
    "all skipped": ({"train": [None], "val": [3, 3]}, "every path is skipped"),
    "an unknown task": ({"task": "ghosts"}, "takes .ghost. or .charge."),
    "an unknown transform": ({"transforms": {"rotate": 1}}, "unknown transform rotate"),
    "scales": ({"transforms": {"scale": [1.0, 2.0]}}, "2 factors for 1 paths"),
    "segments": ({"transforms": {"z_segments": [9, 3]}}, "upper bounds rise"),
    "tpcs": ({"tpcs": "1"}, "list of TPCs"),
    "a generator beside a path": ({"generator": "lartpc"}, "either path or generator"),
    "shares": ({"split": [0.5, 0.1, 0.1]}, "sum to 1"),
    "no number": ({"truth": "x"}, "takes a number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case: str, two: Path) -> None:
    block, words = WRONG[case]
    with pytest.raises(BadInput, match=words) as error:
        load({"path": str(two / "b_electrons"), **block}, "val")
    assert "\n" not in str(error.value)


def test_own_data_are_files_or_nothing(two: Path, tmp_path: Path) -> None:
    block = own_block(str(two / "b_electrons"), {"generator": "lartpc", "options": {}, "threshold": 0.1})
    assert block == {"threshold": 0.1, "path": str(two / "b_electrons")}
    with pytest.raises(BadInput, match="holds no xy file"):
        own_block(str(tmp_path), {})
    with pytest.raises(BadInput, match="no such file"):
        own_block(str(tmp_path / "x.npz"), {})
    with pytest.raises(BadInput, match="not set"):
        load({"path": "$NO_SUCH_VARIABLE_HERE/x"}, "val")
    with pytest.raises(BadInput, match="cannot be split"):
        load({"path": str(next((two / "b_electrons").iterdir()))}, "val")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(0.7, 0.15, 0.15), (0.4, 0.3, 0.3), (0.5, 0.5, 0.0), (0.98, 0.01, 0.01)]))
def test_shares_keep_files_of_one_index_together(two: Path, seed: int, shares: tuple[float, ...]) -> None:
    data = load({"path": [str(two / "a_beam"), str(two / "b_electrons")], "split": list(shares), "seed": seed}, "val")
    parts = [{(f.name.event_type, f.name.index) for f in part.files} for part in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == 7 and len(set.union(*parts)) == 7
    assert sum(len(part.files) for part in (data.train, data.val, data.test)) == 10
    assert all(parts[:2]) and bool(parts[2]) == bool(shares[2])


def test_events_of_several_tpcs_are_one_group(two: Path) -> None:
    data = open_files(str(two / "a_beam"))
    groups = data.eval.groups()
    assert len(groups) == 12 and len(np.unique(groups)) == 6


def test_fingerprints_follow_content_and_meaning(two: Path, tmp_path: Path) -> None:
    place = written.folder(tmp_path / "x", files=4, events=1)
    block = {"path": str(place), "split": [0.5, 0.25, 0.25]}
    first = fingerprint(block)
    assert fingerprint({**block, "cache_mb": 5}) == first
    assert fingerprint({**block, "threshold": 0.2}) != first
    file = sorted(place.iterdir())[0]
    read = xy.read(file)
    x = read.x.copy()
    x[3, 5] += 1
    xy.write(file, x, read.starts, read.y, read.truth)
    assert fingerprint(block) != first


# ---- batches


@pytest.fixture
def data(block: dict[str, Any]) -> Any:
    return load(block, "val")


def test_a_batch_is_its_files_one_after_another(data: Any) -> None:
    (batch,) = data.train.training(ANY, SPATIAL, each=3, seed=1, epoch=0)
    assert batch.events == 6 and len(set(batch.ids.tolist())) == 6
    begin = 0
    for number, file in enumerate(batch.files):
        read = xy.read(file.path)
        rows = slice(begin, begin + len(read.x))
        np.testing.assert_array_equal(batch.coords[rows, :3].numpy(), read.x[:, :3])
        np.testing.assert_array_equal(batch.coords[rows, 3].numpy(), read.events + 2 * number)
        np.testing.assert_array_equal(batch.features[rows].numpy(), read.x[:, 4:])
        np.testing.assert_array_equal(batch.y[rows].numpy(), read.y[:, 0])
        begin += len(read.x)
    assert begin == len(batch)


def test_epochs_differ_and_go_on_from_any_step(data: Any) -> None:
    def names(**asked: Any) -> list[str]:
        return [b.files[0].path.name for b in data.train.training(ANY, SPATIAL, each=1, seed=5, **asked)]

    assert names(epoch=2) == names(epoch=2)
    assert len({tuple(names(epoch=e)) for e in range(12)}) > 1
    assert names(epoch=2, start=1) == names(epoch=2)[1:]
    both = [names(epoch=3, rank=r, ranks=3) for r in range(3)]
    assert sorted(name for names_ in both for name in names_) == sorted(names(epoch=3))


def test_a_rank_without_a_file_has_an_empty_batch(data: Any) -> None:
    last = list(data.train.training(ANY, SPATIAL, each=1, seed=5, epoch=0, rank=1, ranks=2))
    assert len(last) == 2 and len(last[1]) == 0 and last[1].y.shape == (0,)
    assert data.train.steps(1, 2) == 2


def test_reading_ahead_ends_with_its_reader(data: Any) -> None:
    batches = data.train.training(ANY, SPATIAL, each=1, seed=5, epoch=0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "reader"]


def test_chosen_events_are_counted_anew(data: Any) -> None:
    part = data.eval.take(np.array([1, 2]))
    assert len(part) == 2 and part.ids.tolist() == [1, 2]
    first, second = part.evaluated(ANY, SPATIAL)
    read = xy.read(data.eval.files[0].path)
    np.testing.assert_array_equal(first.coords[:, :3].numpy(), read.x[read.events == 1, :3])
    assert first.coords[:, 3].unique().tolist() == [0] and first.ids.tolist() == [1]
    assert second.ids.tolist() == [2]
    truth = truth_arrays(data.with_eval(part))
    assert truth["id"].tolist() == [1, 2] and np.unique(truth["event"]).tolist() == [0, 1]
    again = part.take(np.array([1]))
    assert again.ids.tolist() == [2]


def test_pieces_of_a_file_are_the_file(data: Any) -> None:
    whole = list(data.eval.evaluated(ANY, SPATIAL))
    pieces = list(data.eval.evaluated(ANY, SPATIAL, most=1))
    assert len(pieces) == 2 * len(whole)
    assert torch.equal(torch.cat([b.coords[:, :3] for b in pieces]), torch.cat([b.coords[:, :3] for b in whole]))
    assert np.array_equal(np.concatenate([b.ids for b in pieces]), np.concatenate([b.ids for b in whole]))


def test_files_without_truth_are_predicted_but_not_trained_on(tmp_path: Path) -> None:
    place = written.folder(tmp_path / "real", "protoDUNE", files=3, truth=False)
    data = load({"path": str(place), "train": [1, 1], "val": [2, 3]}, "val")
    assert next(data.eval.evaluated(ANY, SPATIAL)).y is None
    with pytest.raises(BadInput, match="holds no truth"):
        list(data.train.training(ANY, SPATIAL, each=1, seed=0, epoch=0))
    with pytest.raises(BadInput, match="holds no truth"):
        truth_arrays(data)


def test_voxels_outside_the_box_name_their_file(data: Any) -> None:
    with pytest.raises(BadInput, match=r"reco_Electron.*beyond SPATIAL \(8x32x32\)"):
        list(data.eval.evaluated(ANY, (8, 32, 32)))


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    place = written.folder(tmp_path / "x", files=3)
    data = load({"path": str(place), "split": [0.4, 0.3, 0.3], "cache_mb": 0}, "val")
    written.write(data.eval.files[0].path, seed=77, events=3)
    with pytest.raises(BadInput, match="has changed"):
        list(data.eval.evaluated(ANY, SPATIAL))


@pytest.mark.slow
def test_generated_events_are_data(home: Path) -> None:
    options = {"files": 3, "events": 1, "types": "Mu"}
    block = {"generator": "lartpc", "options": options, "split": [0.4, 0.3, 0.3]}
    data = load(block, "test")
    assert [len(part.files) for part in (data.train, data.val, data.test)] == [1, 1, 1]
    assert home in data.eval.files[0].path.parents and "generated LArTPC events" in data.source
    y = truth_arrays(data)["y"]
    assert 0 < (y >= 0.17).mean() < 0.6
    assert fingerprint(block) == fingerprint(dict(block)) != fingerprint({**block, "options": {**options, "seed": 1}})


# ---- transforms


def test_limits_hold_in_training_only(data: Any) -> None:
    limited = parse({"coord_lim": [[4, 12], None, [0, 20]]}, 1)
    (batch,) = data.train.training(limited, SPATIAL, each=3, seed=0, epoch=0)
    x, z = batch.coords[:, 0], batch.coords[:, 2]
    assert x.min() >= 4 and x.max() < 12 and z.max() < 20
    assert len(batch.features) == len(batch.y) == len(batch)
    assert next(data.eval.evaluated(limited, SPATIAL)).coords[:, 0].max() >= 12


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
    st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
)
def test_segments_are_one_hot(z: list[int], bounds: list[int]) -> None:
    bounds = sorted(bounds)
    coords = np.array([[0, 0, value] for value in z])
    found = parse({"z_segments": bounds}, 1).charges(coords, np.ones((len(z), 3)), np.random.default_rng(0))
    assert found.shape == (len(z), 3 + len(bounds))
    for row, value in zip(found[:, 3:], z, strict=True):
        below = [value < bound for bound in bounds]
        expected = [float(b and not any(below[:n])) for n, b in enumerate(below)]
        assert row.tolist() == expected


def test_noise_is_new_each_epoch_and_the_same_in_evaluation(data: Any) -> None:
    noisy = parse({"noise": {"mean": 2.0, "sd": 1.0}}, 1)

    def first(epoch: int) -> Any:
        return {b.files[0].path: b.features for b in data.train.training(noisy, SPATIAL, each=1, seed=0, epoch=epoch)}

    one, again, other = first(1), first(1), first(2)
    for path, features in one.items():
        assert torch.equal(features, again[path]) and not torch.equal(features, other[path])
        shift = features - torch.from_numpy(xy.read(path).x[:, 4:])
        assert float(shift.mean()) == pytest.approx(2.0, abs=0.2) and float(shift.std()) == pytest.approx(1.0, abs=0.2)
    pair = [next(data.eval.evaluated(noisy, SPATIAL)).features for _ in range(2)]
    assert torch.equal(*pair)


def test_rounding_and_the_truths_scale(two: Path) -> None:
    paths = [str(two / "b_electrons"), str(two / "a_beam")]
    transforms = {"round": -2, "scale": [1.0, 3.0]}
    block = {
        "path": paths,
        "train": [[1, 2], None],
        "val": [[3, 3], [1, 1]],
        "tpcs": [None, [1]],
        "transforms": transforms,
    }
    data = load(block, "val")
    for batch in data.eval.evaluated(data.options.transforms, SPATIAL):
        read = xy.read(batch.files[0].path)
        factor = 3.0 if batch.files[0].name.event_type == "BeamCosmic" else 1.0
        np.testing.assert_allclose(batch.y.numpy(), factor * read.y[:, 0], rtol=1e-6)
        np.testing.assert_array_equal(batch.features.numpy(), np.round(read.x[:, 4:], -2))
    batches = data.eval.evaluated(data.options.transforms, SPATIAL)
    np.testing.assert_array_equal(truth_arrays(data)["y"], np.concatenate([batch.y.numpy() for batch in batches]))


def test_transforms_come_back_from_json() -> None:
    given = {
        "coord_lim": [[0, 5], None],
        "z_segments": [3, 9],
        "noise": {"mean": 0, "sd": 2},
        "round": 1,
        "scale": [2, 3],
    }
    once = parse(given, 2)
    assert parse(once.to_json(), 2) == once
    assert resolve({"path": "x"}).transforms == Transforms() == parse(Transforms().to_json(), 1)


# ---- what is kept


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), max_size=40), st.integers(0, 80))
def test_the_store_stays_within_its_limit_and_forgets_what_was_not_used(asked: Any, limit: int) -> None:
    store, sizes, made = Store(limit), {}, []
    for key, size in asked:
        size = sizes.setdefault(key, size)
        assert store.get(key, lambda key=key: made.append(key) or key, lambda _, size=size: size) == key
        assert store.held <= limit
        before = len(made)
        store.get(key, lambda key=key: made.append(key) or key, lambda _, size=size: size)
        assert (len(made) == before) == (size <= limit)


def test_a_file_is_read_once_while_there_is_room(block: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    plain = xy.read
    monkeypatch.setattr(xy, "read", lambda path, **kw: calls.append(path) or plain(path, **kw))
    data = load(block, "val")
    for epoch in range(3):
        list(data.train.training(ANY, SPATIAL, each=1, seed=0, epoch=epoch))
    assert len(calls) == 3
    bare = load({**block, "cache_mb": 0}, "val")
    for epoch in range(2):
        list(bare.train.training(ANY, SPATIAL, each=1, seed=0, epoch=epoch))
    assert len(calls) == 9
