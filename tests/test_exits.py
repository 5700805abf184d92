"""How commands end: codes, one line, and nobody listening."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ground import exits
from ground.errors import BadInput, CommandFailed
from tests.conftest import ROOT, run


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("python", sys.executable)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(BadInput("a.h5: holds NaN"), 2, "it: a.h5: holds NaN"), (CommandFailed("no"), 1, "it: no"),
     (PermissionError(13, "Permission denied", "/x"), 1, "it: Permission denied: /x"),
     (KeyboardInterrupt(), 130, "it: interrupted; the same command goes on")],
)  # fmt: skip
def test_codes(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> int:
        raise error

    assert exits.run_command("it", call) == code
    assert capsys.readouterr().err.splitlines() == [line]


def test_what_nobody_expected_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def call() -> int:
        raise KeyError("a\nb")

    assert exits.run_command("it", call) == 1
    (file,) = tmp_path.iterdir()
    assert capsys.readouterr().err == f"it: internal error (KeyError: 'a\\nb'); details in {file}\n"
    assert "in call" in file.read_text()
    monkeypatch.setenv(exits.DEBUG, "1")
    with pytest.raises(KeyError):
        exits.run_command("it", call)


def test_nobody_reads(home: Path) -> None:
    done = shell("python -m search_spaces list | head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) in ((141, ""), (0, ""))  # what is printed may fit into the pipe
    closed = shell("python -m search_spaces list | true; exit ${PIPESTATUS[0]}")
    assert (closed.returncode, closed.stderr) == (141, "")
    assert shell("python -m search_spaces list >&-").stderr == ""
    both = shell("python -m search_spaces show nothing 2>&- >&-")
    assert both.returncode == 2


@pytest.mark.slow
def test_a_search_that_nobody_reads(tiny_space: Path, tmp_path: Path) -> None:
    """It ends somehow, never in a traceback, and the same command goes on."""
    done = shell(f"python run_hyperopt.py {tiny_space} --study {tmp_path}/one --samples 1 | true")
    assert "Traceback" not in done.stderr
    again = run("run_hyperopt.py", tiny_space, "--study", tmp_path / "one", "--samples", 1)
    assert again.returncode == 0
