"""HDF5 files of every family, and the npz files of one, each with one array that is not what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from models.cellnet.__main__ import main as cellnet
from models.cellspike.__main__ import main as cellspike
from models.ndt.__main__ import main as ndt
from models.xtcav.__main__ import main as xtcav
from tests.hostile import Case

Change = Callable[[h5py.File, str], None]


def replaced(make: Callable[[np.ndarray], Any]) -> Change:
    def change(file: h5py.File, name: str) -> None:
        value = make(file[name][()])
        del file[name]
        file[name] = value

    return change


def _anew(file: h5py.File, name: str, **how: Any) -> None:
    del file[name]
    file.create_dataset(name, **how)


def _group(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)["x"] = 1


def _swollen(file: h5py.File, name: str) -> None:
    _anew(
        file,
        name,
        shape=(10**7, *file[name].shape[1:]),
        maxshape=(None, *file[name].shape[1:]),
        dtype="f8",
        chunks=True,
    )


def _terabytes(file: h5py.File, name: str) -> None:
    _anew(file, name, shape=(10**12, *[10**3] * (file[name].ndim - 1)), dtype="f4", chunks=(1,) * file[name].ndim)


def _bomb(file: h5py.File, name: str) -> None:
    """Two gigabytes of zeros in two megabytes."""
    columns = file[name].shape[1:]
    size = 2**31 // (8 * int(np.prod(columns)))
    _anew(
        file,
        name,
        shape=(size, *columns),
        dtype="f8",
        chunks=(min(size, 2**22 // int(np.prod(columns)) + 1), *columns),
        compression=9,
    )
    file[name][: file[name].chunks[0]] = 0


def _chunks(file: h5py.File, name: str) -> None:
    """Chunks of three gigabytes of an array of a few."""
    shape = file[name].shape
    _anew(
        file,
        name,
        shape=shape,
        maxshape=(None,) * len(shape),
        dtype="f4",
        chunks=(3 * 2**28, *[1] * (len(shape) - 1)),
        compression=1,
    )


def _dangling(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink("/nowhere")


def _circle(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink(f"/{name}")


def _outside(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def _external(file: h5py.File, name: str) -> None:
    _anew(file, name, shape=file[name].shape, dtype="u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout(file[name].shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", file[name].shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def _pairs(array: np.ndarray) -> np.ndarray:
    return np.zeros(array.shape, [("a", "f4"), ("b", "f4")])


ANY: dict[str, Change] = {
    "gone": lambda file, name: file.__delitem__(name),
    "a group": _group,
    "text": replaced(lambda a: np.full(a.shape, b"x")),
    "complex": replaced(lambda a: np.zeros(a.shape, "c8")),
    "records": replaced(_pairs),
    "lists": lambda file, name: _anew(file, name, shape=file[name].shape, dtype=h5py.vlen_dtype(np.dtype("i4"))),
    "references": lambda file, name: _anew(file, name, shape=file[name].shape, dtype=h5py.ref_dtype),
    "nothing": replaced(lambda a: h5py.Empty("f4")),
    "one number": replaced(lambda a: 3.0),
    "an axis more": replaced(lambda a: a[None]),
    "an axis less": replaced(lambda a: a.reshape(a.shape[0], -1)[:, 0] if a.ndim > 1 else a[0]),
    "no rows": replaced(lambda a: a[:0]),
    "a row less": replaced(lambda a: a[:-1]),
    "swollen": _swollen,
    "terabytes": _terabytes,
    "a bomb": _bomb,
    "huge chunks": _chunks,
    "dangling": _dangling,
    "a circle of links": _circle,
    "a link outside": _outside,
    "values outside": _external,
    "virtual": _virtual,
}
VALUES: dict[str, Change] = {
    "NaN": replaced(lambda a: np.full(a.shape, np.nan)),
    "one NaN": replaced(lambda a: np.where(np.arange(a.size).reshape(a.shape) == 3, np.nan, a)),
    "infinite": replaced(lambda a: np.full(a.shape, np.inf)),
    "negative": replaced(lambda a: -np.ones(a.shape)),
    "fractions": replaced(lambda a: a + 0.5),
    "too many": replaced(lambda a: a + 10.0**6),
    "beyond single precision": replaced(lambda a: a + 1e300),
}
RATES = {k: VALUES[k] for k in ("NaN", "one NaN", "infinite", "negative")}
UNITS = {k: VALUES[k] for k in ("NaN", "infinite", "too many")}


def _without(changes: dict[str, Change], *names: str) -> dict[str, Change]:
    return {name: change for name, change in changes.items() if name not in names}


def broken(file: Path, folder: Path, name: str, change: Change) -> Path:
    for beside in file.parent.glob(f"{file.name.split('.')[0]}*"):
        shutil.copy(beside, folder / beside.name)
    with h5py.File(folder / file.name, "r+") as opened:
        change(opened, name)
    return folder / file.name


def cases(spikes: Path, shots: Path, pack: Path, mlpack: Path) -> Iterator[Case]:
    plan: list[tuple[str, Path, str, dict[str, Change], Any, tuple[str, ...]]] = [
        ("ndt", spikes, "train_data_heldin", {**ANY, **VALUES}, ndt, ("describe",)),
        ("ndt", spikes, "eval_data_heldout", {**ANY, **VALUES}, ndt, ("describe",)),
        (
            "ndt",
            spikes,
            "eval_data_heldin_forward",
            {**_without(ANY, "gone", "dangling", "a circle of links"), **VALUES},
            ndt,
            ("describe",),
        ),
        (
            "ndt",
            spikes,
            "train_truth",
            {**_without(ANY, "gone", "dangling", "a circle of links"), **RATES},
            ndt,
            ("describe",),
        ),
        ("xtcav", shots, "xtcavimg", {**_without(ANY, "an axis more"), "NaN": VALUES["NaN"]}, xtcav, ("scan",)),
        (
            "xtcav",
            shots,
            "acq.peaksLabel",
            {
                **_without(ANY, "an axis more"),
                **_without(VALUES, "negative"),
                "none": replaced(lambda a: -np.ones(a.shape, int)),
            },
            xtcav,
            ("scan",),
        ),
        ("cellspike", pack, "train_frames", _without(ANY, "gone"), cellspike, ("describe",)),
        ("cellspike", pack, "train_unitStar_par", {**ANY, **UNITS}, cellspike, ("describe",)),
        (
            "cellspike",
            pack,
            "train_phys_par",
            {**_without(ANY, "gone", "dangling", "a circle of links", "a group"), **RATES},
            cellspike,
            ("describe",),
        ),
        ("cellspike", mlpack, "train_volts_norm", _without(ANY, "gone"), cellspike, ("describe",)),
        (
            "cellspike",
            mlpack,
            "meta.JSON",
            {
                k: ANY[k]
                for k in (
                    "gone",
                    "text",
                    "complex",
                    "records",
                    "lists",
                    "nothing",
                    "one number",
                    "no rows",
                    "references",
                    "terabytes",
                    "a bomb",
                )
            },
            cellspike,
            ("describe",),
        ),
    ]
    for family, file, name, changes, main, verb in plan:
        for what, change in changes.items():

            def made(
                folder: Path,
                file: Path = file,
                name: str = name,
                change: Change = change,
                main: Any = main,
                verb: tuple[str, ...] = verb,
            ) -> Callable[[], int]:
                return partial(main, [*verb, str(broken(file, folder, name, change))])

            yield Case(f"HDF5 arrays: {family}", f"{name} {what}", made)
    for what, changes_of in METAS.items():

        def meta(folder: Path, text: Any = changes_of) -> Callable[[], int]:
            def change(file: h5py.File, name: str) -> None:
                known = json.loads(file[name][0])
                del file[name]
                file[name] = [text(known) if callable(text) else text]

            return partial(cellspike, ["describe", str(broken(mlpack, folder, "meta.JSON", change))])

        yield Case("JSON in HDF5", what, meta)
    yield from _whole(spikes)
    yield from _npz()


def _with(**more: Any) -> Callable[[dict[str, Any]], str]:
    return lambda known: json.dumps({**known, **more})


METAS: dict[str, Any] = {
    "empty": "",
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "unclosed": "{",
    "deep": "[" * 50_000,
    "digits": '{"a": ' + "9" * 9000 + "}",
    "names a number": _with(parName=3),
    "names too few": _with(parName=["a"]),
    "names of one": _with(parName=["a", "a", "a"]),
    "names none": _with(parName=None),
    "ranges of text": _with(phys_par_range=["a", "b", "c"]),
    "ranges short": _with(phys_par_range=[[1]] * 3),
    "ranges a number": _with(phys_par_range=7),
    "ranges zero": _with(phys_par_range=[[0.0, 0.0, ""]] * 3),
    "NaN ranges": _with(phys_par_range=[[float("nan"), 0.5, ""]] * 3),
    "linear beyond": _with(linearParIdx=[99]),
    "linear text": _with(linearParIdx=["a"]),
    "step of text": _with(timeAxis={"step": "x"}),
    "axis a list": _with(timeAxis=[1]),
    "probes too many": _with(simu_info={"probe_names": ["a"] * 9}),
    "probes a number": _with(simu_info={"probe_names": 3}),
    "stimuli": _with(simu_info={"probe_names": ["soma", "axon"], "stim_names": ["a"]}),
    "simulation a list": _with(simu_info=[1]),
    "include beyond": _with(include=[0, 1, 99]),
    "include text": _with(include="ab"),
    "overlap": _with(split_index={"train": [0, 64], "valid": [0, 12], "test": [0, 10]}),
    "overlap of text": _with(split_index={"train": ["a", "b"]}),
}


def _whole(spikes: Path) -> Iterator[Case]:
    content = spikes.read_bytes()
    wholes = {
        "empty": b"",
        "one byte": b"\x89",
        "the signature alone": content[:8],
        "half": content[: len(content) // 2],
        "text": b"hello",
        "zeros": bytes(4096),
        "cut short": content[:-100],
        "no signature": b"x" * 8 + content[8:],
        "a zip": b"PK\x05\x06" + bytes(18),
        "superblock": content[:8] + b"\xff" * 40 + content[48:],
        "signature and noise": content[:8] + np.random.default_rng(1).bytes(4000),
    }
    for name, raw in wholes.items():
        for main, verb in ((ndt, "describe"), (xtcav, "scan"), (cellspike, "describe")):

            def made(folder: Path, raw: bytes = raw, main: Any = main, verb: str = verb) -> Callable[[], int]:
                (folder / "x.h5").write_bytes(raw)
                return partial(main, [verb, str(folder / "x.h5")])

            yield Case("HDF5 files that are none", f"{main.__module__} {name}", made)


def _npz() -> Iterator[Case]:
    x = np.zeros((6, 7), np.float32)
    x[:, 0] = np.arange(6)
    good: dict[str, Any] = {"X": x, "Y": np.ones((6, 1), np.float32), "starts": np.array([0, 3])}

    class Evil:
        def __reduce__(self) -> Any:
            return print, ("pwned",)

    changes: dict[str, dict[str, Any]] = {
        "no X": {"X": None},
        "no starts": {"starts": None},
        "X flat": {"X": x.ravel()},
        "X narrow": {"X": x[:, :6]},
        "X empty": {"X": x[:0]},
        "X of text": {"X": x.astype("U3")},
        "X complex": {"X": x.astype("c8")},
        "X NaN": {"X": x * np.nan},
        "X infinite": {"X": x + np.inf},
        "X negative": {"X": x - 1},
        "X fractions": {"X": x + 0.5},
        "X beyond": {"X": x + 1e30},
        "X objects": {"X": np.array([{}], object)},
        "X evil": {"X": np.array([Evil()], object)},
        "truth evil": {"Y_truth": np.array([Evil(), Evil()], object)},
        "truth of text": {"Y_truth": np.array(["a", "b"], object)},
        "Y short": {"Y": good["Y"][:3]},
        "Y NaN": {"Y": good["Y"] * np.nan},
        "Y of text": {"Y": good["Y"].astype("U3")},
        "starts beyond": {"starts": np.array([0, 99])},
        "starts falling": {"starts": np.array([3, 0])},
        "starts negative": {"starts": np.array([-1, 3])},
        "starts of floats": {"starts": np.array([0.5, 3])},
        "starts empty": {"starts": np.zeros(0, int)},
        "starts flat": {"starts": np.zeros((2, 2), int)},
        "starts of text": {"starts": np.array(["a", "b"])},
    }
    for name, change in changes.items():

        def made(folder: Path, change: dict[str, Any] = change) -> Callable[[], int]:
            arrays = {k: v for k, v in {**good, **change}.items() if v is not None}
            np.savez(folder / XY, allow_pickle=True, **arrays)
            return partial(cellnet, ["describe", str(folder / XY)])

        yield Case("npz arrays", name, made)


XY = "BeamCosmic_001_xy-TPC1.npz"
