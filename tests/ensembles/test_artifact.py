"""An ensemble's folder: complete, checked, usable anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from ensembles import artifact
from ensembles.__main__ import main as ensembles
from models.ndt.data import load_h5
from models.ndt.metrics import bits_per_spike
from tests.conftest import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_space: Path) -> Path:
    study = tmp_path_factory.mktemp("studies") / "done"
    done = run("run_hyperopt.py", tiny_space, "--study", study, "--samples", 3, "--workers", 2)
    assert done.returncode == 0, done.stderr
    return study


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "study")
    return tmp_path / "study"


def test_prediction_is_the_weighted_mean_and_scores_as_told(
    study: Path, spikes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rates.h5"
    assert ensembles(["predict", str(study), str(spikes), "-o", str(out)]) == 0
    data = load_h5(spikes)
    assert data.eval.heldout is not None
    with h5py.File(out) as file:
        rates = {name: file[name][()] for name in file}
    assert rates["eval_rates_heldin_forward"].shape == (12, 4, 9)
    meta = artifact.read(study).meta
    value = bits_per_spike(rates["eval_rates_heldout"], data.eval.heldout)
    assert value == pytest.approx(meta["scores"]["in_sample"], abs=1e-5)
    assert sum(m["weight"] for m in meta["members"]) == pytest.approx(1.0)
    assert ensembles(["predict", str(study), str(spikes), "-o", str(out)]) == 2  # never over what is there
    assert "--overwrite" in capsys.readouterr().err


def test_the_folder_alone_is_enough(study: Path, spikes: Path, tmp_path: Path) -> None:
    # new recordings: held-in counts and nothing else
    with h5py.File(tmp_path / "new.h5", "w") as file, h5py.File(spikes) as source:
        file["eval_data_heldin"] = source["eval_data_heldin"][:5]
    shutil.copytree(study / "ensemble", tmp_path / "elsewhere")
    shutil.rmtree(study)
    out = tmp_path / "rates.h5"
    assert ensembles(["predict", str(tmp_path / "elsewhere"), str(tmp_path / "new.h5"), "-o", str(out)]) == 0
    with h5py.File(out) as file:
        assert file["eval_rates_heldout"].shape == (5, 20, 4)


def test_checksums_are_those_of_sha256sum(study: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "checksums.sha256"], cwd=study / "ensemble", check=True)


def test_a_changed_member_is_refused(study: Path, spikes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = next((study / "ensemble/members").glob("*.safetensors"))
    content = bytearray(member.read_bytes())
    content[-1] ^= 1
    member.write_bytes(content)
    assert ensembles(["predict", str(study), str(spikes), "-o", str(study / "r.h5")]) == 2
    assert "checksum differs" in capsys.readouterr().err
    member.unlink()
    assert ensembles(["predict", str(study), str(spikes), "-o", str(study / "r.h5")]) == 2
    assert "missing from the ensemble" in capsys.readouterr().err


def test_a_member_path_cannot_leave_the_folder(study: Path, spikes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = study / "ensemble/ensemble.json"
    meta = json.loads(file.read_text())
    meta["members"][0]["file"] = "../../../etc/passwd"
    file.write_text(json.dumps(meta))
    assert ensembles(["show", str(study)]) == 2
    assert "outside the ensemble" in capsys.readouterr().err


def test_rebuilt_by_another_rule(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = artifact.read(study).meta
    assert ensembles(["build", str(study), "--rule", "topn", "--size", "2"]) == 0
    after = artifact.read(study).meta
    assert after["rule"] == "topn of 2"
    assert [m["weight"] for m in after["members"]] == [0.5, 0.5]
    assert after["fingerprint"] == before["fingerprint"]
    assert ensembles(["build", str(study), "--rule", "best"]) == 2
    assert ensembles(["build", str(study), "--rule", "topn", "--size", "99"]) == 2
    capsys.readouterr()
    assert ensembles(["show", str(study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "topn of 2"


def test_a_swap_cut_short_leaves_the_old_ensemble(study: Path) -> None:
    meta = artifact.read(study).meta
    (study / "ensemble").rename(study / ".ensemble-old")  # killed between the two renames
    assert artifact.read(study).meta == meta
    assert (study / "ensemble/ensemble.json").exists()


def test_data_that_does_not_fit(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file["eval_data_heldin"] = np.zeros((2, 20, 99))
    assert ensembles(["predict", str(study), str(tmp_path / "wide.h5"), "-o", str(tmp_path / "r.h5")]) == 2
    assert "do not fit" in capsys.readouterr().err
    assert not (tmp_path / "r.h5").exists()


def test_no_study_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["show", "nothing"], ["build", "nothing"], ["score", "nothing"]):
        assert ensembles(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_score_without_behaviour_uses_nlb_tools_on_spikes(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ensembles(["score", str(study), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    scores = result["scores"]["done"]
    assert result["phase"] == "val"
    assert scores["co-bps"] == pytest.approx(artifact.read(study).meta["scores"]["in_sample"], abs=1e-5)
    assert np.isfinite(scores["fp-bps"])
