"""The winners' own files: checkpoints, archive, submissions, against the numbers the original code gave."""

from __future__ import annotations

import collections
import json
import pickle
import shutil
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import validate_test_submission
from ensembles.__main__ import main as ensembles
from ensembles.archive import import_archive
from ensembles.members import candidates, restore
from ground.errors import BadInput
from models.base import Place
from models.ndt.metrics import bits_per_spike
from models.ndt.original import convert, load
from models.ndt.submission import submission_arrays, write_submission
from models.ndt.validation import recompute
from models.registry import get
from studies.places import studies_home
from tests.conftest import ROOT
from tests.download.servers import serve, zenodo

DATASETS = ("mc_maze_small", "area2_bump")


@pytest.fixture(scope="session")
def fixture(shared: Path) -> Path:
    return shared / "fixtures/aesmte3"


@pytest.fixture(scope="session")
def expected(fixture: Path) -> dict[str, Any]:
    return json.loads((fixture / "expected.json").read_text())["datasets"]


@pytest.fixture(scope="session")
def unpacked(fixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(fixture / "ae-nlb-2021-model-checkpoints.zip") as archive:
        archive.extractall(place)
    return place / "ae-nlb-2021-model-checkpoints"


@pytest.fixture
def prepared(fixture: Path, monkeypatch: pytest.MonkeyPatch, unpacked: Path) -> None:
    monkeypatch.setenv("NDT_CACHE_DIR", str(fixture / "ndt"))
    monkeypatch.setenv("SUBMISSION_VALIDATION_ROOT", str(unpacked))


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_checkpoint_gives_the_original_rates(
    dataset: str, fixture: Path, unpacked: Path, expected: dict[str, Any]
) -> None:
    family = get("ndt")
    data = family.load({"path": str(fixture / f"ndt/{dataset}_train.h5")}, "val")
    for name, wanted in expected[dataset]["checkpoints"].items():
        arrays = submission_arrays(family.restore(*convert(unpacked / dataset / f"{name}.pth", dataset), Place()), data)
        for key, numbers in wanted["val"].items():
            array = arrays[key]
            assert list(array.shape) == numbers["shape"]
            found = [array.mean(dtype=float), array.std(dtype=float), array.min(), array.max(), *array.ravel()[:5]]
            given = [numbers[k] for k in ("mean", "std", "min", "max")] + numbers["first5"]
            np.testing.assert_allclose(found, given, rtol=1e-5)
        value = bits_per_spike(arrays["eval_rates_heldout"], data.eval.heldout)
        assert value == pytest.approx(wanted["co_bps"], abs=1e-6)


def test_archive_from_zenodo_to_validated_submissions(
    fixture: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaded with three cuts, imported, ranked, ensembled at every size, submissions validated."""
    from download.sources import chosen
    from download.zenodo import archive

    monkeypatch.setenv("NDT_CACHE_DIR", str(fixture / "ndt"))
    with serve() as site:
        url = zenodo(site, (fixture / "ae-nlb-2021-model-checkpoints.zip").read_bytes())
        site.cuts = [9_000_000, 5_000_000, 2_000_000]
        ((source, folder),) = chosen("checkpoints", (), None).items()
        root = archive(source, folder, url, quiet=True, say=lambda _: None, pause=0.01)
        assert len([r for path, r in site.requests if path.startswith("/files")]) == 4
    studies = {s.config["dataset"]: s for s in import_archive(root)}
    for dataset in DATASETS:
        study, wanted = studies[dataset], expected[dataset]
        found = candidates(study)
        assert len(found) == wanted["n_checkpoints"]
        data = study.load_data()
        truth = study.family.truth(data)
        rates = [restore(study.family, candidate.path, Place())(data) for candidate in found]
        for candidate, prediction in zip(found, rates, strict=True):
            score = study.family.score(prediction, truth)
            assert score == pytest.approx(wanted["checkpoints"][candidate.name]["co_bps"], abs=1e-6)
        for size, score in wanted["ensemble_val_co_bps"].items():
            mean = study.family.combine(rates[: int(size)], [1.0] * int(size))
            assert study.family.score(mean, truth) == pytest.approx(score, abs=1e-6)
        assert validate_test_submission.main([dataset, str(fixture / f"submission/{dataset}_submission.h5")]) == 0
        assert "all six tensors agree" in capsys.readouterr().out


def test_imported_study_builds_predicts_and_writes_its_submission(
    prepared: None, unpacked: Path, expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensembles(["import", str(unpacked)]) == 0
    assert ensembles(["import", str(unpacked)]) == 2  # never over what is there
    assert "--overwrite" in capsys.readouterr().err
    size = str(expected["mc_maze_small"]["ensemble_size"])
    assert ensembles(["build", "mc_maze_small-imported", "--rule", "topn", "--size", size]) == 0
    study = studies_home(get("ndt")) / "mc_maze_small-imported"
    with h5py.File(study / "ensemble/submission.h5") as file:
        for name, numbers in expected["mc_maze_small"]["submission"].items():
            array = file["mc_maze_small"][name][()]
            np.testing.assert_allclose(array.mean(dtype=float), numbers["mean"], rtol=1e-5)
            np.testing.assert_allclose(array.ravel()[:5], numbers["first5"], rtol=1e-5)
    capsys.readouterr()
    assert ensembles(["score", "mc_maze_small-imported", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["phase"] == "val"
    value = scores["scores"]["mc_maze_small-imported"]["co-bps"]
    assert value == pytest.approx(expected["mc_maze_small"]["ensemble_val_co_bps"][size], abs=1e-6)
    config = json.loads((study / "trials/0f8a68b6/config.json").read_text())
    assert config["settings"]["TRAIN.MASK_MAX_SPAN"] == 3  # hyperparameters are kept
    card = json.loads((study / "trials/0f8a68b6/lve.json").read_text())
    assert set(card["metrics"]) == {"co-bps", "best_masked_loss", "best_unmasked_loss", "update"}
    # the members know their held-in units and bins: other data is refused, not answered wrongly
    given, out = tmp_path / "given.h5", tmp_path / "rates.h5"
    command = ["predict", "mc_maze_small-imported", str(given), "-o", str(out)]
    for bins, units, words in (
        (140, 106, "140 bins x 106"), (140, 108, "140 bins x 108"),
        (139, 107, "139 bins x 107"), (141, 107, "141 bins x 107"),
    ):  # fmt: skip
        with h5py.File(given, "w") as file:
            file["eval_data_heldin"] = np.ones((3, bins, units))
        assert ensembles(command) == 2
        error = capsys.readouterr().err
        assert f"trials of {words} held-in units do not fit" in error
        assert len(error.strip().splitlines()) == 1
        assert not out.exists()
    with h5py.File(given, "w") as file:
        file["eval_data_heldin"] = np.ones((3, 140, 107))
    assert ensembles(command) == 0
    with h5py.File(out) as file:
        assert file["eval_rates_heldout_forward"].shape == (3, 40, 35)


def test_a_single_changed_number_is_found(
    prepared: None, fixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.h5"
    shutil.copy(fixture / "submission/mc_maze_small_submission.h5", path)
    with h5py.File(path, "a") as file:
        file["mc_maze_small/eval_rates_heldout_forward"][3, 2, 1] *= 1.001
    assert validate_test_submission.main(["mc_maze_small", str(path)]) == 1
    output = capsys.readouterr().out
    assert "eval_rates_heldout_forward: 1 of" in output
    assert "[3, 2, 1]" in output
    assert output.count("DIFFERS") == 1
    wrong = ["mc_maze_small", str(fixture / "submission/mc_maze_small_submission.h5"), "--n", "3"]
    assert validate_test_submission.main(wrong) == 1


def drop(name: str) -> Any:
    def change(file: h5py.File) -> None:
        del file[f"mc_maze_small/{name}"]

    return change


def replace(name: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file[f"mc_maze_small/{name}"]
        file[f"mc_maze_small/{name}"] = value

    return change


BAD_SUBMISSIONS = {
    "no group": (lambda file: file.move("mc_maze_small", "mc_maze_tiny"), "has no group mc_maze_small"),
    "no tensor": (drop("eval_rates_heldin"), "has no eval_rates_heldin"),
    "nan": (replace("eval_rates_heldout", np.full((12, 140, 35), np.nan)), "non-finite"),
    "text": (replace("train_rates_heldin", "rates"), "numbers"),
}


@pytest.mark.parametrize("case", BAD_SUBMISSIONS)
def test_bad_submissions(
    case: str, prepared: None, fixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.h5"
    shutil.copy(fixture / "submission/mc_maze_small_submission.h5", path)
    change, words = BAD_SUBMISSIONS[case]
    with h5py.File(path, "a") as file:
        change(file)
    assert validate_test_submission.main(["mc_maze_small", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_wrong_shape_differs(prepared: None, fixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.h5"
    shutil.copy(fixture / "submission/mc_maze_small_submission.h5", path)
    with h5py.File(path, "a") as file:
        replace("eval_rates_heldout", np.zeros((12, 140, 34)))(file)
    assert validate_test_submission.main(["mc_maze_small", str(path)]) == 1
    assert "shape (12, 140, 34), recomputed (12, 140, 35)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mc_mace", "x.h5"], "not a dataset of the archive"),
        (["mc_maze", "x.h5"], "no checkpoints there"),
        (["mc_maze_small", "/nowhere.h5"], "no such file"),
        (["mc_maze_small", __file__], "not a readable HDF5"),
    ],
)
def test_bad_validation_commands(
    arguments: list[str], words: str, prepared: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate_test_submission.main(arguments) == 2
    assert words in capsys.readouterr().err


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("pwned",))


def checkpoint(**changes: Any) -> dict[str, Any]:
    content = {"state_dict": {}, "config": {}, "max_spikes": 3, "num_neurons": 142, "trial_length": 180, **changes}
    return {k: v for k, v in content.items() if v is not None}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickles_are_refused_by_name(
    protocol: int, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pth"
    torch.save(checkpoint(best_r2=Evil()), path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=r"builtins?(__)?\.print"):
        load(path)
    assert "pwned" not in capsys.readouterr().out


BAD_CHECKPOINTS = {
    "no weights": (checkpoint(state_dict=None), "has no state_dict"),
    "no config": (checkpoint(config=None), "has no config"),
    "config of another kind": (checkpoint(config=[1]), "no mapping"),
    "weights of another kind": (checkpoint(state_dict={"a": 1}), "no tensor"),
    "nan weights": (checkpoint(state_dict={"a": torch.full((2,), float("nan"))}), "not all finite"),
    "wrong keys": (checkpoint(state_dict={"a": torch.ones(2)}), "do not fit"),
    "a list": ([1, 2], "not a checkpoint but a list"),
    "bad setting": (checkpoint(config={"MODEL": {"NUM_LAYERS": -2}}), "NUM_LAYERS"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints(case: str, tmp_path: Path) -> None:
    content, words = BAD_CHECKPOINTS[case]
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(BadInput) as error:
        convert(tmp_path / "c.pth", "mc_maze_small")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0, 10, 1000, 300_000])
def test_truncated_checkpoints(cut: int, unpacked: Path, tmp_path: Path) -> None:
    content = (unpacked / "mc_maze_small/0f8a68b6.lve.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(content[:cut])
    with pytest.raises(BadInput) as error:
        convert(tmp_path / "c.pth", "mc_maze_small")
    assert "\n" not in str(error.value)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Any]], Any]:
    """Nested settings as the original program pickled them: a stand-in for yacs' CfgNode."""
    yacs, config = types.ModuleType("yacs"), types.ModuleType("yacs.config")

    class CfgNode(dict):  # type: ignore[type-arg]
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    config.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", yacs)
    monkeypatch.setitem(sys.modules, "yacs.config", config)

    def make(settings: Mapping[str, Any]) -> CfgNode:
        made = CfgNode({k: make(v) if isinstance(v, Mapping) else v for k, v in settings.items()})
        made.__dict__["__immutable__"] = True
        return made

    return make


def test_legacy_files_and_numpy_scalars_load(tmp_path: Path, node: Callable[[Mapping[str, Any]], Any]) -> None:
    """As an older torch wrote them, with a yacs node and numpy's numbers."""
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        config = node({"MODEL": {"DROPOUT": np.float64(0.5)}})
        content = checkpoint(config=config, state_dict=collections.OrderedDict(a=torch.ones(2)))
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        loaded = load(path)
        assert loaded["config"]["MODEL"]["DROPOUT"] == 0.5
        assert torch.equal(loaded["state_dict"]["a"], torch.ones(2))


def changed(path: Path, out: Path, node: Callable[[Mapping[str, Any]], Any], **settings: Any) -> None:
    """A published checkpoint with other settings: GROUP__NAME=value."""
    content = load(path)
    config = {k: dict(v) if isinstance(v, Mapping) else v for k, v in content["config"].items()}
    for name, value in settings.items():
        group, _, last = name.partition("__")
        (config[group] if last else config)[last or group] = value
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**content, "config": node(config)}, out)


@pytest.mark.parametrize("seed", [7, 11])
def test_subsets_of_trials_are_drawn_by_the_checkpoints_own_seed(
    seed: int,
    prepared: None,
    unpacked: Path,
    node: Callable[[Mapping[str, Any]], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run with RANDOM_SUBSET_TRIALS wrote the rates of its own training trials, in the order it drew them."""
    family, root = get("ndt"), tmp_path / "archive"
    published = unpacked / "mc_maze_small/0f8a68b6.lve.pth"
    file = root / "mc_maze_small/0f8a68b6.lve.pth"
    changed(published, file, node, SEED=seed, DATA__RANDOM_SUBSET_TRIALS=0.3)
    (file.parent / "models.csv").write_text(",trial_id,val_ckpt,co-bps\n0,0f8a68b6,lve,0.1\n")
    data = family.load({"dataset": "mc_maze_small"}, "test")
    whole = submission_arrays(family.restore(*convert(published, "mc_maze_small"), Place()), data)

    def as_submitted(drawn_by: int) -> dict[str, np.ndarray]:
        torch.manual_seed(drawn_by)
        trials = data.train.trials
        order = torch.randperm(trials)[: int(trials * 0.3)].numpy()
        assert len(order) == 12
        return {name: array[order] if name.startswith("train") else array for name, array in whole.items()}

    arrays = recompute(family, file.parent, "mc_maze_small", [("0f8a68b6", "lve")], data)
    for name, wanted in as_submitted(seed).items():
        np.testing.assert_allclose(arrays[name], wanted, rtol=1e-5)
    for drawn_by, code in ((seed, 0), (0, 1)):
        write_submission({"mc_maze_small": as_submitted(drawn_by)}, tmp_path / "s.h5")
        command = ["mc_maze_small", str(tmp_path / "s.h5"), "--root", str(root), "--n", "1"]
        assert validate_test_submission.main(command) == code
    assert capsys.readouterr().out.count("DIFFERS train_rates") == 2


def test_a_network_of_shortened_trials_is_refused_by_name(
    unpacked: Path, node: Callable[[Mapping[str, Any]], Any], tmp_path: Path
) -> None:
    published, path = unpacked / "mc_maze_small/0f8a68b6.lve.pth", tmp_path / "c.pth"
    changed(published, path, node, MODEL__TRIAL_LENGTH=100)
    with pytest.raises(BadInput, match=r"TRIAL_LENGTH is 100, so its network saw the first 140 bins only"):
        convert(path, "mc_maze_small")
    for all_of_them in (140, -1):
        changed(published, path, node, MODEL__TRIAL_LENGTH=all_of_them, SEED=-1)
        assert convert(path, "mc_maze_small")[1]["bins"] == 140


def test_a_checkpoint_of_another_dataset_is_refused(unpacked: Path) -> None:
    published = unpacked / "mc_maze_small/0f8a68b6.lve.pth"
    for dataset in ("area2_bump", "mc_maze_large"):
        with pytest.raises(BadInput, match=f"180 bins x 142 units is none of {dataset}"):
            convert(published, dataset)
    with pytest.raises(BadInput, match="is not an NLB dataset"):
        convert(published, "archive")
    sizes = {name: convert(published, "mc_maze_small")[1][name] for name in ("bins", "heldin_units", "seed")}
    assert sizes == {"bins": 140, "heldin_units": 107, "seed": 42}


@pytest.mark.parametrize("value", [None, "many", -3, 1.5, True, float("nan")])
def test_sizes_that_are_no_numbers_are_one_line(value: Any, tmp_path: Path) -> None:
    torch.save({**checkpoint(), "max_spikes": value}, tmp_path / "c.pth")
    with pytest.raises(BadInput, match="its max_spikes is no whole number"):
        convert(tmp_path / "c.pth", "mc_maze_small")


def test_plain_pickle_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="print"):
        load(tmp_path / "p.pth")


def test_bad_archives(tmp_path: Path, unpacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ensembles(["import", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert ensembles(["import", str(tmp_path / "empty")]) == 2
    assert "no models.csv" in capsys.readouterr().err
    broken = tmp_path / "archive" / "mc_maze_small"
    shutil.copytree(unpacked / "mc_maze_small", broken)
    (broken / "51abbe5e.lve.pth").write_bytes(b"cut short")
    assert ensembles(["import", str(broken)]) == 2
    assert "51abbe5e" in capsys.readouterr().err
    assert not (studies_home(get("ndt")) / "mc_maze_small-imported").exists()  # all or nothing
    (broken / "models.csv").write_text("a,b\n1,2\n")
    assert ensembles(["import", str(broken)]) == 2
    assert "trial_id" in capsys.readouterr().err


def test_one_datasets_folder_and_a_zip_of_one_are_archives_too(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "one"), "zip", unpacked, "area2_bump")
    (study,) = import_archive(tmp_path / "one.zip", family_name="ndt")
    assert study.path == studies_home(get("ndt")) / "area2_bump-imported"
    assert study.config["data"] == {"dataset": "area2_bump", "bin_ms": 5}
    monkeypatch.chdir(unpacked / "mc_maze_small")
    assert ensembles(["import", ".", "--suffix=-here"]) == 0
    assert (studies_home(get("ndt")) / "mc_maze_small-here/models.csv").exists()


def test_import_replaces_studies_and_nothing_else(unpacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = studies_home(get("ndt")) / "mc_maze_small-imported"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years")
    assert ensembles(["import", str(unpacked / "mc_maze_small"), "--overwrite"]) == 2
    assert "is no study" in capsys.readouterr().err
    assert (place / "thesis.txt").read_text() == "years"


def test_a_family_without_an_original_program_imports_nothing(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCERT_FAMILIES", str(ROOT / "tests/families"))
    assert ensembles(["import", str(unpacked), "--family", "mean"]) == 2
    assert "--family mean: this family has no import_checkpoint" in capsys.readouterr().err
