"""xy files and their names: what is written is read, what is wrong is refused, nothing in a file is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellnet import names, npz, xy

NAME = "reco_Mu_001_xy-TPC1.npz"


def example(rng: np.random.Generator, counts: list[int]) -> dict[str, Any]:
    """Events of these numbers of rows, with truth."""
    x = rng.integers(0, 300, (sum(counts), 7)).astype(np.float32)
    x[:, 3] = np.repeat(np.arange(len(counts)), counts)
    x[:, 4:] *= 1.37
    truth = [rng.random((n // 2 + 1, 6)).astype(np.float32) for n in counts]
    return {"x": x, "starts": np.cumsum(counts) - counts, "y": rng.random((len(x), 1)), "truth": truth}


@pytest.fixture
def content() -> dict[str, Any]:
    """The arrays of a good file."""
    made = example(np.random.default_rng(0), [3, 0, 4])
    truth = np.empty(3, dtype=object)
    for event, voxels in enumerate(made["truth"]):
        truth[event] = voxels
    return {"X": made["x"], "Y": made["y"].astype(np.float32), "starts": made["starts"], "Y_truth": truth}


def saved(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / NAME
    np.savez(path, **content)
    return path


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int]) -> None:
    path = tmp_path_factory.mktemp("xy") / NAME
    made = example(np.random.default_rng(seed), counts)
    xy.write(path, **made)
    found = xy.read(path)
    assert np.array_equal(found.x, made["x"]) and np.array_equal(found.y, made["y"].astype(np.float32))
    assert list(found.counts) == counts and np.array_equal(found.events, made["x"][:, 3])
    assert len(found.truth) == len(counts)
    assert all(np.array_equal(a, b) for a, b in zip(found.truth, made["truth"], strict=True))


def test_other_programs_read_it_as_numpy_does(tmp_path: Path) -> None:
    made = example(np.random.default_rng(0), [2, 2])
    made["truth"] = [truth[:1] for truth in made["truth"]]  # equally long: still an array of arrays
    xy.write(tmp_path / NAME, **made)
    with np.load(tmp_path / NAME, allow_pickle=True) as file:
        assert sorted(file) == ["X", "Y", "Y_truth", "starts"]
        assert file["Y_truth"].dtype == object and [t.shape for t in file["Y_truth"]] == [(1, 6), (1, 6)]
        assert file["X"].dtype == np.float32


def test_without_truth_there_are_x_and_starts(tmp_path: Path) -> None:
    made = example(np.random.default_rng(0), [2, 1])
    xy.write(tmp_path / NAME, made["x"], made["starts"])
    with np.load(tmp_path / NAME) as file:
        assert sorted(file) == ["X", "starts"]
    found = xy.read(tmp_path / NAME)
    assert found.y is None and found.truth == []
    assert xy.describe(tmp_path / NAME)["truth"] == "none"


def test_describe_counts_what_there_is(tmp_path: Path) -> None:
    x = np.zeros((4, 7))
    x[:, 0] = [0, 1, 2, 9]
    x[:, 4:] = [1, 2, 3]
    y = np.array([[0.5], [0], [0], [0]])
    xy.write(tmp_path / NAME, x, np.array([0]), y, [np.ones((2, 4))])
    said = xy.describe(tmp_path / NAME)
    assert said["active voxels"] == "4 (4 to 4 an event), within 10 × 1 × 1"
    assert said["charge of each plane"] == "4 / 8 / 12"
    assert said["all true voxels"] == "2, 50.0 % of them active"
    assert said["ghosts per true active voxel"] == "3.0"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no X": ({"X": None}, "has no X"),
    "no starts": ({"starts": None}, "has no starts"),
    "six columns": ({"X": np.zeros((7, 6), np.float32)}, r"X has shape \(7, 6\)"),
    "no rows": ({"X": np.zeros((0, 7), np.float32), "Y": np.zeros((0, 1))}, "X has no rows"),
    "a row less of truth": ({"Y": np.zeros((6, 1), np.float32)}, r"Y has shape \(6, 1\); it takes \(7, 1\)"),
    "flat truth": ({"Y": np.zeros(7, np.float32)}, r"Y has shape \(7,\)"),
    "truth that is not finite": ({"Y": np.full((7, 1), np.inf)}, "Y holds values that are not finite"),
    "an event too many": ({"starts": np.array([0, 3, 3, 7])}, "Y_truth has 3 events, starts 4"),
    "starts elsewhere": ({"starts": np.array([0, 2, 2])}, "event column"),
    "starts that fall": ({"starts": np.array([0, 5, 3])}, "does not rise"),
    "starts beyond": ({"starts": np.array([0, 3, 30])}, "does not rise"),
    "starts in the middle": ({"starts": np.array([1, 3, 3])}, "does not rise"),
    "words": ({"X": np.full((7, 7), "a")}, "X holds values of type <U1"),
    "thin truth": ({"Y_truth": np.ones((3, 5, 3))}, r"Y_truth of event 0 has shape \(5, 3\)"),
    "truth of numbers": ({"Y_truth": np.ones(3)}, r"Y_truth of event 0 has shape \(\)"),
    "truth that is no number": ({"Y_truth": np.full((3, 5, 4), np.nan)}, "Y_truth of event 0 holds"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(case: str, content: dict[str, Any], tmp_path: Path) -> None:
    change, said = WRONG[case]
    path = saved(tmp_path, {key: value for key, value in {**content, **change}.items() if value is not None})
    with pytest.raises(BadInput, match=said) as error:
        xy.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"), [(-1, "x = -1 in row 2"), (0.5, "x = 0.5 in row 2"), (np.nan, "not finite")]
)
def test_coordinates_are_whole_numbers(value: float, said: str, content: dict[str, Any], tmp_path: Path) -> None:
    content["X"][2, 0] = value
    with pytest.raises(BadInput, match=said):
        xy.read(saved(tmp_path, content))
    with pytest.raises(BadInput, match=said):
        xy.write(tmp_path / "other.npz", content["X"], content["starts"])
    assert not (tmp_path / "other.npz").exists()


def test_coordinates_beyond_the_spatial_size_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["X"][3, :3] = 10, 513, 20
    content["X"][4:, 1] = 0
    content["X"][:3, 1] = 0
    path = saved(tmp_path, content)
    assert len(xy.read(path, spatial=(1024, 514, 512)).x) == 7
    with pytest.raises(BadInput, match=r"× 514 × .* voxels; the spatial size is 1024 × 513 × 512"):
        xy.read(path, spatial=(1024, 513, 512))


def test_damaged_files_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    whole = path.read_bytes()
    for part in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:part])
        with pytest.raises(BadInput, match="not a whole npz file"):
            xy.read(path)
    at = whole.index(content["X"].tobytes()) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(BadInput, match="X is damaged"):
        xy.read(path)
    with pytest.raises(BadInput, match="no such file"):
        xy.read(tmp_path / "none.npz")
    with pytest.raises(BadInput, match="a folder"):
        xy.read(tmp_path)


def test_a_header_that_lies_about_the_size_reads_nothing(content: dict[str, Any], tmp_path: Path) -> None:
    for shape, said in (
        ((10**9, 7), "bytes unpacked; at most"),
        ((9, 7), "not of the size"),
        ((6, 7), "not of the size"),
    ):
        path = saved(tmp_path, {key: value for key, value in content.items() if key != "X"})
        with zipfile.ZipFile(path, "a") as archive, archive.open("X.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            member.write(content["X"].tobytes())
        with pytest.raises(BadInput, match=said):
            xy.read(path)


class _Runs:
    """An object whose pickle would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def _objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def test_nothing_in_a_file_is_run(content: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    for harmful in (
        _objects(_Runs(mark), *content["Y_truth"][1:]),
        _objects(*content["Y_truth"][:2], {"a": _Runs(mark)}),
    ):
        with pytest.raises(BadInput, match=r"Y_truth is refused: it holds posix\.mkdir"):
            xy.read(saved(tmp_path, {**content, "Y_truth": harmful}))
        assert not mark.exists()
    # the trap is a real one
    np.load(tmp_path / NAME, allow_pickle=True)["Y_truth"]
    assert mark.exists()


@pytest.mark.parametrize(
    ("item", "said"),
    [("words", "a str"), ({1: 2}, "a dict"), (np.array(["a"]), "values of type U1"), (np.array([{}]), "a dict"),
     (bytearray(3), "builtins.bytearray"), (np.array([1j]), "values of type c16"), (None, "a NoneType")],
)  # fmt: skip
def test_objects_that_are_no_arrays_of_numbers_are_refused(
    item: Any, said: str, content: dict[str, Any], tmp_path: Path
) -> None:
    path = saved(tmp_path, {**content, "Y_truth": _objects(item, *content["Y_truth"][1:])})
    with pytest.raises(BadInput, match=f"Y_truth is refused: it holds {said}"):
        xy.read(path)


def _pickled(path: Path, content: dict[str, Any], pickled: bytes) -> Path:
    saved(path.parent, {key: value for key, value in content.items() if key != "Y_truth"})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("Y_truth.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": (3,)})
        member.write(pickled)
    return path


HARMFUL = {
    "a memo of 2 billion entries": (b"\x80\x02]r\xff\xff\xff\x7f.", "refused: it holds a memo out of order"),
    "a number past the end": (b"\x80\x02\x8a\xff\x01", "damaged"),
    "a list of itself": (b"\x80\x02]q\x00h\x00a.", "refused: it holds a list"),
    "an array without content": (b"cnumpy\nndarray\n)R.", "damaged"),
    "bytes longer than the file": (b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc.", "damaged"),
    "nothing": (b"", "damaged"),
    "an instance by the old word": (b"(S'a'\nios\nsystem\n.", "refused: it holds a INST"),
    "something outside": (b"\x80\x02X\x01\x00\x00\x00aQ.", "refused: it holds a reference to something outside"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_a_hostile_pickle_is_refused_at_once(case: str, content: dict[str, Any], tmp_path: Path) -> None:
    pickled, said = HARMFUL[case]
    with pytest.raises(BadInput, match=f"Y_truth is {said}"):
        xy.read(_pickled(tmp_path / NAME, content, pickled))


def test_too_many_bytes_of_objects_are_not_read(content: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    with npz.opened(path) as file:
        assert len(file.arrays("Y_truth", largest=10_000)) == 3
        with pytest.raises(BadInput, match="more than 100 bytes"):
            file.arrays("Y_truth", largest=100)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_arrays_of_any_protocol_and_order_are_read(
    protocol: int, content: dict[str, Any], tmp_path: Path
) -> None:
    truth = _objects(np.arange(8.0).reshape(2, 4).T[:, [0, 1, 0, 1]], np.ones((2, 4), ">f4"), np.zeros((0, 4)))
    pickled = pickle.dumps(truth, protocol=protocol)
    found = xy.read(_pickled(tmp_path / NAME, content, pickled)).truth
    assert [t.shape for t in found] == [(4, 4), (2, 4), (0, 4)]
    assert np.array_equal(found[0][:, 1], [4, 5, 6, 7]) and found[1].sum() == 8
    # what older numpy wrote: one event, or all of the same length, became a block of Python's numbers
    block = np.ones((3, 2, 4)).astype(object)
    found = xy.read(_pickled(tmp_path / NAME, content, pickle.dumps(block, protocol=protocol))).truth
    assert [t.shape for t in found] == [(2, 4)] * 3
    buffer = io.BytesIO(pickled.replace(b"numpy._core", b"numpy.core"))
    if protocol < 4:  # later ones say how long each word is
        assert len(xy.read(_pickled(tmp_path / NAME, content, buffer.getvalue())).truth) == 3


def test_names_say_what_a_file_is() -> None:
    name = names.parse("/data/Mu_1_wire/epoch24-batch0-reco_BeamCosmic_001_yinf-TPC1.npy")
    assert name == ("BeamCosmic", 1, "yinf", 1, 0, 24)
    assert names.parse("Electron-12_depoElectron.npz") == ("Electron", 12, "depoElectron", None, None, None)
    assert names.parse("protoDUNE_9_mcbeamcosmic.npz").product == "mcbeamcosmic"
    assert names.parse("Pion_3_calonosce-TPC159.npz")[2:4] == ("calonosce", 159)


@pytest.mark.parametrize("wrong", ["wire.npz", "Mu_001.npz", "Muon_001_wire.npz", "Mu_001_wires.npz", "Mu_a_wire.npz",
                                   "Mu_1_wire_Pion_2_xy.npz", "neutrino_1_xy.npz", "Mu_1_truth.npz"])  # fmt: skip
def test_other_names_are_refused(wrong: str) -> None:
    with pytest.raises(BadInput, match="event type"):
        names.parse(wrong)


def test_products_of_the_same_events_have_the_same_name_but_one_word() -> None:
    wire = "reco_BeamCosmic_001_wire-TPC1.npz"
    assert names.xy(wire, 1, 0) == "batch0-reco_BeamCosmic_001_xy-TPC1.npz"
    assert names.xy(wire, names.joined([1, 5, 9])) == "reco_BeamCosmic_001_xy-TPC159.npz"
    assert names.xy("Mu_7_wire.npz", 2) == "Mu_7_xy-TPC2.npz"
    assert names.renamed("batch3-reco_Mu_001_xy-TPC1.npz", "yinf") == "batch3-reco_Mu_001_yinf-TPC1.npy"
    assert names.renamed("batch3-reco_Mu_001_xy-TPC1.npz", "xy", batch=4) == "batch4-reco_Mu_001_xy-TPC1.npz"


@given(
    st.sampled_from(names.EVENT_TYPES), st.integers(0, 9999), st.sampled_from(names.PRODUCTS), st.integers(0, 159),
    st.integers(0, 99),
)  # fmt: skip
def test_renaming_changes_what_it_says_and_nothing_else(
    event_type: str, index: int, product: str, tpc: int, batch: int
) -> None:
    name = f"a-{event_type}_{index:04d}_{product}_x.npz"
    made = names.parse(names.renamed(name, "hit", tpc, batch))
    assert made == (event_type, index, "hit", tpc, batch, None)
