"""`python -m models.ndt`: thin verbs over what the generic commands reach through the family's hooks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ensembles.__main__ import main as ensembles
from ground.errors import BadInput
from models.ndt.__main__ import main
from models.ndt.folders import folder
from models.ndt.prepare import ndt_file, target_file
from models.ndt.submission import ARRAYS
from models.registry import get
from tests.nlb_files import HELDIN, HELDOUT, TRIALS, write_pair


def test_prepare_then_describe(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "mc_rtt"]) == 2
    assert "python -m download data mc_rtt" in capsys.readouterr().err
    write_pair("mc_rtt", folder("NLB_DATA_RAW"))
    assert main(["prepare", "mc_rtt"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{p}: {ndt_file('mc_rtt', p)}" for p in ("val", "test")]
    assert main(["describe", str(ndt_file("mc_rtt", "val"))]) == 0
    out = capsys.readouterr().out
    assert f"{TRIALS['train']} training, {TRIALS['val']} validation" in out
    assert f"{HELDIN} held-in, {HELDOUT} held-out" in out
    assert main(["describe", str(ndt_file("mc_rtt", "test"))]) == 2
    assert "is this a test-phase file?" in capsys.readouterr().err
    assert main(["describe", str(ndt_file("mc_rtt", "test")), "--phase", "test"]) == 0
    assert main(["prepare", "mc_maze", "--bin-ms", "7"]) == 2
    assert main(["prepare", "mc_mace"]) == 2


def write_submission(dataset: str, out: Path) -> None:
    """Random rates of the shapes that the dataset's validation target has."""
    rng = np.random.default_rng(0)
    with h5py.File(target_file(dataset)) as truth, h5py.File(out, "w") as file:
        trials, bins = truth[dataset]["eval_spikes_heldout"].shape[:2]
        for name in ARRAYS:
            shape = (TRIALS["train"] if name.startswith("train") else trials, 40 if "forward" in name else bins)
            units = HELDOUT if "heldout" in name else HELDIN
            file[f"{dataset}/{name}"] = rng.gamma(2.0, 0.05, (*shape, units))


def test_score_is_the_generic_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair("mc_maze_small", folder("NLB_DATA_RAW"))
    assert main(["prepare", "mc_maze_small", "--phase", "val"]) == 0
    write_submission("mc_maze_small", tmp_path / "s.h5")
    given = [str(tmp_path / "s.h5"), "--target", str(target_file("mc_maze_small")), "--json"]
    capsys.readouterr()
    assert main(["score", *given]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert {"co-bps", "fp-bps", "vel R2", "psth R2"} <= set(ours["mc_maze_small"])
    assert ensembles(["score", *given]) == 0
    assert json.loads(capsys.readouterr().out) == {"phase": "test", "scores": ours}
    assert main(["score", *given[:-1]]) == 0
    assert "FINAL TEST" in capsys.readouterr().out
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["mc_maze_small/eval_rates_heldout"][0, 0, 0] = np.nan
    assert main(["score", *given]) == 2
    assert "non-finite rates" in capsys.readouterr().err


def test_validation_phase_of_a_prediction_by_hook(tmp_path: Path) -> None:
    """`Family.evaluate` of a predict function: by the benchmark's targets, or by what spikes alone allow."""
    family = get("ndt")
    write_pair("mc_maze_small", folder("NLB_DATA_RAW"))
    data = family.load({"dataset": "mc_maze_small"}, "val")

    def predict(asked: object) -> dict[str, np.ndarray]:
        trials = asked.eval.trials  # type: ignore[attr-defined]
        rng = np.random.default_rng(trials)
        shapes = {"": (trials, data.bins), "_forward": (trials, data.forward_bins)}
        return {
            f"eval_rates_{part}{when}": rng.gamma(2.0, 0.05, (*shape, units)).astype(np.float32)
            for when, shape in shapes.items()
            for part, units in (("heldin", data.heldin_units), ("heldout", data.heldout_units))
        }

    whole = family.evaluate(predict, {"dataset": "mc_maze_small"}, None, "mine")["mc_maze_small"]
    path = str(ndt_file("mc_maze_small", "val"))
    alone = family.evaluate(predict, {"path": path}, None, "mine")["mine"]
    assert set(alone) == {"co-bps", "fp-bps"}
    assert {"vel R2", "psth R2"} <= set(whole)
    assert alone["co-bps"] == pytest.approx(whole["co-bps"], abs=1e-6)
    with pytest.raises(BadInput, match="belongs to no dataset of the benchmark"):
        family.evaluate(predict, {"path": path}, target_file("mc_maze_small"), "mine")


def test_a_submission_at_20_ms_is_named_as_the_benchmark_names_it(tmp_path: Path) -> None:
    family = get("ndt")
    write_pair("mc_rtt", folder("NLB_DATA_RAW"))
    config = {"dataset": "mc_rtt", "bin_ms": 20}
    rates = {"eval_rates_heldin": np.zeros((1, 1, 1)), "eval_rates_heldout": np.zeros((1, 1, 1))}
    line = family.submission(lambda data: rates, config, tmp_path / "s.h5")
    assert line == "submission for mc_rtt written (EvalAI form)"
    with h5py.File(tmp_path / "s.h5") as file:
        assert list(file) == ["mc_rtt_20"]


def test_checkpoint_and_validate(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import zipfile

    fixture = shared / "fixtures/aesmte3"
    monkeypatch.setenv("NDT_CACHE_DIR", str(fixture / "ndt"))
    with zipfile.ZipFile(fixture / "ae-nlb-2021-model-checkpoints.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "ae-nlb-2021-model-checkpoints"
    file = root / "mc_maze_small/0f8a68b6.lve.pth"
    assert main(["checkpoint", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"] == {
        "length": 180, "units": 142, "max_spikes": 15, "seed": 42, "bins": 140, "heldin_units": 107,
    }  # fmt: skip
    assert found["settings"]["MODEL.NUM_HEADS"] == 2
    assert main(["checkpoint", str(file), "--dataset", "mc_maze"]) == 2
    submission = fixture / "submission/mc_maze_small_submission.h5"
    assert main(["validate", "mc_maze_small", str(submission), "--root", str(root)]) == 0
    assert "mean of 7 checkpoints" in capsys.readouterr().out
    assert main(["validate", "mc_maze_small", str(submission), "--root", str(root), "--n", "2"]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_help_leads_from_raw_data_to_a_score(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    steps = ["download data", "models.ndt prepare", "run_hyperopt.py", "ensembles score", "--target"]
    places = [out.index(step) for step in steps]
    assert places == sorted(places)
