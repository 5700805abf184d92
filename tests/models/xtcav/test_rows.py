"""Batches of an epoch: order, resuming, sampling, errors from the background."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ground.errors import BadInput
from models.xtcav.data import load
from models.xtcav.rows import Batch, Rows
from tests.models.xtcav.written import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for n in range(3):
        labels = rng.choice([0, 1, 2], 80, p=[0.1, 0.3, 0.6])
        write(tmp_path / f"r{n}.h5", labels, first=80 * n, bld__x=rng.normal(size=80))
    return tmp_path


def rows_of(folder: Path, **more: Any) -> Rows:
    given = {"path": str(folder), "scalars": ["bld.x"], "block": 2, "preprocess": ["log"], **more}
    return load(given, "val").train


def same(one: list[Batch], other: list[Batch]) -> bool:
    names = ("images", "scalars", "labels", "rows")
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in names
    )


@pytest.mark.parametrize("cache_mb", [0, 0.005, 100])
def test_batches_hold_what_their_rows_are(folder: Path, cache_mb: float) -> None:
    rows = rows_of(folder, cache_mb=cache_mb)
    for epoch in range(2):
        batches = list(rows.batches(16, seed=4, epoch=epoch))
        assert sorted(n for batch in batches for n in batch.rows.tolist()) == list(range(len(rows)))
        for batch in batches:
            chosen = batch.rows.numpy()
            assert np.array_equal(batch.images.numpy(), rows.images(chosen))
            assert np.array_equal(batch.labels.numpy(), rows.labels[chosen])
            assert np.array_equal(batch.scalars.numpy(), rows.scalars[chosen])
            assert batch.images.shape[1:] == (1, 6, 5) and batch.targets.shape == (len(chosen), 0)


@pytest.mark.parametrize("sampling", ["plain", "balanced", "weighted"])
def test_a_resumed_epoch_goes_on_alike(folder: Path, sampling: Any) -> None:
    whole = list(rows_of(folder, cache_mb=0).batches(8, seed=1, epoch=3, sampling=sampling))
    rest = list(rows_of(folder).batches(8, seed=1, epoch=3, sampling=sampling, start=2))
    assert same(whole[2:], rest)
    assert len(whole) == rows_of(folder).batch_count(8, sampling)
    assert not same(whole, list(rows_of(folder).batches(8, seed=1, epoch=4, sampling=sampling)))
    assert not same(whole, list(rows_of(folder).batches(8, seed=2, epoch=3, sampling=sampling)))


def test_sampling(folder: Path) -> None:
    rows = rows_of(folder)
    counts = np.bincount(rows.labels)
    drawn = [torch.cat([b.labels for b in rows.batches(8, seed=0, epoch=e, sampling="balanced")]) for e in range(2)]
    assert torch.bincount(drawn[0]).tolist() == [counts.min()] * 3
    drawn = [torch.cat([b.labels for b in rows.batches(8, seed=0, epoch=e, sampling="weighted")]) for e in range(9)]
    assert torch.bincount(torch.cat(drawn)) / (9 * len(rows)) == pytest.approx(1 / 3, abs=0.06)
    in_order = list(rows.batches(7, drop_last=True))
    assert torch.cat([b.rows for b in in_order]).tolist() == list(range(len(rows) // 7 * 7))


def test_the_mean_of_a_batch_is_its_own_only_for_parity(folder: Path) -> None:
    for _ in range(2):
        for batch in rows_of(folder, preprocess=["log", "parity_mean"]).batches(16, seed=0):
            assert batch.images.mean(0).abs().max() < 1e-5


def test_a_file_that_disappears_is_told_and_no_thread_stays(folder: Path) -> None:
    rows = rows_of(folder, cache_mb=0, preprocess=[])
    rows.store.close()
    (folder / "r1.h5").unlink()
    with pytest.raises(BadInput, match=r"r1\.h5.*no such file"):
        list(rows.batches(8, seed=0))
    readers = [t for t in threading.enumerate() if t.name == "reader"]
    assert not readers


def test_a_dropped_epoch_leaves_no_thread(folder: Path) -> None:
    rows = rows_of(folder)
    batches = rows.batches(4, seed=0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    for batch in rows.batches(4, seed=0):
        del batch
        break
    assert not [t for t in threading.enumerate() if t.name == "reader"]


def test_waiting_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(folder, cache_mb=0)
    get = rows.store.get

    def slow(*arguments: Any) -> np.ndarray:
        time.sleep(0.05)
        return get(*arguments)

    monkeypatch.setattr(rows.store, "get", slow)
    next(iter(rows.batches(4, seed=0)))
    assert rows.waited >= 0.05
