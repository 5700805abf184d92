"""A benchmark dataset from raw NWB to a scored submission, by the commands of the README."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ensembles.__main__ import main as ensembles
from models.ndt.folders import folder
from models.ndt.prepare import target_file
from models.ndt.submission import ARRAYS
from tests.conftest import run
from tests.nlb_files import write_pair

SMALL = [
    "--samples", "2", "--workers", "2", "--set", "MODEL.NUM_LAYERS=1", "--set", "TRAIN.NUM_UPDATES=4",
    "--set", "TRAIN.VAL_INTERVAL=2", "--set", "TRAIN.LR.WARMUP=0",
]  # fmt: skip


@pytest.mark.parametrize(
    "dataset", ["mc_maze_small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mc_rtt", "dmfc_rsg"))]
)
def test_from_raw_recordings_to_a_scored_submission(
    dataset: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(dataset, folder("NLB_DATA_RAW"))
    done = run("run_hyperopt.py", dataset, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "reading 2 NWB files" in done.stderr  # the preparation says what it does
    assert f"submission for {dataset} written" in done.stdout
    study = home / "ray_results/neural-data-transformer" / dataset
    with h5py.File(study / "ensemble/submission.h5") as file:
        assert set(file[dataset]) == set(ARRAYS)
        shapes = {name: file[dataset][name].shape for name in ARRAYS}
        assert all(np.isfinite(file[dataset][name][()]).all() for name in ARRAYS)
    assert shapes["train_rates_heldin"][0] == 12
    assert shapes["eval_rates_heldout_forward"][:2] == (4, 40)
    assert ensembles(["score", dataset, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"][dataset]
    wanted = {"mc_maze_small": {"vel R2", "psth R2"}, "mc_rtt": {"vel R2"}, "dmfc_rsg": {"tp corr"}}[dataset]
    assert wanted | {"co-bps", "fp-bps"} <= set(scores)
    meta = json.loads((study / "ensemble/ensemble.json").read_text())
    assert scores["co-bps"] == pytest.approx(meta["scores"]["in_sample"], abs=1e-4)


def test_final_test_is_marked_and_nothing_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target as EvalAI's holds the truth of the submission's trials; here the validation trials play that part."""
    write_pair("mc_maze_small", folder("NLB_DATA_RAW"))
    done = run("run_hyperopt.py", "mc_maze_small", *SMALL)
    assert done.returncode == 0, done.stderr
    submission = tmp_path / "s.h5"
    with h5py.File(target_file("mc_maze_small")) as truth, h5py.File(submission, "w") as out:
        spikes = truth["mc_maze_small/eval_spikes_heldout"]
        trials, bins = spikes.shape[:2]
        rng = np.random.default_rng(0)
        for name in ARRAYS:
            train = name.startswith("train")
            units = 3 if "heldout" in name else 6
            length = 40 if "forward" in name else bins
            out[f"mc_maze_small/{name}"] = rng.gamma(2.0, 0.05, (8 if train else trials, length, units))
    target = target_file("mc_maze_small")
    assert ensembles(["score", str(submission), "--target", str(target)]) == 0
    assert "FINAL TEST" in capsys.readouterr().out
    assert ensembles(["score", str(submission)]) == 2  # test rates need a truth to be named
    assert "--target" in capsys.readouterr().err
    with h5py.File(submission, "a") as out:
        out.move("mc_maze_small", "mc_maze")
    assert ensembles(["score", str(submission), "--target", str(target)]) == 2
    assert "no dataset in common" in capsys.readouterr().err
