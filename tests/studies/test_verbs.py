"""`python -m studies`: what is there, and freeing its space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import registry
from studies.__main__ import main
from studies.study import Study
from tests.ensembles.studies import write_data, write_study
from tests.models.test_registry import HERE


@pytest.fixture
def study(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    write_data(tmp_path / "data.npz")
    return write_study(home / "ray_results/noisy/one", tmp_path / "data.npz", [3.0, 1.0, 2.0])


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, object]]:
    assert main(["list", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_every_study_is_listed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = listed(capsys)
    assert (one["study"], one["family"], one["trials"]) == ("one", "noisy", {"finished": 3})
    assert one["best"] == pytest.approx(min(float(r) for r in _scores(study)))
    assert one["in_use"] is False
    with study.lock():
        assert listed(capsys)[0]["in_use"] is True
    assert listed(capsys, "--family", "ndt") == []
    assert main(["list", "--family", "nobody"]) == 2
    (study.path.parent / "broken").mkdir()
    (study.path.parent / "broken/study.json").write_text("{")
    assert main(["list"]) == 0
    told = capsys.readouterr()
    assert "one" in told.out
    assert "broken/study.json: not valid JSON" in told.err


def _scores(study: Study) -> list[float]:
    from studies import ledger

    return list(ledger.table(study)["mse"])


def test_one_is_shown(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "one"]) == 0
    text = capsys.readouterr().out
    for words in ("trials: 3 finished", "seed: 1", "searched:", "data.npz"):
        assert words in text
    assert main(["show", "none"]) == 2


def test_cleaning_frees_what_nobody_needs_and_nothing_else(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    logs = next(study.trials.iterdir()) / "tb"
    logs.mkdir()
    (logs / "events").write_bytes(b"0" * 5000)
    (study.path / ".tmp-1").touch()
    kept = {p: p.read_bytes() for p in study.path.rglob("*") if p.is_file() and "tb" not in p.parts and p.suffix}
    assert main(["clean", "one"]) == 0
    assert "5 KB freed" in capsys.readouterr().out
    assert not logs.exists() and not (study.path / ".tmp-1").exists()
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_study_is_deleted_only_on_purpose(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "one", "--all"]) == 2  # nobody to ask
    assert "give --yes" in capsys.readouterr().err
    with study.lock():
        assert main(["clean", "one", "--all", "--yes"]) == 2
    assert study.path.exists()
    assert main(["clean", "one", "--all", "--yes"]) == 0
    assert not study.path.exists()
