"""Crops of cells in a folder: sharded HDF5 of our own, or tiled PNGs as DeepProfiler wrote them.

    store.json                   what there is; the folder is whole once this is there
    sc-metadata.csv              a row a cell; who drops rows or changes the split edits this
    shards/cells-00000.h5        crops (n, C, box, box) uint8 or uint16, not compressed; metadata: its rows of the table
    PLATE/WELL/SITE/TARGET@XxY.png   in place of the shards: grey, channel k in columns [k box, (k + 1) box)

A row of the table says where its crop is by Shard and Row, or by Image_Name. Without a store.json a folder is
DeepProfiler's, in any of its three layouts.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from ground.documents import read_json, regular
from ground.errors import BadInput
from ground.files import sha256
from ground.hdf5 import reading_hdf5
from ground.schemas import Natural, Schema, checked
from models.cellprofiler import images
from models.cellprofiler.project import LOCATION_COLUMNS, SITE_COLUMNS

META = "sc-metadata.csv"
STORE = "store.json"
FIRST = ("Key", *SITE_COLUMNS, *LOCATION_COLUMNS, "Target", "Class_Name", "Split", "Image_Name")
"""The columns that every table has."""
PLACE = ("Shard", "Row")
_FORMAT = "concert cells 1"
_OPEN = 64  # shards that are kept open
_THREADS = 4  # that read PNGs
_STATUS = "Training_Status"


class _Says(Schema):
    """store.json."""

    format: Literal["concert cells 1"]
    kind: Literal["hdf5", "png"]
    channels: list[str] = Field(min_length=1)
    classes: list[str] = Field(min_length=1)
    box: int = Field(ge=1, le=4096)
    dtype: Literal["uint8", "uint16", "float32"]
    shards: list[Natural]
    pixels: str


def shard_name(number: int) -> str:
    return f"shards/cells-{number:05d}.h5"


def description(about: Mapping[str, Any]) -> dict[str, Any]:
    """What store.json says."""
    return {"format": _FORMAT, **about}


class CropStore:
    """A folder of crops, open for reading.

    Attributes:
        folder: where.
        channels: their names; of a folder without store.json, numbers from 0.
        box: the side of a crop, pixels.
        dtype: of the pixels.
        classes: names of the classes, `Target` counts in them.
        table: a row a cell, in the store's order: Key, Metadata_Plate, Metadata_Well, Metadata_Site, the two location
            columns (float64, NaN where unknown), Target (int64), Class_Name, Split, Image_Name, and all other columns
            of the table; text where nothing else is said.
        about: what store.json says, empty without one.
    """

    def __init__(self, folder: Path, table: pd.DataFrame, places: pd.DataFrame | None, about: dict[str, Any]) -> None:
        self.folder, self.about, self.table = folder, about, table
        self._meta = folder / META
        self._shard = self._row = np.empty(0, np.int64)
        self._open: OrderedDict[int, tuple[int, int, int]] = OrderedDict()
        self._lock = threading.Lock()  # a shard may be closed for another's sake
        if places is not None:
            self._shard, self._row = (places[name].to_numpy(np.int64) for name in PLACE)
        if about:
            self.channels: tuple[str, ...] = tuple(about["channels"])
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.box, self.dtype = int(about["box"]), np.dtype(about["dtype"])
        else:
            first = _first_image(folder, table["Image_Name"])
            self.channels = tuple(map(str, range(first.width // first.height)))
            self.classes = tuple(sorted(set(table["Class_Name"])))
            self.box, self.dtype = first.height, np.dtype(first.dtype)
        self._shape = (len(self.channels), self.box, self.box)

    @classmethod
    def open(cls, folder: Path, metadata: str = META) -> CropStore:
        """Read the table of a folder of crops.

        Args:
            folder: where.
            metadata: the table's file in it; also one with Class_Name, Image_Name and Training_Status alone.

        Raises:
            BadInput: no such folder or table, a store that was never finished, or a table that lacks what is needed.
        """
        folder = Path(folder)
        about: dict[str, Any] = {}
        if os.path.lexists(folder / STORE):
            about = checked(_Says, read_json(folder / STORE), folder / STORE).model_dump()
        elif (folder / "plan.json").exists():
            raise BadInput(f"{folder}: its sampling was not finished; the same command of `sample` goes on")
        path = folder / metadata
        table = _table(path)
        places = None
        if about.get("kind") == "hdf5":
            missing = [name for name in PLACE if name not in table]
            if missing:
                raise BadInput(f"{path}: has no column {missing[0]}, which says where a crop is")
            places = _places(path, table, about["shards"])
            table = table.drop(columns=list(PLACE))
        found = cls(folder, _complete(path, table, about.get("classes")), places, about)
        found._meta = path
        return found

    def __len__(self) -> int:
        return len(self.table)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, box, box) the crops of rows of the table, in any order, as often as they are named.

        Raises:
            BadInput: a shard or an image is missing, damaged or of another shape.
        """
        rows = np.asarray(rows, np.int64).reshape(-1)
        out = np.empty((len(rows), *self._shape), self.dtype)
        if not len(self._shard):
            self._read_images(rows, out)
            return out
        shards, places = self._shard[rows], self._row[rows]
        order = np.lexsort((places, shards))
        for part in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(rows) else []:
            with self._lock:
                self._read_shard(int(shards[part[0]]), places[part], part, out)
        return out

    def _read_shard(self, shard: int, places: np.ndarray, to: np.ndarray, out: np.ndarray) -> None:
        """Ascending places of a shard; those that follow one another are one read where they go side by side."""
        handle, offset = self._handle(shard)
        size = out[0].nbytes
        view = memoryview(out.data).cast("B")
        breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(to) != 1)) + 1
        edges = [0, *breaks.tolist(), len(places)]
        for begin, end in itertools.pairwise(edges):
            target = view[int(to[begin]) * size : (int(to[begin]) + end - begin) * size]
            at = offset + int(places[begin]) * size
            while target:
                got = os.preadv(handle, [target], at)
                if not got:
                    raise BadInput(f"{self.folder / shard_name(shard)}: is shorter than it was")
                target, at = target[got:], at + got

    def _handle(self, shard: int) -> tuple[int, int]:
        """A shard's open file, and where in it the crops begin."""
        mine = os.getpid()
        if shard in self._open and self._open[shard][2] == mine:
            self._open.move_to_end(shard)
            return self._open[shard][:2]
        path = self.folder / shard_name(shard)
        with reading_hdf5(path) as file:
            crops = file.get("crops")
            shape = (self.about["shards"][shard], *self._shape)
            offset = None if crops is None else crops.id.get_offset()
            if offset is None or crops.shape != shape or crops.dtype != self.dtype:
                raise BadInput(f"{path}: its crops are not those that {STORE} tells of; sample again")
        self._open[shard] = (os.open(path, os.O_RDONLY), offset, mine)
        while len(self._open) > _OPEN:
            self._close(self._open.popitem(last=False)[1])
        return self._open[shard][:2]

    def _read_images(self, rows: np.ndarray, out: np.ndarray) -> None:
        names = self.table["Image_Name"].to_numpy()
        unique, inverse = np.unique(rows, return_inverse=True)
        first = np.full(len(unique), -1)
        first[inverse[::-1]] = np.arange(len(rows))[::-1]
        for_all = [(int(to), self.folder / names[row]) for row, to in zip(unique, first, strict=True)]
        if len(for_all) < 8:
            for to, path in for_all:
                self._read_image(to, path, out)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda task: self._read_image(task[0], task[1], out), for_all))
        again = np.flatnonzero(first[inverse] != np.arange(len(rows)))
        out[again] = out[first[inverse[again]]]

    def _read_image(self, to: int, path: Path, out: np.ndarray) -> None:
        strip = images.read(path)
        channels, box, _ = self._shape
        if strip.shape != (box, box * channels) or strip.dtype != self.dtype:
            found = f"{strip.shape[1]} x {strip.shape[0]} of {strip.dtype}"
            raise BadInput(f"{path}: {found}, not {channels} channels of {box} x {box} of {self.dtype}")
        out[to] = strip.reshape(box, channels, box).transpose(1, 0, 2)

    def by_shard(self) -> Iterator[np.ndarray]:
        """Rows of the table by where their crops are, all of them in turn, in the order of reading."""
        if not len(self._shard):
            yield np.arange(len(self))
            return
        order = np.lexsort((self._row, self._shard))
        yield from np.split(order, np.flatnonzero(np.diff(self._shard[order])) + 1)

    def digest(self) -> str:
        """What tells this store from others: of its table and, with a store.json, of all pixels."""
        return hashlib.sha256(f"{sha256(self._meta)} {self.about.get('pixels', '')}".encode()).hexdigest()[:16]

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])

    def _close(self, entry: tuple[int, int, int]) -> None:
        if entry[2] == os.getpid():
            os.close(entry[0])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=OrderedDict(), _lock=threading.Lock())

    def __del__(self) -> None:
        if "_open" in self.__dict__:
            self.close()


def _first_image(folder: Path, names: Iterable[str]) -> images.Header:
    """Of the first of some images that can be read; some may be missing.

    Raises:
        BadInput: none can be read, or it is no row of square channels.
    """
    why = None
    for name in names:
        try:
            found = images.header(folder / name)
        except BadInput as error:
            why = why or error
            continue
        if found.width % found.height:
            raise BadInput(f"{folder / name}: is no row of square channels")
        return found
    assert why is not None
    raise why


def _table(path: Path) -> pd.DataFrame:
    """A table, text in all columns; a text that repeats is kept once."""
    try:
        regular(path)
        named = pd.read_csv(path, nrows=0).columns
        kinds = {name: object if name == "Image_Name" else "category" for name in named}
        kinds |= dict.fromkeys((*LOCATION_COLUMNS, "Target", *PLACE), str)
        table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{path}: not a table ({' '.join(str(error).split())[:100]})") from None
    if "Image_Name" not in table or "Class_Name" not in table:
        raise BadInput(f"{path}: has no column {'Class_Name' if 'Image_Name' in table else 'Image_Name'}")
    if not len(table):
        raise BadInput(f"{path}: has no cell")
    return table.astype({name: object for name in table.columns if name not in (*LOCATION_COLUMNS, "Target", *PLACE)})


def _places(path: Path, table: pd.DataFrame, shards: list[int]) -> pd.DataFrame:
    places = table[list(PLACE)].apply(pd.to_numeric, errors="coerce").fillna(-1).astype(np.int64)
    shard, row = (places[name].to_numpy() for name in PLACE)
    sizes = np.array([*shards, 0])
    wrong = (shard < 0) | (shard >= len(shards)) | (row < 0)
    wrong |= row >= sizes[np.where(wrong, -1, shard)]
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        named = f"row {table['Row'].iloc[line]} of shard {table['Shard'].iloc[line]}"
        raise BadInput(f"{path}, line {line + 2}: there is no {named}")
    return places


def _complete(path: Path, table: pd.DataFrame, classes: list[str] | None) -> pd.DataFrame:
    """The columns that every table has, made from what is there."""
    names = tuple(classes) if classes else tuple(sorted(set(table["Class_Name"])))
    codes = pd.Index(names).get_indexer(table["Class_Name"])
    if (codes < 0).any():
        line = int(np.flatnonzero(codes < 0)[0])
        raise BadInput(f"{path}, line {line + 2}: {table['Class_Name'].iloc[line]!r} is none of the store's classes")
    table["Target"] = codes.astype(np.int64)
    for name in LOCATION_COLUMNS:
        table[name] = pd.to_numeric(table[name], errors="coerce") if name in table else np.nan
    if "Split" not in table:
        table["Split"] = table.get(_STATUS, "")
    if any(name not in table for name in SITE_COLUMNS):
        keys = table["Key"] if "Key" in table else table["Image_Name"].map(_key_of)
        parts = {key: _parts(path, key) for key in keys.unique()}
        for place, name in enumerate(SITE_COLUMNS):
            table[name] = keys.map({key: part[place] for key, part in parts.items()})
    table["Key"] = table[SITE_COLUMNS[0]] + "/" + table[SITE_COLUMNS[1]] + "/" + table[SITE_COLUMNS[2]]
    return table[[*FIRST, *(name for name in table.columns if name not in FIRST)]].reset_index(drop=True)


def _key_of(name: str) -> str:
    """The site in an image's name: plate-well-site+target@XxY.png, or plate/well/site/target@XxY.png."""
    return name.rpartition("+")[0] if "+" in name.rpartition("/")[2] else name.rpartition("/")[0]


def _parts(path: Path, key: str) -> tuple[str, str, str]:
    """Plate, well and site of a key, whose separators were `-` and `/`: a plate's own hyphens became `/`, too."""
    parts = key.split("/") if key.count("/") == 2 else key.replace("-", "/").split("/")
    if len(parts) < 3 or not all(parts):
        raise BadInput(f"{path}: {key!r} does not say plate, well and site")
    return "-".join(parts[:-2]), parts[-2], parts[-1]
