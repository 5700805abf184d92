"""From checkpoints to an ensemble: what can be used, what is kept, what is told."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ensembles import artifact, build, predict, report
from ensembles.__main__ import main as ensembles
from ensembles.members import candidates, restore
from ground.errors import BadInput
from ground.files import read_json
from models import registry
from models.base import Place
from studies.study import Study, open_study
from tests.conftest import ROOT, run
from tests.ensembles.studies import add_trial, write_data, write_study

LEVELS = [0.5, 0.6, 0.7, 0.8, 3.0]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(ROOT / "tests" / "families"))
    yield
    family = registry.get("noisy")
    family.alone, family.submits, family.calibrates = False, None, False  # type: ignore[attr-defined]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "study", write_data(tmp_path / "data.npz", groups=20), LEVELS)


def built(study: Study, **options: object) -> tuple[artifact.Artifact, list[str]]:
    lines: list[str] = []
    return build.build(study, say=lines.append, **options), lines  # type: ignore[arg-type]


def weights(found: artifact.Artifact) -> dict[str, float]:
    return {m["trial_id"]: m["weight"] for m in found.meta["members"]}


def test_every_member_predicts_the_validation_data_once(study: Study) -> None:
    found, _ = built(study)
    report.write(study)
    calls = study.family.calls  # type: ignore[attr-defined]
    for number in range(len(LEVELS)):
        asked = [i for n, ids in calls if n == number for i in ids]
        assert asked == list(range(60))  # in three parts, each sample once; the second snapshot is the same moment
    assert len(candidates(study)) == len(LEVELS)
    assert not list(study.path.glob(".predictions-*"))
    page = (study.path / "report.html").read_text()
    for words in ("samples", "out of fold", "Members of the ensemble", *weights(found)):
        assert words in page


def test_the_kept_prediction_is_the_ensembles(study: Study) -> None:
    found, _ = built(study, place=Place(threads=2))
    data, family = study.load_data(), study.family
    members = [restore(family, found.path / m["file"], Place())(data) for m in found.meta["members"]]
    expected = family.combine(members, [m["weight"] for m in found.meta["members"]])
    for predicted in (found.validation(), found.predict(data)):
        np.testing.assert_allclose(predicted["value"], expected["value"], rtol=1e-12)
        assert np.array_equal(predicted["id"], np.arange(60))
    assert family.score(expected, family.truth(data)) == pytest.approx(found.meta["scores"]["in_sample"])
    assert weights(found).get("t04", 0) < 0.05  # by far the worst
    assert found.meta["scores"]["in_sample"] < found.meta["scores"]["best_single"]


def test_predict_goes_part_by_part(study: Study, tmp_path: Path) -> None:
    built(study)
    family = study.family
    family.calls.clear()  # type: ignore[attr-defined]
    out = tmp_path / "out.h5"
    assert ensembles(["predict", str(study.path), str(tmp_path / "data.npz"), "-o", str(out), "--batch", "7"]) == 0
    assert max(len(ids) for _, ids in family.calls) == 20  # type: ignore[attr-defined]
    assert set(family.batches) == {None, 7}  # type: ignore[attr-defined]
    with h5py.File(out) as file:
        whole = artifact.read(study.path).predict(study.load_data())
        np.testing.assert_allclose(file["value"][()], whole["value"], rtol=1e-12)
        assert file.attrs["study"] == "study"


def test_an_output_is_whole_or_absent(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built(study)
    short = {"observed": np.zeros((6, 2)), "signal": np.zeros((6, 2)), "id": np.arange(6)}
    np.savez(tmp_path / "short.npz", **short)
    family, parts = study.family, type(study.family).parts

    def breaking(self: object, data: object) -> Iterator[object]:
        first, *_ = parts(self, data)  # type: ignore[arg-type]
        yield first
        raise BadInput("the second part is gone")

    out = tmp_path / "out.h5"
    command = ["predict", str(study.path), str(tmp_path / "short.npz"), "-o", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(family), "parts", breaking)
        assert ensembles(command) == 2
    assert not out.exists()
    assert not list(tmp_path.glob(".tmp-*"))
    assert ensembles(command) == 0
    assert ensembles(command) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_options_that_cannot_be(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--device", "tpu"], ["--batch", "0"]):
        assert ensembles(["build", str(study.path), *options]) == 2
    if not torch.cuda.is_available():
        assert ensembles(["build", str(study.path), "--device", "cuda"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3 - torch.cuda.is_available()


def swap(study: Study) -> set[str]:
    one, other = (study.trials / name / "best.safetensors" for name in ("t01", "t02"))
    content = one.read_bytes()
    shutil.copyfile(other, one)
    other.write_bytes(content)
    return {"t01.best", "t02.best"}


def truncate(study: Study) -> set[str]:
    file = study.trials / "t01" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    return {"t01.best"}


def not_a_number(study: Study) -> set[str]:
    add_trial(study, 7, float("nan"), score=0.01)
    return {"t07.best"}


def crash(study: Study) -> set[str]:
    add_trial(study, 7, 0.5, {"fails": "predict"})
    add_trial(study, 8, 0.5, {"fails": "restore"})
    return {"t07.best", "t08.best"}


@pytest.mark.parametrize("harm", [swap, truncate, not_a_number, crash])
def test_checkpoints_that_cannot_be_used_are_left_out(harm: object, study: Study) -> None:
    bad = harm(study)  # type: ignore[operator]
    found, lines = built(study, place=Place(threads=3))
    assert set(found.meta["left_out"]) == bad
    told = [line for line in lines if "is left out" in line]
    assert len(told) == len(bad)
    assert all(any(name in line for line in told) for name in bad)
    assert not {name.split(".")[0] for name in bad} & set(weights(found))
    assert np.isfinite(found.meta["scores"]["in_sample"])
    assert "left out" in report.write(study).read_text()


def test_models_that_do_not_fit_beside_each_other_predict_alone(study: Study) -> None:
    study.family.alone = True  # type: ignore[attr-defined]
    found, _ = built(study, place=Place(threads=4), rule="topn", size=3)
    assert found.meta["left_out"] == {}
    assert len(found.meta["members"]) == 3


def test_nothing_usable_leaves_the_old_ensemble(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    built(study)
    before = {p: p.read_bytes() for p in (study.path / "ensemble").rglob("*") if p.is_file()}
    for file in study.trials.glob("*/*.safetensors"):
        file.write_bytes(b"nothing")
    assert ensembles(["build", str(study.path)]) == 2
    assert "not one of 5 checkpoints can be used" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (study.path / "ensemble").rglob("*") if p.is_file()} == before
    assert not list(study.path.glob(".ensemble-*")) + list(study.path.glob(".predictions-*"))


def test_what_a_killed_build_left_goes(study: Study) -> None:
    (study.path / ".predictions-killed").mkdir()
    (study.path / ".ensemble-new-killed").mkdir()
    built(study)
    assert not list(study.path.glob(".ensemble-*")) + list(study.path.glob(".predictions-*"))


def test_a_full_disk_is_no_fault_of_a_checkpoint(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict.np, "save", full)
    with pytest.raises(OSError, match="No space"):
        built(study)
    assert not list(study.path.glob(".predictions-*"))


# ---- checksums


def empty_sums(folder: Path) -> None:
    (folder / "checksums.sha256").write_text("")


def no_sums(folder: Path) -> None:
    (folder / "checksums.sha256").unlink()


def sums_without(name: str, folder: Path) -> None:
    file = folder / "checksums.sha256"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if name not in line))


def edited(folder: Path) -> None:
    file = folder / "ensemble.json"
    file.write_text(file.read_text().replace('"weight": 0.', '"weight": 1.', 1))


def other_validation(folder: Path) -> None:
    with h5py.File(folder / "validation.h5", "a") as file:
        file["value"][0] = 7.0


DAMAGE = {
    "empty": empty_sums,
    "none": no_sums,
    "json unlisted": lambda folder: sums_without("ensemble.json", folder),
    "member unlisted": lambda folder: sums_without("t00", folder),
    "validation unlisted": lambda folder: sums_without("validation", folder),
    "edited": edited,
    "validation": other_validation,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ensemble_is_refused_and_built_anew(
    damage: str, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = built(study)
    assert build.ensure(study).meta == before.meta
    DAMAGE[damage](before.path)
    for command in (["show", str(study.path)], ["predict", str(study.path), str(tmp_path / "data.npz"), "-o", "x.h5"]):
        assert ensembles(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    lines: list[str] = []
    after = build.ensure(study, say=lines.append)
    after.verify()
    assert "built anew" in lines[0]
    assert {**after.meta, "built": 0} == {**before.meta, "built": 0}


def test_nothing_is_built_where_nothing_changed(study: Study) -> None:
    built(study)
    lines: list[str] = []
    build.ensure(study, say=lines.append)
    assert lines == []
    add_trial(study, 9, 0.1)
    build.ensure(study, say=lines.append)
    assert lines


def test_everything_is_on_disk_before_the_swap(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    built(study)
    happened: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(handle: int) -> None:
        happened.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def noted_rename(self: Path, target: Path) -> Path:
        happened.append(("rename", str(self)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    found, _ = built(study)
    renames = [i for i, (what, _) in enumerate(happened) if what == "rename"]
    assert len(renames) == 2
    new = Path(happened[renames[1]][1])
    synced = {path for what, path in happened[: renames[0]] if what == "sync"}
    wanted = {str(new), str(new / "members")}
    wanted |= {str(new / p.relative_to(found.path)) for p in found.path.rglob("*") if p.is_file()}
    assert wanted <= synced
    for at in renames:
        assert happened[at + 1] == ("sync", str(study.path))


# ---- submissions


def test_a_failing_submission_is_a_line(study: Study) -> None:
    study.family.submits = IndexError("no such unit")  # type: ignore[attr-defined]
    found, lines = built(study)
    assert "no submission file: IndexError: no such unit" in lines
    assert not (found.path / "submission.h5").exists()
    found.verify()
    study.family.submits = OSError(errno.ENOSPC, "No space left on device")  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space"):
        built(study)
    assert artifact.read(study.path).meta == found.meta


def test_a_submission_is_in_the_folder_and_its_checksums(study: Study) -> None:
    study.family.submits = "written"  # type: ignore[attr-defined]
    found, lines = built(study)
    assert "written" in lines
    assert "submission.h5" in (found.path / "checksums.sha256").read_text()
    (found.path / "submission.h5").unlink()
    with pytest.raises(BadInput, match="missing"):
        found.verify()


# ---- the holdout


def test_the_holdout_scores_what_was_chosen_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # nine models alike: which is best on the search's samples is not the one that is best on the others
    data = write_data(tmp_path / "data.npz", samples=80, groups=40)
    study = write_study(tmp_path / "study", data, [0.5] * 9, holdout=0.3)
    found, _ = built(study)
    held, family = study.holdout(), study.family
    truth = family.truth(held)
    scores = {c.name: family.score(restore(family, c.path, Place())(held), truth) for c in candidates(study)}
    first = candidates(study)[0].name
    assert min(scores, key=lambda name: scores[name]) != first
    result = found.meta["scores"]["holdout"]
    assert result["best_single"]["score"] == pytest.approx(scores[first])
    assert result["ensemble"]["score"] == pytest.approx(family.score(found.predict(held), truth))
    difference = result["ensemble"]["score"] - result["best_single"]["score"]
    assert result["difference"]["score"] == pytest.approx(difference)
    assert result["difference"]["standard_error"] > 0
    assert result["samples"] == len(held["id"])
    # none of them was in sight before
    chosen = [ids for _, ids in family.calls[: 9 * 3]]  # type: ignore[attr-defined]
    assert not {i for ids in chosen for i in ids} & set(held["id"].tolist())
    assert ensembles(["show", str(study.path)]) == 0
    shown = capsys.readouterr().out
    for words in ("mse holdout", "mse out of fold", "mse in sample", "difference", "clean number", "epochs"):
        assert words in shown
    page = report.write(study).read_text()
    assert "holdout" in page and "clean number" in page


def test_one_command_ends_with_the_clean_number(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 60))
    folders = str(ROOT / "tests" / "families")
    command = ["run_hyperopt.py", "--data", tmp_path / "values.txt", "--family", "mean", "--samples", 2]
    done = run(*command, "--holdout", 0.3, env={registry.EXTRA_FOLDERS: folders, "CONCERT_SPACES": folders})
    assert done.returncode == 0, done.stderr
    for how in ("holdout", "out of fold"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  mse {how}"))
        assert line.count("±") == 3 and "difference" in line
    assert "  mse in sample" in done.stdout


def test_the_leaderboard_has_a_row_a_moment_and_the_ensemble(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert ensembles(["build", str(study.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("│")]
    assert len(table) == 1 + len(LEVELS)
    assert "ensemble" in table[0]
    header = next(line for line in lines if "rank" in line)
    assert "step" in header and "mse" in header
    assert read_json(open_study(study.path).path / "ensemble/ensemble.json")


def test_calibration_is_fitted_out_of_fold_and_applied_wherever_it_predicts(study: Study) -> None:
    family, data = study.family, study.load_data()
    plain, _ = built(study)
    before = plain.predict(data)
    family.calibrates = True  # type: ignore[attr-defined]
    found, _ = built(study)
    on, truth = family.calibrated_on, family.truth(data)  # type: ignore[attr-defined]
    # out of fold: of every sample, and not what the members chosen with it predict
    assert on["value"].shape == truth["value"].shape
    assert not np.allclose(on["value"], before["value"])
    score = family.score(on, truth)
    assert score == pytest.approx(found.meta["scores"]["out_of_fold"]["score"])
    offset = found.meta["calibration"]["offset"]
    assert offset == pytest.approx(float((truth["value"] - on["value"]).mean()))
    np.testing.assert_allclose(found.predict(data)["value"], before["value"] + offset)
    np.testing.assert_allclose(found.validation()["value"], before["value"] + offset)
