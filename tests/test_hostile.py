"""Bad inputs, hundreds of them and generated ones: code 2, one line, no traceback, nothing written, soon, in little
memory. The classes and their counts are printed at the end."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import tuner.search
from models import registry
from tests.conftest import LORENZ
from tests.ensembles.studies import write_data, write_study
from tests.hostile import Case, archives, arrays, documents, judge, special, words
from tests.models.cellspike import written as packs
from tests.models.test_registry import HERE
from tests.models.xtcav import written as shots

COUNTS: Counter[str] = Counter()
SMALL = {**LORENZ, "train_trials": 6, "eval_trials": 4, "bins": 8, "forward_bins": 2}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each bad input is made from."""
    import h5py

    from ensembles import build
    from models.ndt.lorenz import generate

    folder = tmp_path_factory.mktemp("good")
    with h5py.File(folder / "spikes.h5", "w") as file:
        for name, array in generate(SMALL).items():
            file[name] = array
    (folder / "packs").mkdir()
    torch.optim.Adam([torch.zeros(1)])  # the first makes folders of its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.EXTRA_FOLDERS, str(HERE))
        study = write_study(folder / "study", write_data(folder / "data.npz"), [3.0, 1.0])
        build.build(study)
    return {
        "spikes": folder / "spikes.h5",
        "data": folder / "data.npz",
        "study": folder / "study",
        "shots": shots.write(folder / "shots.h5", np.arange(60) % 3),
        "pack": packs.ontra(folder / "packs"),
        "mlpack": packs.mlpack(folder / "l5.mlPack1.h5"),
    }


def every(good: dict[str, Path]) -> Iterator[Case]:
    yield from words.cases(good["spikes"])
    yield from words.over_inputs(good["study"], good["data"])
    yield from documents.cases(good["spikes"], good["study"])
    yield from arrays.cases(good["spikes"], good["shots"], good["pack"], good["mlpack"])
    yield from archives.cases(good["spikes"])
    yield from special.cases(good["spikes"], good["study"])


def test_bad_inputs(
    good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begun(*_: object) -> None:
        raise AssertionError("a search was begun")

    monkeypatch.setattr(tuner.search, "search", begun)
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    monkeypatch.setenv("COLUMNS", "200")
    failed = []
    for number, case in enumerate(every(good)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("NLB_HOME", str(folder / "home"))
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        wrong, line = judge(case, folder)
        COUNTS[case.group] += 1
        if wrong:
            failed.append(f"{case.group} / {case.name}: {'; '.join(wrong)} | {line[:300]}")
        shutil.rmtree(folder)
    with capsys.disabled():
        print("\n" + "\n".join(f"{count:6}  {group}" for group, count in sorted(COUNTS.items())))
        print(f"{COUNTS.total():6}  bad inputs, {len(failed)} of them not refused as they should be")
    assert COUNTS.total() >= 300
    assert not failed, "\n".join(failed)
