"""The data of a study: training, validation and test events of xy files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.paths import expanded
from models.cellnet.events import Events, Store
from models.cellnet.files import described, found, numbered, parts
from models.cellnet.metrics import is_real
from models.cellnet.names import parse
from models.cellnet.options import PARTS, Options, resolve

_TAIL = 1 << 16


@dataclass(frozen=True)
class CellData:
    """A lazy handle.

    Attributes:
        options: the data block.
        source: what to call it.
        train, val, test: the parts.
        eval: the events that predictions are made for.
    """

    options: Options
    source: str
    train: Events
    val: Events
    test: Events
    eval: Events

    def with_eval(self, events: Events) -> CellData:
        """The same with other events to predict."""
        return replace(self, eval=events)


def own_block(path: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What `--data path` means: the block with a folder, glob or file of xy files.

    Raises:
        BadInput: there is none.
    """
    found(path)
    kept = {k: v for k, v in block.items() if k not in ("generator", "options", "path")}
    return {**kept, "path": str(expanded(path).absolute())}


def _paths(options: Options) -> tuple[tuple[str, ...], str]:
    """The paths of a block and what to call them; generated where it says so."""
    if not options.generator:
        return options.path, ", ".join(options.path)
    from models.cellnet.generate import demo  # what tiles is compiled: not for those who only read

    place = demo(options.options)
    return (str(place),), f"generated LArTPC events ({place.parent.name})"


def load(config: Mapping[str, Any], phase: str) -> CellData:
    """Find the files of each part; what is in them is read as it is used.

    Args:
        phase: "val" or "test": which part is predicted.

    Raises:
        BadInput: nothing usable, or no test part in phase "test".
    """
    options = resolve(config)
    paths, source = _paths(options)
    store = Store(options.cache_mb * 2**20)
    part = {name: Events(files, store, source) for name, files in parts(options, paths, source).items()}
    if phase == "test" and not len(part["test"]):
        raise BadInput(
            f"{source}: the data block keeps no test events (data key {'test' if options.ranged else 'split'})"
        )
    return CellData(
        options, source, part["train"], part["val"], part["test"], part["test" if phase == "test" else "val"]
    )


def open_files(path: str) -> CellData:
    """All events of files that a user hands over, in the order of full paths.

    Raises:
        BadInput: there is no xy file.
    """
    files = [described(file, 0, parse(file)) for file in sorted(found(path), key=str)]
    options = resolve({"path": path})
    store = Store(options.cache_mb * 2**20)
    none = Events([], store, path)
    return CellData(options, path, none, none, none, Events(numbered(files), store, path))


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of the files that a block means and of what it makes of them.

    Of each file its name, its size and its end, where an npz archive keeps the checksums of its arrays.
    """
    options = resolve(config)
    paths, source = _paths(options)
    meaning = {k: v for k, v in asdict(options).items() if k not in ("path", "cache_mb")}
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    chosen = parts(options, paths, source)
    for part in PARTS:
        for file in chosen[part]:
            size = file.path.stat().st_size
            with open(file.path, "rb") as content:
                content.seek(max(0, size - _TAIL))
                digest.update(repr((part, file.path.name, size)).encode() + content.read())
    return digest.hexdigest()


def truth_arrays(data: CellData) -> dict[str, np.ndarray]:
    """`y` (N,) float32 of each evaluated row, `event` (N,) int64 which of the evaluated events it is of, `id` (events,)
    int64 the number of each event among all of its part.

    Raises:
        BadInput: a file holds no truth.
    """
    y, event, begin = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)], 0
    for file in data.eval.files:
        voxels = data.eval.voxels(file)
        if voxels.y is None:
            raise BadInput(f"{file.path}: holds no truth (Y) to score against")
        y.append(voxels.y * np.float32(data.options.transforms.truth_factor(file.folder)))
        event.append(voxels.event.astype(np.int64) + begin)
        begin += len(file.numbers)
    return {"y": np.concatenate(y), "event": np.concatenate(event), "id": data.eval.ids}


def counted(data: CellData, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(events,) voxels and real voxels of each evaluated event; without truth none is real."""
    every, real = [], []
    for file in data.eval.files:
        voxels, events = data.eval.voxels(file), len(file.numbers)
        every.append(np.bincount(voxels.event, minlength=events))
        if voxels.y is None:
            real.append(np.zeros(events, np.int64))
            continue
        factor = np.float32(data.options.transforms.truth_factor(file.folder))
        real.append(np.bincount(voxels.event[is_real(voxels.y * factor, threshold)], minlength=events))
    return np.concatenate(every), np.concatenate(real)


def all_true(data: CellData, threshold: float) -> np.ndarray | None:
    """(events,) real voxels of each evaluated event, inactive ones too; None where a file does not tell."""
    out = []
    for file in data.eval.files:
        truth = data.eval.voxels(file, full=True).truth
        if not truth:
            return None
        factor = np.float32(data.options.transforms.truth_factor(file.folder))
        out += [int(is_real(event[:, 3] * factor, threshold).sum()) for event in truth]
    return np.array(out)
