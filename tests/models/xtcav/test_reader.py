"""Images by file and row, in any order and from any kind of file; what is kept; what goes wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from ground.ahead import ahead
from ground.errors import BadInput
from models.xtcav.index import scan
from models.xtcav.options import Options
from models.xtcav.preprocess import Chain
from models.xtcav.reader import ImageReader, _Direct, _Library
from models.xtcav.store import ImageStore
from tests.models.xtcav.written import SHAPE, image, numbers, write

KINDS = {
    "contiguous": {},
    "row chunks": {"chunks": (1, *SHAPE)},
    "chunks of rows": {"chunks": (4, *SHAPE)},
    "tiles": {"chunks": (4, 3, 3)},
    "compressed": {"chunks": (4, *SHAPE), "compression": "lzf"},
    "never written": {"chunks": (1, *SHAPE)},
    "big endian": {"dtype": ">i2"},
}


def reader_of(paths: list[Path]) -> ImageReader:
    return ImageReader(paths, "x", SHAPE, np.dtype(np.int16))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_in_the_order_asked_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{n}.h5" for n in range(2)]
    for n, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            images = np.stack([image(50 * n + i) for i in range(30)])
            dataset = file.create_dataset("x", (30, *SHAPE), **{"dtype": "i2", **KINDS[kind]})
            dataset[: 20 if kind == "never written" else 30] = images[: 20 if kind == "never written" else 30]
    reader = reader_of(paths)
    rng = np.random.default_rng(0)
    file, row = rng.integers(0, 2, 40), rng.integers(0, 20, 40)
    assert numbers(reader.read(file, row)).tolist() == (50 * file + row).tolist()
    monkeypatch.setattr(_Direct, "portion", 3 * 60)
    monkeypatch.setattr("models.xtcav.reader._UNPACKED", 3 * 60)
    reader.close()
    found, ends = [], set()
    for which, images in reader.portions(file, row):
        assert numbers(images).tolist() == (50 * file + row)[which].tolist() and len(images) <= 4
        found += which.tolist()
        ends.add(images.ctypes.data)
    # each row once, as they lie in the files, to the same memory
    assert sorted(found) == list(range(40)) and len(ends) == 1
    assert np.array_equal((50 * file + row)[found], np.sort(50 * file + row))
    slow = kind in ("tiles", "compressed", "never written", "big endian")
    assert all(isinstance(one, _Library if slow else _Direct) for one in reader._open.values())
    reader.close()
    assert numbers(reader.read(file[:3], row[:3])).tolist() == (50 * file + row)[:3].tolist()
    if kind == "never written":
        assert (reader.read(np.zeros(1, int), np.array([25])) == 0).all()


def test_a_portion_holds_whole_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.xtcav.reader._UNPACKED", 60)  # a row
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = np.stack([image(i) for i in range(30)])
        file.create_dataset("x", data=images, chunks=(10, *SHAPE), compression="gzip")
    found = list(reader_of([tmp_path / "a.h5"]).portions(np.zeros(30, int), np.arange(30)))
    assert [len(which) for which, _ in found] == [10, 10, 10]  # so each chunk is unpacked once


def test_several_leading_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = np.stack([image(i) for i in range(24)]).reshape(8, 3, *SHAPE)
        file.create_dataset("x", data=images, chunks=(3, 1, 3, 5))
    rows = np.array([23, 0, 7, 7, 12])
    assert numbers(reader_of([tmp_path / "a.h5"]).read(np.zeros(5, int), rows)).tolist() == rows.tolist()


def test_lost_and_shrunken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.stack([image(i) for i in range(30)])
    zero = np.zeros(1, int)
    reader = reader_of([path])
    reader.read(zero, zero)
    with open(path, "r+b") as file:
        file.truncate(2500)
    with pytest.raises(OSError, match=r"ends before.*a\.h5"):
        reader.read(zero, np.array([29]))
    reader.close()
    with pytest.raises(BadInput, match=r"a\.h5"):
        reader.read(zero, zero)
    path.unlink()
    with pytest.raises(BadInput, match="no such file"):
        reader.read(zero, zero)


def test_more_files_than_stay_open(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n:03d}.h5", [0], first=n) for n in range(70)]
    reader = ImageReader(paths, "xtcavimg", SHAPE, np.dtype(np.int16))
    everything = np.arange(70)
    for _ in range(2):
        assert numbers(reader.read(everything, 0 * everything)).tolist() == everything.tolist()


@pytest.fixture
def collection(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{n}.h5", np.arange(40) % 4, first=40 * n) for n in range(2)]


@pytest.mark.parametrize("kind", ["float32", "float16", "raw"])
@pytest.mark.parametrize("limit", [0, 15, 1000])
def test_memory_changes_nothing_but_the_time(collection: list[Path], kind: str, limit: int) -> None:
    index = scan(collection, Options(path="-"))
    reader = ImageReader(index.files, "xtcavimg", SHAPE, index.dtype)
    bytes_each = {"float32": 4, "float16": 2, "raw": 2}[kind] * 30
    plain = ImageStore(index, reader, Chain(["log"], SHAPE), 0, kind)
    store = ImageStore(index, reader, Chain(["log"], SHAPE), limit * bytes_each / 2**20, kind)
    rng = np.random.default_rng(0)
    for _ in range(4):
        which = rng.integers(0, 80, 33)
        assert np.array_equal(store.get(which), plain.get(which))
    assert store.cached <= min(limit, 80)
    if limit:
        assert store.cached == min(limit, len(set(np.flatnonzero(store._slot >= 0))))
    if limit == 1000:
        store.get(np.arange(80))
        for path in collection:
            path.unlink()
        store.close()
        assert len(store.get(np.arange(80))) == 80


def test_work_ahead_is_bounded_and_ends_with_the_reader() -> None:
    made: list[int] = []

    def numbers(stop: threading.Event) -> object:
        for n in range(100):
            made.append(n)
            yield n

    before = threading.active_count()
    items = ahead(numbers, 3)  # type: ignore[arg-type]
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert len(made) <= 2 + 3 + 2
    assert list(ahead(numbers, 3)) == list(range(100))  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_errors_of_the_background_are_raised_in_front() -> None:
    def broken(stop: threading.Event) -> object:
        yield 1
        raise OSError(5, "lost", "file.h5")

    items = ahead(broken, 3)  # type: ignore[arg-type]
    assert next(items) == 1
    with pytest.raises(OSError, match="lost"):
        next(items)
    assert not [t for t in threading.enumerate() if t.name == "reader"]
