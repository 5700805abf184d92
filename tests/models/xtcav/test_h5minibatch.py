"""The original reader's own unit test, its table of counts, its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models.xtcav.h5minibatch import H5MiniBatchReader, plan
from tests.models.xtcav.written import SHAPE, image


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The authors' case: 3 files of 100 rows, label i mod 8 with i running on, the first 50 of each file 0."""
    found = []
    for n in range(3):
        labels = np.arange(100 * n, 100 * n + 100) % 8
        labels[:50] = 0
        found.append(tmp_path / f"f{n}.h5")
        with h5py.File(found[-1], "w") as file:
            file["features"] = np.stack([image(i) for i in range(100 * n, 100 * n + 100)])
            file["labels"] = labels
    return found


def reader(files: list[Path], **options: Any) -> H5MiniBatchReader:
    given = {"minibatch_size": 10, "validation_size": 24, "class_labels_max_imbalance_ratio": 1.2, "random_seed": 1}
    return H5MiniBatchReader(files, **{**given, **options})


def test_the_authors_unit_test(files: list[Path]) -> None:
    found = reader([*files, files[0]])
    assert found.plan.counts.tolist() == [168, 18, 20, 20, 18, 18, 19, 19]
    assert (found.plan.total, len(found.plan.validation), found.plan.batches) == (154, 24, 13)
    seen = []
    for _ in range(13):
        images, labels = found.get_next_minibatch()
        assert images.shape == (10, *SHAPE) and images.dtype == np.int16 and labels.dtype == np.int32
        rows = images[:, 0, 0].astype(int) // 100
        assert np.array_equal(np.where(rows % 100 < 50, 0, rows % 8), labels)
        seen += rows.tolist()
    validation, _ = found.get_validation_set()
    assert validation is not None
    assert len({*seen, *(validation[:, 0, 0].astype(int) // 100)}) == 154
    again = [n for _ in range(13) for n in found.get_next_minibatch()[0][:, 0, 0] // 100]
    assert sorted(again) == sorted(seen) and again != seen


@pytest.mark.parametrize(
    ("ratio", "total", "validation", "batch", "batches", "unused"),
    [(1.0, 9420, 64, 32, 292, 12), (2.3, 16933, 400, 64, 258, 21), (3.2, 21171, 400, 64, 324, 35),
     (4.0, 24939, 400, 64, 383, 27)],
)  # fmt: skip
def test_the_published_table(ratio: float, total: int, validation: int, batch: int, batches: int, unused: int) -> None:
    labels = np.repeat(np.arange(4), [3744, 2355, 16390, 15489])
    found = plan(labels, batch, validation, ratio, seed=0)
    assert (found.total, found.batches, found.unused) == (total, batches, unused)


def test_preprocessing_forms_and_channels(files: list[Path]) -> None:
    whole = {"max_mb_to_preload_all": 100, "cache_preprocess": True, "return_as_one_hot": True}
    batch = reader(files, feature_preprocess=["log", "mean"]).get_next_minibatch()[0]
    assert np.abs(batch.mean(0)).max() < 1e-5 and batch.dtype == np.float32  # the batch's own mean
    found = reader(files, feature_preprocess=["log", "mean"], add_channel_to_2D="row_column_channel", **whole)
    batches = [found.get_next_minibatch() for _ in range(13)]
    assert batches[0][0].shape == (10, *SHAPE, 1) and batches[0][1].shape == (10, 8)
    assert np.abs(batches[0][0].mean(0)).max() > 1e-3
    assert np.abs(np.concatenate([b[0] for b in batches]).mean(0)).max() < 1e-4  # the mean of all train
    assert reader(files, add_channel_to_2D="channel_row_column").get_next_minibatch()[0].shape == (10, 1, *SHAPE)
    assert reader(files, feature_preprocess=["float64"]).get_next_minibatch()[0].dtype == np.float64
    assert reader(files, validation_size=0).get_validation_set() == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"validation_size": 154}, {"minibatch_size": 130}, {"number_of_batches": 14},
     {"class_labels_max_imbalance_ratio": 0}, {"feature_preprocess": ["logg"]}],
)  # fmt: skip
def test_impossible_requests_are_one_line(files: list[Path], wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as error:
        reader(files, **wrong)
    assert "\n" not in str(error.value)
