"""Which files and shots are used, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ground.errors import BadInput
from models.xtcav.files import resolve_files
from models.xtcav.index import Index, scan
from models.xtcav.options import Options
from tests.models.xtcav.written import write


def scanned(folder: Path, **options: Any) -> Index:
    return scan(resolve_files(str(folder))[0], Options(path=str(folder), **options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "files"
    found.mkdir()
    write(found / "b.h5", [0, 1, -1, 2], first=10)
    write(found / "a.h5", [1, -3, 0], first=20, run=69)
    return found


def test_files_are_found_in_four_ways(folder: Path) -> None:
    (folder / "notes.txt").write_text("not data")
    (folder / ".tmp-x.h5").write_text("half a file")
    listing = folder.parent / "list.txt"
    listing.write_text("# our runs\nfiles/b.h5\nfiles/a.h5  # dark\n\nfiles/*.h5\n")
    both = [(folder / name).resolve() for name in ("a.h5", "b.h5")]
    assert resolve_files(str(folder)) == (both, 0)
    assert resolve_files(f"{folder}/*.h5") == (both, 0)
    assert resolve_files(str(listing)) == (both, 2)
    assert resolve_files(str(folder / "b.h5")) == (both[1:], 0)


@pytest.mark.parametrize("name", ["nothing*.h5", "nowhere", "empty", "list.txt", "circle.txt"])
def test_nothing_found_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("missing.h5\n")
    (tmp_path / "circle.txt").write_text("circle.txt\n")
    with pytest.raises(BadInput) as error:
        resolve_files(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_shots_come_in_the_order_of_run_and_time(folder: Path) -> None:
    index = scanned(folder)
    assert [p.name for p in index.files] == ["a.h5", "b.h5"]
    assert index.run.tolist() == [69] * 3 + [70] * 4
    assert index.time[:, 0].tolist() == [20, 21, 22, 10, 11, 12, 13]
    assert index.label.tolist() == [1, -1, 0, 0, 1, -1, 2]
    assert index.image_shape == (6, 5)
    assert (index.report["files"], index.report["rows"]) == (2, 7)


def test_without_run_and_time_names_and_rows_stand_for_them(tmp_path: Path) -> None:
    for name in ("d", "c"):
        write(tmp_path / f"{name}.h5", [0, 1, 2], run=None, evt__seconds=None)
    index = scanned(tmp_path)
    assert len(set(index.run)) == 2
    assert sorted(zip(index.file, index.row, strict=True)) == [(f, r) for f in (0, 1) for r in (0, 1, 2)]
    assert all((np.diff(index.row[index.file == f]) == 1).all() for f in (0, 1))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"xtcavimg": None}, "xtcavimg"),
        ({"acq__peaksLabel": None}, "acq.peaksLabel"),
        ({"acq__peaksLabel": np.zeros(3)}, "integers"),
        ({"acq__peaksLabel": np.zeros(4, int)}, "shape"),
        ({"xtcavimg": np.zeros((3, 6, 7), np.int16)}, "6x7"),
        ({"xtcavimg": np.zeros((3, 6), np.int16)}, "shape"),
        ({"bld__x": None}, "bld.x"),
    ],
)
def test_unusable_files_are_skipped_and_counted_or_refused(
    folder: Path, more: dict[str, Any], said: str, recwarn: Any
) -> None:
    x = {"bld__x": np.ones(3, np.float32)}
    write(folder / "b.h5", [0, 1, 2], bld__x=np.ones(3))
    write(folder / "a.h5", [0, 1, 2], bld__x=np.ones(3))
    write(folder / "z.h5", [0, 1, 2], **{**x, **more})
    index = scanned(folder, scalars=("bld.x",))
    assert index.report["files"] == 2
    assert said in index.report["skipped_files"]["z.h5"]
    with pytest.raises(BadInput, match=r"z\.h5") as error:
        scanned(folder, scalars=("bld.x",), strict=True)
    assert "\n" not in str(error.value)


def test_truncated_files_are_skipped_and_counted(folder: Path) -> None:
    path = write(folder / "z.h5", np.zeros(200, int))
    path.write_bytes(path.read_bytes()[:6000])
    assert "z.h5" in scanned(folder).report["skipped_files"]
    with pytest.raises(BadInput, match=r"z\.h5"):
        scanned(folder, strict=True)


def test_labels_out_of_range_are_skipped_and_counted(folder: Path) -> None:
    index = scanned(folder, classes=2)
    assert (len(index), index.label.max()) == (6, 1)
    assert index.report["skipped_rows"] == {"label out of range": 1}
    with pytest.raises(BadInput, match="out of range"):
        scanned(folder, classes=2, strict=True)


def test_nothing_usable_says_why(folder: Path) -> None:
    with pytest.raises(BadInput, match="no dataset other"):
        scanned(folder, label="other")


def test_masked_shots_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", [0, 1, 2, 0], ok=np.array([1, 0, -1, 1]))
    assert scanned(tmp_path, mask="ok").row.tolist() == [0, 3]


def test_targets_of_several_leading_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.zeros((4, 3, 6, 5), np.float32)
        file["k"] = np.arange(12, dtype=np.float32).reshape(4, 3, 1)
        file["pair"] = np.full((4, 3, 2), np.inf)
    index = scanned(tmp_path, image="images", targets=("k", "pair"), task="regression")
    assert index.targets[:, 0].tolist() == list(range(12))
    assert index.target_names == ("k", "pair[0]", "pair[1]")
    assert np.isnan(index.targets[:, 1:]).all()
    assert index.group.tolist() == [n // 3 for n in range(12)]
