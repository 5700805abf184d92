"""Bad inputs, hundreds of them and generated ones: code 2, one line, no traceback, nothing written, soon, in little
memory. The classes and their counts are printed at the end."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
import tuner.search
from download.unpack import unpack
from ensembles.members import restore
from ground.errors import BadInput
from ground.states import save_state
from models import registry
from models.base import Place
from models.cellnet.checkpoint import read as read_cellnet
from models.cellnet.xy import read as read_xy
from models.cellspike.original import load as load_cellspike
from models.cellspike.worlds import open_pack
from models.ndt.data import load_h5
from studies import ledger
from studies.study import open_study
from tests.conftest import LORENZ
from tests.ensembles.studies import write_data, write_study
from tests.hostile import MOST_SECONDS, Case, archives, arrays, documents, judge, little_memory, plates, special, words
from tests.models.cellprofiler import plates as cells
from tests.models.cellspike import written as packs
from tests.models.test_registry import HERE
from tests.models.xtcav import written as shots

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
        "plates": cells.stored(folder / "plates"),
    }


def every(good: dict[str, Path]) -> Iterator[Case]:
    yield from words.cases(good["spikes"])
    yield from words.over_inputs(good["study"], good["data"])
    yield from documents.cases(good["spikes"], good["study"])
    yield from arrays.cases(good["spikes"], good["shots"], good["pack"], good["mlpack"])
    yield from archives.cases(good["spikes"])
    yield from special.cases(good["spikes"], good["study"])
    yield from plates.cases(good["plates"])


def test_bad_inputs(
    good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, str], None]
) -> None:
    def begun(*_: object) -> None:
        raise AssertionError("a search was begun")

    monkeypatch.setattr(tuner.search, "search", begun)
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    monkeypatch.setenv("COLUMNS", "200")
    failed = []
    counts: Counter[str] = Counter()
    for number, case in enumerate(every(good)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("NLB_HOME", str(folder / "home"))
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        wrong, line = judge(case, folder)
        counts[case.group] += 1
        if wrong:
            failed.append(f"{case.group} / {case.name}: {'; '.join(wrong)} | {line[:300]}")
        shutil.rmtree(folder)
    lines = [f"{count:6}  {group}" for group, count in sorted(counts.items())]
    lines.append(f"{counts.total():6}  bad inputs, {len(failed)} of them not refused as they should be")
    record_property("shows", "\n".join(lines))
    assert counts.total() >= 300
    assert not failed, "\n".join(failed)


def _table(path: Path) -> object:
    return ledger.read(path, "co-bps")


def _import(path: Path) -> object:
    with tempfile.TemporaryDirectory() as place:
        return unpack(path, Path(place))


def readers(good: dict[str, Path], folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Of each kind of file a good one, and what reads it."""
    torch.save({"model_state": {"a": torch.rand(3, 4), "b": torch.arange(5)}, "epoch": 3}, folder / "x.pth")
    torch.save({"model": {"a": torch.rand(3)}}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_state(folder / "x.safetensors", {"family": "ndt", "settings": {"a": 1}, "weights": {"b": torch.rand(3)}})
    (folder / "models.csv").write_text(archives.TABLE)
    (folder / "x.zip").write_bytes(archives.zipped({"a/models.csv": archives.TABLE.encode(), "a/b": bytes(range(256))}))
    (folder / "space.yaml").write_text(words.SPACE.format(data=good["spikes"]))
    (folder / "space.json").write_text('{"MODEL.DROPOUT": {"low": 0.1, "high": 0.5, "sample_fn": "uniform"}}')
    x = np.concatenate([np.arange(18).reshape(6, 3), np.zeros((6, 1)), np.ones((6, 3))], 1).astype(np.float32)
    np.savez(folder / arrays.XY, X=x, Y=np.ones((6, 1), np.float32), starts=np.array([0]))
    (folder / "study").mkdir()
    shutil.copy(good["study"] / "study.json", folder / "study/study.json")
    return {
        "search space": (folder / "space.yaml", search_spaces.load),
        "published space": (folder / "space.json", search_spaces.load_space_json),
        "study.json": (folder / "study/study.json", lambda path: open_study(path.parent)),
        "models.csv": (folder / "models.csv", _table),
        "zip": (folder / "x.zip", _import),
        "pth": (folder / "x.pth", load_cellspike),
        "old pth": (folder / "old.pth", read_cellnet),
        "safetensors": (folder / "x.safetensors", lambda path: restore(registry.get("ndt"), path, Place())),
        "npz": (folder / arrays.XY, read_xy),
        "HDF5 of ndt": (good["spikes"], load_h5),
        "HDF5 of xtcav": (good["shots"], lambda path: registry.get("xtcav").load({"path": str(path)}, "val")),
        "HDF5 of cellspike": (good["mlpack"], open_pack),
    }


KINDS = ("search space", "published space", "study.json", "models.csv", "zip", "pth", "old pth", "safetensors", "npz",
         "HDF5 of ndt", "HDF5 of xtcav", "HDF5 of cellspike")  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "drop", "twice", "put")),
        st.floats(0, 1),
        st.integers(0, 40),
        st.binary(max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def edited(raw: bytes, edits: list[tuple[str, float, int, bytes]], head: bool) -> bytes:
    """Bytes after some edits; of a large file most are of its head, where it is described."""
    for what, where, length, content in edits:
        at = int(where * (min(len(raw), 4096) if head else len(raw)))
        if what == "flip":
            raw = raw[:at] + bytes(b ^ 0xFF for b in raw[at : at + 1 + length % 4]) + raw[at + 1 + length % 4 :]
        elif what == "cut":
            raw = raw[: max(at, 1)]
        elif what == "drop":
            raw = raw[:at] + raw[at + length :]
        elif what == "twice":
            raw = raw[:at] + raw[at : at + length] + raw[at:]
        else:
            raw = raw[:at] + content + raw[at + len(content) :]
    return raw


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(
    kind: str,
    good: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, str], None],
) -> None:
    """Whatever bytes of a good file become, it is read, or refused by its name in one line."""
    monkeypatch.setenv(registry.EXTRA_FOLDERS, str(HERE))
    path, read = readers(good, tmp_path)[kind]
    raw, place = path.read_bytes(), tmp_path / "damaged" / path.name
    place.parent.mkdir()
    refused = 0

    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(EDITS, st.booleans())
    def one(edits: list[tuple[str, float, int, bytes]], head: bool) -> None:
        nonlocal refused
        place.write_bytes(edited(raw, edits, head))
        begun = time.process_time()
        try:
            with little_memory():
                read(place)
        except BadInput as error:
            refused += 1
            assert place.name in str(error) or str(place.parent) in str(error), error
            assert len(str(error)) < 1000
        assert time.process_time() - begun < MOST_SECONDS

    one()
    assert refused
    record_property("shows", f"{refused:6}  generated: {kind}")
