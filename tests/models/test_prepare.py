"""Raw NWB to tensors to NDT files, for all seven datasets, against nlb_tools itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ground.errors import BadInput
from models.ndt import prepare
from models.ndt.data import load_h5
from models.ndt.folders import folder
from tests.nlb_files import HELDIN, HELDOUT, TRIALS, write_pair


@pytest.fixture(autouse=True)
def another_familys_pandas() -> Iterator[None]:
    """As pycytominer leaves it: nlb_tools writes where pandas then forbids it."""
    with pd.option_context("mode.copy_on_write", True):
        yield


_FEW = {("mc_maze_small", 5), ("mc_rtt", 20), ("dmfc_rsg", 5)}


@pytest.mark.parametrize(
    ("dataset", "width"),
    [
        pytest.param(dataset, width, marks=[] if (dataset, width) in _FEW else pytest.mark.slow)
        for dataset in prepare.DATASETS
        for width in (5, 20)
    ],
)
def test_tensors_are_those_of_nlb_tools(dataset: str, width: int, home: Path) -> None:
    from nlb_tools.make_tensors import make_eval_input_tensors, make_eval_target_tensors, make_train_input_tensors
    from nlb_tools.nwb_interface import NWBDataset

    raw = write_pair(dataset, folder("NLB_DATA_RAW"))
    bins, forward = prepare.DATASETS[dataset].bins * 5 // width, 200 // width
    quiet = {"save_file": False}
    val = load_h5(prepare.ensure(dataset, "val", width, say=lambda _: None))
    assert val.train.heldin.shape == (TRIALS["train"], bins, HELDIN)
    assert val.eval.heldin.shape == (TRIALS["val"], bins, HELDIN)
    assert val.train.forward.shape == (TRIALS["train"], forward, HELDIN + HELDOUT)  # type: ignore[union-attr]
    with prepare.quiet_nlb_tools():
        recording = NWBDataset(str(raw))
        recording.resample(width)
        expected = make_train_input_tensors(recording, dataset, "train", include_forward_pred=True, **quiet)
        recording = NWBDataset(str(raw))
        recording.resample(width)
        evaluated = make_eval_input_tensors(recording, dataset, "val", **quiet)
        recording = NWBDataset(str(raw))
        recording.resample(width)
        target = make_eval_target_tensors(recording, dataset, "train", "val", include_psth=True, **quiet)
    np.testing.assert_array_equal(val.train.heldin, expected["train_spikes_heldin"])
    np.testing.assert_array_equal(val.train.heldout, expected["train_spikes_heldout"])
    np.testing.assert_array_equal(val.train.heldin_forward, expected["train_spikes_heldin_forward"])
    np.testing.assert_array_equal(val.eval.heldin, evaluated["eval_spikes_heldin"])
    wanted = target[dataset + prepare.suffix(width)]
    np.testing.assert_array_equal(val.eval.heldout, wanted["eval_spikes_heldout"])
    np.testing.assert_array_equal(val.eval.heldout_forward, wanted["eval_spikes_heldout_forward"])
    test = load_h5(prepare.ensure(dataset, "test", width, say=lambda _: None), "test")
    assert test.train.heldin.shape[0] == TRIALS["train"] + TRIALS["val"]
    assert test.eval.heldin.shape == (TRIALS["test"], bins, HELDIN)
    assert test.eval.heldout is None
    with h5py.File(prepare.ensure_target(dataset, width)) as file:
        assert "eval_behavior" in file[dataset + prepare.suffix(width)]


def test_genuine_test_recording(shared: Path) -> None:
    """The benchmark's own mc_maze_small test file: 100 trials, 140 bins, 107 held-in units."""
    from nlb_tools.make_tensors import make_eval_input_tensors
    from nlb_tools.nwb_interface import NWBDataset

    with prepare.quiet_nlb_tools():
        recording = NWBDataset(str(shared / "data/nlb/sub-Jenkins_ses-small_desc-test_ecephys.nwb"))
        recording.resample(5)
        array = make_eval_input_tensors(recording, "mc_maze_small", "test", save_file=False)["eval_spikes_heldin"]
    assert array.shape == (100, 140, 107)
    assert np.nansum(array.astype(float)) == 32897


def test_a_test_file_alone_is_told(shared: Path) -> None:
    place = prepare.raw_folder("mc_maze_small")
    place.mkdir(parents=True)
    (place / "x.nwb").write_bytes((shared / "data/nlb/sub-Jenkins_ses-small_desc-test_ecephys.nwb").read_bytes())
    with pytest.raises(BadInput, match="no held-out units"):
        prepare.ensure("mc_maze_small", "val", say=lambda _: None)
    assert not prepare.ndt_file("mc_maze_small", "val").exists()


def test_broken_nwb_is_one_line() -> None:
    place = prepare.raw_folder("mc_rtt")
    place.mkdir(parents=True)
    (place / "x.nwb").write_bytes(b"no nwb")
    with pytest.raises(BadInput, match="not the NWB files of mc_rtt") as error:
        prepare.ensure("mc_rtt", "val", say=lambda _: None)
    assert "\n" not in str(error.value)


def test_nwb_without_units() -> None:
    from datetime import UTC, datetime

    from pynwb import NWBHDF5IO, NWBFile

    place = prepare.raw_folder("mc_maze")
    place.mkdir(parents=True)
    file = NWBFile("empty", "empty", datetime(2021, 1, 1, tzinfo=UTC))
    file.add_trial(start_time=0.0, stop_time=1.0)
    with NWBHDF5IO(str(place / "x.nwb"), "w") as io:
        io.write(file)
    with pytest.raises(BadInput, match="not the NWB files"):
        prepare.ensure("mc_maze", "val", say=lambda _: None)


def test_unknown_dataset_and_width() -> None:
    with pytest.raises(BadInput, match="not an NLB dataset"):
        prepare.ensure("mc_mace", "val")
    with pytest.raises(BadInput, match="5 or 20"):
        prepare.ensure("mc_maze", "val", 7)
