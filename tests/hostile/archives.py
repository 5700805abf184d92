"""Archives and checkpoints: zips, pickles of torch, safetensors; and the tables that come with them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from download.__main__ import main as download
from ensembles.__main__ import main as ensembles
from ensembles.members import restore
from ground.errors import BadInput
from ground.exits import run_command
from models.base import Place
from models.cellnet.checkpoint import read as read_cellnet
from models.cellspike.original import load as load_cellspike
from models.ndt.__main__ import main as ndt
from models.registry import get
from tests.hostile import Case
from tests.hostile.words import search

TABLE = ",trial_id,val_ckpt,co-bps,MODEL.DROPOUT\n0,a1,best,0.3,0.2\n"
LINK, DEVICE = 0o120777 << 16, 0o020666 << 16


class Evil:
    def __reduce__(self) -> Any:
        return print, ("pwned",)


class Large:
    """Asks for a buffer of eight gigabytes."""

    def __reduce__(self) -> Any:
        return bytearray, (2**33,)


def zipped(entries: Mapping[str, bytes], **attributes: int) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, attributes.get("mode", 0o644 << 16)
            archive.writestr(info, content)
    return held.getvalue()


def _lying(size: int) -> bytes:
    """A zip whose directory says that its one file is of another size."""
    raw = bytearray(zipped({"a/models.csv": TABLE.encode()}))
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(raw)


def _overlapping() -> bytes:
    """Ten thousand names for the same megabyte of zeros."""
    one = zipped({"a/x": bytes(2**20)})
    at, end = one.rindex(b"PK\x01\x02"), one.rindex(b"PK\x05\x06")
    entry = one[at:end]
    entries = b"".join(entry[:46] + b"%03x" % n for n in range(3000))
    return one[:at] + entries + one[end : end + 8] + struct.pack("<HHIIH", 3000, 3000, len(entries), at, 0)


def zips() -> dict[str, bytes]:
    good = zipped({"mc_maze_small/models.csv": TABLE.encode(), "mc_maze_small/a1.best.pth": b"x"})
    return {
        "empty": b"",
        "text": b"hello",
        "no files": zipped({}),
        "half": good[: len(good) // 2],
        "no directory": good[:-22],
        "directory gone": good[: good.rindex(b"PK\x01\x02")] + good[good.rindex(b"PK\x05\x06") :],
        "directory elsewhere": good[:-6] + b"\xff\xff\xff\x7f" + good[-2:],
        "flipped": good[:60] + b"xx" + good[62:],
        "upwards": zipped({"../x": b"a"}),
        "upwards within": zipped({"a/../../x": b"a"}),
        "absolute": zipped({"/etc/x": b"a"}),
        "drive": zipped({"C:/x": b"a"}),
        "backslashes": zipped({"..\\x": b"a"}),
        "a link": zipped({"x": b"/etc/passwd"}, mode=LINK),
        "a device": zipped({"x": b""}, mode=DEVICE),
        "bomb": zipped({"a/models.csv": bytes(2**28)}),
        "bomb beside ballast": zipped({"a/models.csv": bytes(2**28), "b": torch.rand(2**19).numpy().tobytes()}),
        "lying, large": _lying(2**31),
        "lying, small": _lying(3),
        "one place, many names": _overlapping(),
        "control characters": zipped({"a\x1b[2J/models.csv": TABLE.encode()}),
        "long name": zipped({"x" * 300 + "/models.csv": b""}),
        "deep": zipped({"a/" * 60 + "models.csv": TABLE.encode()}),
        "many files": zipped({f"{n}": b"" for n in range(110_000)}),
        "no table": zipped({"a/x": b"y"}),
        "a folder of a bad name": zipped({"-rf/models.csv": TABLE.encode()}),
        "hidden folder": zipped({".x/models.csv": TABLE.encode()}),
        "table at the top": zipped({"models.csv": b"\xff\xfe"}),
        "no checkpoint": zipped({"mc_maze_small/models.csv": TABLE.encode()}),
        "wrong checkpoint": good,
        "encrypted": _flagged(good),
    }


def _flagged(raw: bytes) -> bytes:
    changed = bytearray(raw)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.index(mark)
        changed[at + offset] |= 1
    return bytes(changed)


def tables() -> dict[str, str | bytes]:
    head, row = TABLE.splitlines()
    return {
        "empty": "",
        "a line": "\n",
        "head alone": head,
        "no metric": TABLE.replace("co-bps", "score"),
        "no ids": TABLE.replace("trial_id", "trial"),
        "no snapshots": TABLE.replace("val_ckpt", "ckpt"),
        "metric a word": TABLE.replace("0.3", "good"),
        "metric endless": TABLE.replace("0.3", "inf"),
        "metric -inf": TABLE.replace("0.3", "-inf"),
        "metric 1e999": TABLE.replace("0.3", "1e999"),
        "metric gone": TABLE.replace("0.3", ""),
        "metric hexadecimal": TABLE.replace("0.3", "0x1F"),
        "binary": b"\x00\x01\x02",
        "NUL": TABLE.encode() + b"\x00",
        "latin": b"\xff" + TABLE.encode(),
        "utf-16": TABLE.encode("utf-16"),
        "more fields": f"{TABLE}1,b1,best,0.3,0.2,7,8,9\n",
        "open quotes": f'{head}\n0,"a1,best,0.3,0.2\n',
        "two columns of a name": TABLE.replace("MODEL.DROPOUT", "co-bps"),
        "two columns of ids": TABLE.replace("MODEL.DROPOUT", "trial_id"),
        "id a path": TABLE.replace("a1", "../../a1"),
        "id empty": TABLE.replace("a1", ""),
        "id starred": TABLE.replace("a1", "*"),
        "id long": TABLE.replace("a1", "a" * 300),
        "id hidden": TABLE.replace("a1", ".a"),
        "id of control": TABLE.replace("a1", "a\x07"),
        "snapshot unknown": TABLE.replace("best", "worst"),
        "snapshot a path": TABLE.replace("best", "../x"),
        "twice": f"{TABLE}{row}\n",
        "wide": "," * 100_000 + "\n",
        "wide and deep": ("," * 1900 + "\n") * 12_000,
        "a long line": "x" * 2**21,
        "many lines": "\n" * 11_000_000,
        "another separator": TABLE.replace(",", ";"),
        "JSON": "{}",
        "large": "x,y\n" * 2**24 + "z" * 2**23,
    }


def _legacy(content: Any) -> bytes:
    held = io.BytesIO()
    torch.save(content, held, _use_new_zipfile_serialization=False)
    return held.getvalue()


def saved(content: Any, protocol: int = 2) -> bytes:
    held = io.BytesIO()
    torch.save(content, held, pickle_protocol=protocol)
    return held.getvalue()


def _repacked(raw: bytes, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(held, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)), method)
    return held.getvalue()


def _nested(depth: int) -> dict[str, Any]:
    """Small as long as what is shared counts once."""
    inner: dict[str, Any] = {"x": 1}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return inner


def _circular() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["a"] = content
    return content


def pickles(wrap: Callable[[Any], Any]) -> dict[str, bytes]:
    """Checkpoints; `wrap` puts a tensor or whatever else where a program has its weights."""
    one = torch.ones(4)
    plain = saved(wrap(one))
    return {
        "empty": b"",
        "text": b"hello",
        "half": plain[: len(plain) // 2],
        "a zip": zipped({"a": b"b"}),
        "noise": torch.rand(500).numpy().tobytes(),
        "evil": saved(wrap(Evil())),
        "evil, protocol 4": saved(wrap(Evil()), 4),
        "evil, old form": _legacy(wrap(Evil())),
        "evil alone": pickle.dumps(Evil()),
        "large buffer": saved(wrap(Large())),
        "large buffer, old form": _legacy(wrap(Large())),
        "large buffer, protocol 4": saved(wrap(Large()), 4),
        "a list": saved([1, 2]),
        "a number": saved(3),
        "nothing": saved({}),
        "a tensor alone": saved(one),
        "NaN": saved(wrap(torch.full((4,), float("nan")))),
        "infinite": saved(wrap(one * float("inf"))),
        "stretched": saved(wrap(torch.ones(1).expand(2**33))),
        "stretched, old form": _legacy(wrap(torch.ones(1).expand(2**33))),
        "stretched square": saved(wrap(torch.ones(2).as_strided((2**20, 2**20), (0, 0)))),
        "overlapping": saved(wrap(torch.ones(2**12).as_strided((2**11, 2**11), (1, 1)))),
        "sparse": saved(wrap(torch.sparse_coo_tensor([[0], [0]], [1.0], (2**30, 2**30), check_invariants=False))),
        "complex": saved(wrap(one.to(torch.complex64))),
        "quantised": saved(wrap(torch.quantize_per_tensor(one, 0.1, 0, torch.qint8))),
        "on no device": saved(wrap(torch.ones(2**30, device="meta"))),
        "not a tensor": saved(wrap("x")),
        "in itself": saved(_circular()),
        "swollen": saved({"config": _nested(60), "x": 1}),
        "storage gone": _repacked(plain, lambda name, raw: b"" if "/data/0" in name else raw),
        "storage short": _repacked(plain, lambda name, raw: raw[:3] if "/data/0" in name else raw),
        "storage a bomb": _repacked(
            plain, lambda name, raw: bytes(2**28) if "/data/0" in name else raw, zipfile.ZIP_DEFLATED
        ),
        "pickle a bomb": _repacked(
            plain,
            lambda name, raw: b"\x80\x02" + b"N0" * 2**26 + b"N." if name.endswith(".pkl") else raw,
            zipfile.ZIP_DEFLATED,
        ),
        "many words": _repacked(
            plain, lambda name, raw: b"\x80\x02" + b"N0" * 2**21 + b"N." if name.endswith(".pkl") else raw
        ),
        "no pickle": _repacked(plain, lambda name, raw: b"" if name.endswith(".pkl") else raw),
        "a long number": _repacked(
            plain, lambda name, raw: b"\x80\x02L" + b"9" * 10**5 + b"L\n." if name.endswith(".pkl") else raw
        ),
        "numel lies": _repacked(
            plain, lambda name, raw: raw.replace(b"K\x04", b"J\xff\xff\xff\x7f") if name.endswith(".pkl") else raw
        ),
    }


def safetensors(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def snapshots() -> dict[str, bytes]:
    def told(structure: Any, **tensors: Any) -> dict[str, Any]:
        return {
            "__metadata__": {"concert": structure if isinstance(structure, str) else json.dumps(structure)},
            **tensors,
        }

    four = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    state: dict[str, Any] = {
        "family": "ndt",
        "settings": {},
        "weights": {"network": {}, "length": 3, "units": 3, "max_spikes": 3},
    }
    return {
        "empty": b"",
        "short": b"\x01",
        "text": b"hello world",
        "no header": safetensors(b""),
        "no JSON": safetensors(b"{"),
        "header beyond": safetensors(b"{}", length=2**40),
        "header of a terabyte": safetensors(b"{}", length=2**63),
        "no metadata": safetensors({}),
        "no structure": safetensors({"__metadata__": {"x": "y"}}),
        "structure no JSON": safetensors(told("{")),
        "structure a list": safetensors(told([1])),
        "structure deep": safetensors(told("[" * 5000 + "]" * 5000)),
        "structure large": safetensors(told("[" + "1," * 600_000 + "1]")),
        "digits": safetensors(told('{"family": ' + "9" * 9000 + "}")),
        "shape lies": safetensors(told(state, a={**four, "shape": [2**40]}), bytes(16)),
        "shape negative": safetensors(told(state, a={**four, "shape": [-4]}), bytes(16)),
        "offsets beyond": safetensors(told(state, a={**four, "data_offsets": [0, 2**40]}), bytes(16)),
        "offsets overlap": safetensors(told(state, a=four, b=four), bytes(16)),
        "offsets backwards": safetensors(told(state, a={**four, "data_offsets": [16, 0]}), bytes(16)),
        "type": safetensors(told(state, a={**four, "dtype": "F31"}), bytes(16)),
        "too short": safetensors(told(state, a=four), bytes(8)),
        "too long": safetensors(told(state, a=four), bytes(99)),
        "no such tensor": safetensors(told({"family": {"__tensor__": "x"}})),
        "tensor of a list": safetensors(told({"family": {"__tensor__": [1]}})),
        "one tensor, many places": safetensors(told({"family": [{"__tensor__": "a"}] * 9}, a=four), bytes(16)),
        "no family": safetensors(told({"settings": {}, "weights": {}})),
        "another family": safetensors(told({**state, "family": "xtcav"})),
        "family a list": safetensors(told({**state, "family": []})),
        "no weights": safetensors(told({"family": "ndt", "settings": {}})),
        "weights a list": safetensors(told({**state, "weights": [1]})),
        "settings a list": safetensors(told({**state, "settings": [1]})),
        "settings unknown": safetensors(told({**state, "settings": {"x": 1}})),
        "layers": safetensors(told({**state, "settings": {"MODEL.NUM_LAYERS": 10**9}})),
        "length": safetensors(told({**state, "weights": {**state["weights"], "length": 10**9}})),
        "length of text": safetensors(told({**state, "weights": {**state["weights"], "length": "x"}})),
        "units": safetensors(told({**state, "weights": {**state["weights"], "units": -1}})),
        "units huge": safetensors(told({**state, "weights": {**state["weights"], "units": 10**15}})),
        "no tensors": safetensors(told(state)),
        "NaN": safetensors(told('{"family": "ndt", "settings": {}, "weights": {"length": NaN}}')),
    }


def cases(spikes: Path) -> Iterator[Case]:
    for name, raw in zips().items():
        yield Case(
            "zip archives: import",
            name,
            lambda folder, raw=raw: _of_file(
                folder, "x.zip", raw, lambda file: ensembles(["import", file, "--family", "ndt"])
            ),
        )
        if name not in (
            "no table",
            "a folder of a bad name",
            "hidden folder",
            "table at the top",
            "no checkpoint",
            "wrong checkpoint",
        ):
            yield Case(
                "zip archives: download",
                name,
                lambda folder, raw=raw: _of_file(
                    folder,
                    "x.zip",
                    raw,
                    lambda file: download(
                        ["checkpoints", "--from-file", file, "--quiet", "--root", str(Path(file).parent)]
                    ),
                ),
            )
    for name, text in tables().items():
        yield Case("tables: warm start", name, lambda folder, text=text: _warm(spikes, folder, text))
        yield Case("tables: import", name, lambda folder, text=text: _imported(folder, text, b"x"))

    def original(tensor: Any) -> dict[str, Any]:
        return {"state_dict": {"a": tensor}, "config": {}, "max_spikes": 3, "num_neurons": 142, "trial_length": 180}

    for name, raw in pickles(original).items():
        yield Case(
            "pickles: ndt",
            name,
            lambda folder, raw=raw: _of_file(
                folder, "x.pth", raw, lambda file: ndt(["checkpoint", file, "--dataset", "mc_maze_small"])
            ),
        )
        if name in ("evil", "large buffer", "stretched", "storage a bomb", "in itself", "half", "NaN"):
            yield Case("pickles: import", name, lambda folder, raw=raw: _imported(folder, TABLE, raw))
    for name, raw in pickles(lambda tensor: {"model_state": {"a": tensor}, "epoch": 3}).items():
        yield Case(
            "pickles: cellspike",
            name,
            lambda folder, raw=raw: _of_file(folder, "x.pth", raw, lambda file: _read(load_cellspike, file)),
        )
    for name, raw in pickles(lambda tensor: {"model": {"a": tensor}}).items():
        yield Case(
            "pickles: cellnet",
            name,
            lambda folder, raw=raw: _of_file(
                folder, "checkpoint_001.pth.tar", raw, lambda file: _read(read_cellnet, file)
            ),
        )
    for name, raw in snapshots().items():
        yield Case(
            "safetensors",
            name,
            lambda folder, raw=raw: _of_file(
                folder,
                "best.safetensors",
                raw,
                lambda file: _read(lambda path: restore(get("ndt"), path, Place()), file),
            ),
        )
    fields = {
        "max_spikes": ["x", -1, 2.5, float("inf"), None, 10**30],
        "num_neurons": ["x", 0, -3, 7, 10**30],
        "trial_length": [0, 3, "x", 1e300],
        "config": [
            [1],
            "x",
            {"MODEL": {"NUM_LAYERS": 10**9}},
            {"MODEL": {"NUM_LAYERS": "x"}},
            {"MODEL": {"HIDDEN_SIZE": 10**9}},
            {"SEED": "x"},
            {"MODEL": {"TRIAL_LENGTH": "x"}},
        ],
        "state_dict": [[1], "x", {1: 2}, {}],
    }
    for field, values in fields.items():
        for value in values:
            raw = saved({**original(torch.ones(4)), field: value})
            yield Case(
                "checkpoint fields: ndt",
                f"{field} {value!r}"[:40],
                lambda folder, raw=raw: _of_file(
                    folder, "x.pth", raw, lambda file: ndt(["checkpoint", file, "--dataset", "mc_maze_small"])
                ),
            )


def _read(read: Callable[[Path], Any], file: str) -> int:
    """A reader that no command calls with a file alone."""

    def call() -> int:
        read(Path(file))
        raise BadInput.__base__("it was taken")  # type: ignore[misc]

    return run_command("reader", call)


def _of_file(folder: Path, name: str, raw: bytes, call: Callable[[str], int]) -> Callable[[], int]:
    (folder / name).write_bytes(raw)
    return partial(call, str(folder / name))


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _warm(spikes: Path, folder: Path, text: str | bytes) -> Callable[[], int]:
    raw = _raw(text).replace(b"MODEL.DROPOUT", b"MODEL.DROPOUT,TRAIN.LR.INIT").replace(b"0.2\n", b"5,0.005\n")
    (folder / "models.csv").write_bytes(raw)
    return search(spikes, folder, "--warm-start", str(folder / "models.csv"))


def _imported(folder: Path, text: str | bytes, checkpoint: bytes) -> Callable[[], int]:
    place = folder / "mc_maze_small"
    place.mkdir()
    (place / "models.csv").write_bytes(_raw(text))
    (place / "a1.best.pth").write_bytes(checkpoint)
    return partial(ensembles, ["import", str(folder), "--family", "ndt"])
