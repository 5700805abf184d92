"""Every wrong command is one clear line, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

import run_hyperopt
from tests.conftest import LORENZ


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], home: Path) -> object:
    def call(*arguments: object) -> tuple[int, str]:
        try:
            code = run_hyperopt.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's own
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return call


CASES = {
    "nothing": ([], "name a dataset"),
    "unknown dataset": (["lorens"], "did you mean lorenz"),
    "missing file": (["--data", "/nowhere/x.h5"], "no such file"),
    "unknown family": (["--data", "{spikes}", "--family", "ndtt"], "did you mean ndt"),
    "not hdf5": (["--data", "{text}"], "not a readable HDF5"),
    "samples": (["{space}", "--samples", "0"], "--samples 0"),
    "negative seed": (["{space}", "--seed", "-1"], "--seed"),
    "searcher": (["{space}", "--searcher", "skop"], "did you mean skopt"),
    "scheduler": (["{space}", "--scheduler", "hyperband"], "there are none, asha"),
    "rule": (["{space}", "--rule", "best"], "--rule best"),
    "objective": (["{space}", "--objective", "accuracy"], "--objective accuracy"),
    "too many cpus": (["{space}", "--cpus-per-trial", "4096"], "no trial could start"),
    "no cpus": (["{space}", "--cpus-per-trial", "0"], "needs a share of a core"),
    "no gpu": (["{space}", "--gpus-per-trial", "64"], "no trial could start"),
    "gpu fraction": (["{space}", "--gpus-per-trial", "1.5"], "whole GPUs"),
    "workers": (["{space}", "--workers", "4096"], "do not fit"),
    "set without value": (["{space}", "--set", "MODEL.DROPOUT"], "NAME=VALUE"),
    "set unknown": (["{space}", "--set", "MODEL.DROPOT=0.1"], "did you mean MODEL.DROPOUT"),
    "set impossible": (["{space}", "--set", "MODEL.DROPOUT=7"], "at most"),
    "warm start": (["{space}", "--warm-start", "/nowhere.csv"], "no such file"),
    "json space": (["{space}", "--space", "{text}"], "not valid JSON"),
    "study name": (["{space}", "--study", ".."], "cannot name a study"),
    "keep": (["{space}", "--keep", "0"], "--keep 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_commands(case: str, command: object, tmp_path: Path, spikes: Path, tiny_space: Path, home: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("not what you want")
    given, words = CASES[case]
    arguments = [a.format(spikes=spikes, text=text, space=tiny_space) for a in given]
    code, error = command(*arguments)  # type: ignore[operator]
    assert code == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not home.exists() or not list(home.rglob("study.json"))


BAD_YAML = {
    "unknown key": ("family: ndt\nspaces: {}\n", "line 2", "did you mean 'space'"),
    "broken": ("family: ndt\nspace: {a: [}\n", "line 2", "not valid YAML"),
    "list": ("- a\n- b\n", "line 1", "mapping"),
    "twice": ("family: ndt\nspace:\n  a: {uniform: [0, 1]}\n  a: {uniform: [0, 1]}\n", "line 4", "twice"),
    "kind": ("family: ndt\nspace:\n  MODEL.DROPOUT: {unifrom: [0, 1]}\n", "line 3", "did you mean uniform"),
    "bounds": ("family: ndt\nspace:\n  MODEL.DROPOUT: {uniform: [1, 0]}\n", "line 3", "not below"),
    "log of zero": ("family: ndt\nspace:\n  TRAIN.LR.INIT: {loguniform: [0, 1]}\n", "line 3", "above zero"),
    "empty": ("family: ndt\nspace: {}\n", "line 2", "nothing to search"),
    "budget": (
        "family: ndt\nspace:\n  MODEL.DROPOUT: {uniform: [0, 0.5]}\nbudget: {samples: -3}\n",
        "line 4",
        "samples",
    ),
    "both": ("family: ndt\nfixed: {MODEL.DROPOUT: 1}\nspace:\n  MODEL.DROPOUT: {uniform: [0, 1]}\n", "line 2", "both"),
    "no family": ("space:\n  a: {uniform: [0, 1]}\n", "line 1", "family"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml_names_the_line(case: str, command: object, tmp_path: Path) -> None:
    content, line, words = BAD_YAML[case]
    (tmp_path / "s.yaml").write_text(content)
    code, error = command(tmp_path / "s.yaml")  # type: ignore[operator]
    assert code == 2
    assert line in error
    assert words in error


def test_an_unknown_setting_in_a_space_is_named(command: object, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("family: ndt\nspace:\n  MODEL.DROPOUTS: {uniform: [0, 0.5]}\n")
    code, error = command(tmp_path / "s.yaml")  # type: ignore[operator]
    assert code == 2
    assert "MODEL.DROPOUTS" in error


def test_raw_data_missing_says_what_to_download(command: object) -> None:
    code, error = command("mc_maze_small")  # type: ignore[operator]
    assert code == 2
    assert "python -m download data mc_maze_small" in error


def test_lorenz_options_are_checked() -> None:
    from ground.errors import BadInput
    from models.ndt.lorenz import generate

    with pytest.raises(BadInput, match="unknown lorenz option"):
        generate({**LORENZ, "trials": 3})
    with pytest.raises(BadInput, match="bins is 0"):
        generate({**LORENZ, "bins": 0})
