"""Commands that people are shown (README, docs, --help, the end of a search) are accepted as they are printed."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_hyperopt
from ensembles import artifact as artifacts
from ensembles import build, report, terminal
from ground import exits, typed
from models import registry
from studies.study import open_study
from tests.conftest import ROOT, run
from tests.ensembles.studies import write_data, write_study

MODULES = [
    "run_hyperopt", "validate_test_submission", "download.__main__", "ensembles.__main__", "search_spaces.__main__",
    "studies.__main__", "models.cellnet.__main__", "models.cellspike.__main__", "models.ndt.__main__",
    "models.cellprofiler.__main__", "models.xtcav.__main__",
]  # fmt: skip
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FAMILIES = str(ROOT / "tests" / "families")


def shown_in(page: Path) -> Iterator[str]:
    """Command lines of a page's fenced blocks, without their comments."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        yield from (line for line in block.splitlines() if line.startswith("python "))


def helps(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main(["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code where every option is known and everything that must be given is; nothing is carried out."""
    words = shlex.split(re.split(r"\s{2,}|\s#", line.strip())[0])  # what follows is about it
    assert words.pop(0) == "python", line
    if words[0] == "-m":
        name = words[1] if words[1] in MODULES else f"{words[1]}.__main__"
        words = words[2:]
    else:
        name = words.pop(0).removesuffix(".py").replace("/", ".")
    module: Any = importlib.import_module(name)
    monkeypatch.setattr(exits, "run_command", lambda program, call: 0)
    if hasattr(module, "run_command"):
        monkeypatch.setattr(module, "run_command", lambda program, call: 0)
    try:
        return int(module.main(words) or 0)
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_pages_are_accepted(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in shown_in(page):
        if not line.startswith("python -m pytest"):
            assert accepted(line, monkeypatch) == 0, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("module", MODULES)
def test_commands_of_helps_are_accepted(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helps(module, capsys)
    lines = [line for line in text.splitlines() if line.strip().startswith("python ")]
    assert lines or module in ("search_spaces.__main__", "models.xtcav.__main__")
    for line in lines:
        assert accepted(line, monkeypatch) == 0, f"{line}\n{capsys.readouterr().err}"
    bare = [line for line in text.splitlines() if re.match(r"\s*(run_hyperopt|validate_test_submission)\.py\b", line)]
    assert bare == []  # a shell knows no such command


def test_the_readme_says_once_how_python_is_meant() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("activate") == 1
    assert text.index(". .venv/bin/activate") < text.index("\npython ")


@pytest.mark.parametrize("line", ["python run_hyperopt.py lorenz --sampels 3", "python -m ensembles biuld lorenz"])
def test_a_wrong_command_is_found(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accepted(line, monkeypatch) == 2


def test_the_interpreter_that_is_printed_is_the_one_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path(sys.executable)
    monkeypatch.setenv("PATH", f"{mine.parent}:/usr/bin:/bin")
    assert typed.interpreter() == "python"
    (tmp_path / "python").symlink_to(mine)  # another environment's python leads to the same file
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    word = typed.interpreter()
    assert word != "python" and os.path.samefile(ROOT / shlex.split(word)[0], mine)
    assert typed.command("-m", "ensembles", "show", "a b; $c") == f"{word} -m ensembles show 'a b; $c'"


def test_commands_say_where_they_are_to_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert typed.way() is None
    monkeypatch.chdir(tmp_path)
    assert typed.way() == f"cd {ROOT}"


def printed(text: str) -> list[str]:
    """The commands below the words that lead to them."""
    lines = text.splitlines()
    pairs = itertools.pairwise(lines)
    return [line.strip() for before, line in pairs if before.endswith(":") and line.startswith("  ")]


def typed_in(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it, in which no environment is active."""
    env = {**os.environ, "PATH": "/usr/bin:/bin", **more}
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_the_command_that_uses_the_ensemble_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, FAMILIES)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(ROOT)
    study = write_study(tmp_path / "it's a study", write_data(tmp_path / "da ta.npz"), [0.1, 0.2, 0.3])
    found = build.build(study)
    terminal.next_commands(found, study)
    again, predict = printed(capsys.readouterr().out)
    assert "--again" in again and shlex.quote(f"{study.path}/t00") in again
    out = tmp_path / "out"
    out.mkdir()
    # the output's name is relative: it is written where one stands
    name = shlex.split(predict)[-1]
    done = typed_in(predict.replace(shlex.quote(name), shlex.quote(str(out / name))))
    assert done.returncode == 0, done.stderr
    assert (out / name).is_file()
    page = report.write(study).read_text(encoding="utf-8")
    assert "What to do next" in page and "t00" in page
    # a copied ensemble has no study to train from, and says so by silence
    artifacts.read(study.path).path.rename(tmp_path / "alone")
    terminal.next_commands(artifacts.read(tmp_path / "alone"))
    (predict,) = printed(capsys.readouterr().out)
    assert str(tmp_path / "alone") in predict


@pytest.mark.slow
def test_the_printed_commands_of_a_search_work(tmp_path: Path, home: Path) -> None:
    """A search, then what it prints, word for word, and what those print."""
    np.savetxt(tmp_path / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 60))
    env = {registry.EXTRA_FOLDERS: FAMILIES, "CONCERT_SPACES": FAMILIES, "PATH": "/usr/bin:/bin"}
    given = ["--data", str(tmp_path / "values.txt"), "--family", "mean", "--samples", "3", "--holdout", "0.3"]
    done = run("run_hyperopt.py", *given, env=env)
    assert done.returncode == 0, done.stderr
    (folder,) = home.rglob("values")
    assert json.loads((folder / "study.json").read_text())["command"] == given
    assert "--holdout 0.3" in (folder / "report.html").read_text()
    again, predict = printed(done.stdout)
    done = typed_in(f"cd {shlex.quote(str(ROOT))} && {again}", **env)
    assert done.returncode == 0, done.stderr
    (study,) = (open_study(path) for path in home.rglob("values-*") if path.is_dir())
    best = json.loads((folder / "ensemble/ensemble.json").read_text())["order"][0][0]
    assert study.name == f"values-{best}" and study.config["holdout"] == 0.3
    configs = [json.loads(path.read_text()) for path in study.trials.glob("*/config.json")]
    assert len(configs) == 5 == len({config["seed"] for config in configs})
    assert all(config["settings"] == {} for config in configs)
    wanted = json.loads((folder / "trials" / best / "config.json").read_text())["settings"]
    assert study.config["fixed"]["rate"] == wanted["rate"] and study.config["space"] == {}
    name = shlex.split(predict)[-1]
    done = typed_in(predict.replace(name, str(tmp_path / name)), **env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).is_file()
    for word, count in (("values", 2), (study.name, 1)):  # of one setting there is no better one to train again
        assert len(printed(run("-m", "ensembles", "show", word, env=env).stdout)) == count


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, FAMILIES)
    return write_study(tmp_path / "earlier", write_data(tmp_path / "data.npz"), [0.1]).path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--again", "t00"], "expected <study>/<trial>"),
        (["--again", "/t00"], "expected <study>/<trial>"),
        (["--again", "nowhere/t00"], "no study nowhere"),
        (["--again", "{study}/t01"], "did you mean t00"),
        (["--again", "{study}/../t00"], "no study at"),
        (["--again", "{study}/t00", "--family", "ndt"], "a study of family noisy, not ndt"),
        (["lorenz", "--again", "{study}/t00"], "dataset does not go with it"),
        (["--again", "{study}/t00", "--data", "x.h5"], "--data does not go with it"),
        (["--again", "{study}/t00", "--warm-start", "x.csv"], "--warm-start does not go with it"),
        (["--again", "{study}/t00", "--samples", "0"], "at least one trial"),
    ],
)
def test_what_cannot_be_trained_again(
    earlier: Path, home: Path, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_hyperopt.main([word.format(study=earlier) for word in given]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert not home.exists() or not list(home.rglob("study.json"))
