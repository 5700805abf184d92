"""What a file of voltage traces is: which world it comes from and what its metadata say, checked against its arrays.

Worlds: packs of ONTRA, one cell a file or many cells shuffled together (metadata in a YAML beside the file or in
`meta.JSON` within); BBP3's `mlPack1`; experimental sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ground import hdf5
from ground.documents import parse_json
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.cellspike.packs import SPLITS, Pack, Split, dataset_of
from models.cellspike.units import Units
from models.cellspike.yamls import read_yaml

Ranges = Literal["auto", "centred", "ranged"]
LINEAR = ("cm_somatic", "cm_axonal", "cm_all", "e_pas_all")
"""Parameters that files since 2024 vary linearly; they say so by these names only."""
_SUFFIX = ".data.h5"
_EXPERIMENT = "exper_frames"
_MLPACK: Mapping[Split, str] = {"train": "train", "val": "valid", "test": "test"}
_PROOF = 32  # rows that tell conventions apart, or metadata from arrays
_AXES = {"cell": 1, "efel": 4, "stim": 3}
_CLOSE = 2e-3  # relative: half precision keeps three digits


def open_pack(path: Path, ranges: Ranges = "auto", meta: Path | None = None) -> Pack:
    """What a file holds.

    Args:
        path: an HDF5 file of any world.
        ranges: what `phys_par_range` of an mlPack1 means; "auto" asks its physical parameters.
        meta: a training meta YAML, where it does not lie beside the file.

    Raises:
        BadInput: it is no such file, its shapes are wrong, or metadata and arrays disagree.
    """
    with reading_hdf5(path) as file:
        try:
            if _EXPERIMENT in file:
                return _experiment(path, file, meta)
            if any(f"{name}_volts_norm" in file for name in _MLPACK.values()):
                return _mlpack1(path, file, ranges)
            if any(f"{name}_frames" in file for name in SPLITS):
                return _ontra(path, file, meta)
        except BadInput as error:
            raise error if str(path) in str(error) else BadInput(f"{path}: {error}") from None
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            line = f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
            raise BadInput(f"{path}: its metadata cannot be used ({line})") from None
        raw = "frames" in file or "voltages" in file
    hint = "; these are raw traces: pack them first (python -m models.cellspike pack)" if raw else ""
    raise BadInput(f"{path}: holds neither *_frames, *_volts_norm nor exper_frames{hint}")


# ---- ONTRA


def _ontra(path: Path, file: h5py.File, meta: Path | None) -> Pack:
    keys = {split: _keys(file, split, "frames", ("unitStar", "unit")) for split in SPLITS if f"{split}_frames" in file}
    sizes, shape, dtype, columns = _shapes(path, file, keys, 3)
    inside, own, training = _inside(file), _beside(path), _training_meta(path, meta)
    pack = own.get("packInfo") or {}
    table = next(
        (found["conductName"] for found in (pack, inside, training.get("dataInfo") or {}) if found.get("conductName")),
        None,
    )
    info = {name: v for told in (training, inside, own) for name, v in (told.get("dataInfo") or {}).items()}
    names = _names(path, [str(row[1]) for row in table] if table else info.get("parName"), columns)
    cells = tuple(str(name) for name in inside.get("cellNameList") or ())
    units, whole = _ontra_units(path, names, table, own, pack) if table else (None, False)
    probes, named = _probes(path, info.get("featureName") or [p[1] for p in pack.get("probeName") or ()], shape[2])
    split = info.get("cellSplit") or {}
    if not all(isinstance(info.get(k, n), int) and info.get(k, n) == n for k, n in (("numTimeBin", shape[1]),)):
        raise BadInput(f"{path}: {shape[1]} time bins, its meta says {info['numTimeBin']} (numTimeBin)")
    axis = (own.get("rawInfo") or {}).get("timeAxis") or inside.get("timeAxis") or {}
    found = Pack(
        path=path,
        world="ontra",
        names=names,
        probes=probes,
        stims=(str((own.get("rawInfo") or {}).get("stimName", "stim_0")),),
        named=named,
        bins=shape[1],
        step_ms=float(axis.get("step", 200.0 / shape[1])),
        units=units,
        cell_names=cells or (_cell(path),),
        whole_units=whole,
        sizes=sizes,
        keys=keys,
        dtype=dtype,
        witness=tuple(str(name) for name in split.get("witness") or ()),
    )
    _agree(found)
    return found


def _ontra_units(
    path: Path, names: Sequence[str], table: Sequence[Sequence[Any]], own: Mapping[str, Any], pack: Mapping[str, Any]
) -> tuple[Units, bool]:
    """What unit parameters mean, and whether the cell's own ranges are known.

    Without those only u* has a meaning: p = 10^(u* delP + centP).
    """
    cent, delta = ([float(row[i]) for row in table] for i in (2, 3))
    ranges = (own.get("rawInfo") or {}).get("physRange")
    if not ranges:
        with np.errstate(over="ignore"):
            centre = 10.0 ** np.array(cent)
        zeros = np.zeros(len(names))
        blank = ("",) * len(names)
        return Units(tuple(names), zeros, zeros + 1, centre, np.array(delta), zeros, blank), False
    rows = [ranges[int(row[0])] for row in table]
    for row, name in zip(rows, names, strict=True):
        if str(row[0]) != name:
            raise BadInput(f"{path}: its meta's conductName {name} is {row[0]} in physRange")
    units = Units.ontra(names, [row[1:3] for row in rows], cent, delta)
    for key, mine in (("utrans_bias", units.bias), ("utrans_scale", units.scale)):
        told = pack.get(key)
        if told is not None and not np.allclose(np.asarray(told, float), mine, atol=2e-3):
            raise BadInput(f"{path}: {key} of its meta does not follow from physRange and conductName")
    return units, True


# ---- BBP3


def _mlpack1(path: Path, file: h5py.File, ranges: Ranges) -> Pack:
    keys = {
        split: _keys(file, stored, "volts_norm", ("unit",))
        for split, stored in _MLPACK.items()
        if f"{stored}_volts_norm" in file
    }
    sizes, shape, dtype, columns = _shapes(path, file, keys, 4)
    meta = _inside(file)
    if not meta:
        raise BadInput(f"{path}: has no meta.JSON, so nothing says what its parameters are")
    kept = [int(i) for i in meta.get("include") or range(len(meta["parName"]))]
    names = _names(path, [meta["parName"][i] for i in kept], columns)
    simulated = meta.get("simu_info") or {}
    probes, named = _probes(path, simulated.get("probe_names"), shape[2])
    stims = [str(name) for name in simulated.get("stim_names") or [f"stim_{i}" for i in range(shape[3])]]
    if len(stims) != shape[3]:
        raise BadInput(f"{path}: traces under {shape[3]} stimuli, meta.JSON names {len(stims)} (stim_names)")
    _no_overlap(path, meta, sizes)
    axis = meta.get("timeAxis") or {}
    units = _ranges(path, file, keys, names, kept, meta, ranges)
    found = Pack(
        path=path,
        world="mlpack1",
        names=names,
        probes=probes,
        stims=tuple(stims),
        named=named,
        bins=shape[1],
        step_ms=float(axis.get("step", 0.1)),
        units=units,
        cell_names=(str(meta.get("cell_name") or _cell(path)),),
        whole_units=True,
        sizes=sizes,
        keys=keys,
        dtype=dtype,
    )
    _agree(found)
    return found


def _ranges(
    path: Path,
    file: h5py.File,
    keys: Mapping[Split, Mapping[str, str]],
    names: Sequence[str],
    kept: Sequence[int],
    meta: Mapping[str, Any],
    ranges: Ranges,
) -> Units | None:
    """What `phys_par_range` means: what is asked for, or the one convention that gives the file's own conductances.

    Raises:
        BadInput: neither does, or both, and the file is to tell.
    """
    rows = meta.get("phys_par_range")
    if not rows:
        return None
    rows = [rows[i] for i in kept]
    candidates: dict[str, Units] = {}
    reasons = []
    for name in ("centred", "ranged") if ranges == "auto" else (ranges,):
        try:
            if name == "centred":
                linear = [kept.index(i) for i in meta.get("linearParIdx") or () if i in kept]
                candidates[name] = Units.centred(names, rows, linear)
            elif meta.get("base_values") is not None:
                base = [float(meta["base_values"][i]) for i in kept]
                candidates[name] = Units.ranged(names, rows, base, LINEAR)
            elif ranges == "ranged":
                raise BadInput("meta.JSON has no base_values, which ranges: ranged needs")
        except BadInput as error:
            reasons.append(str(error))
    if ranges != "auto":
        if not candidates:
            raise BadInput(f"{path}: {reasons[0]}")
        return candidates[ranges]
    keep = {name: units for name, units in candidates.items() if _gives(units, file, keys)}
    if len(keep) != 1:
        why = "both fit" if keep else "neither gives its phys_par"
        raise BadInput(f"{path}: phys_par_range may be centred or ranged ({why}); say which (data key ranges)")
    return next(iter(keep.values()))


def _gives(units: Units, file: h5py.File, keys: Mapping[Split, Mapping[str, str]]) -> bool:
    """Whether the units make a file's physical parameters of its unit parameters."""
    for key in keys.values():
        if "unit" in key and "phys" in key:
            unit, phys = (np.asarray(file[key[k]][:_PROOF], np.float64) for k in ("unit", "phys"))
            return bool(np.allclose(units.physical(unit), phys, rtol=_CLOSE, atol=0))
    return False


def _no_overlap(path: Path, meta: Mapping[str, Any], sizes: Mapping[Split, int]) -> None:
    """Refuse a pack that says that training rows are among its others: early packs of BBP3 leak so.

    `split_index` is [start, end] or [offset, length]; the arrays' rows tell which.
    """
    index = (meta.get("pack_info") or {}).get("split_index") or meta.get("split_index")
    if not index:
        return
    told = {s: [int(v) for v in index[_MLPACK[s]]] for s in sizes if _MLPACK[s] in index}
    if all(b - a == sizes[s] for s, (a, b) in told.items()):
        spans = {s: (a, b) for s, (a, b) in told.items()}
    elif all(b == sizes[s] for s, (a, b) in told.items()):
        spans = {s: (a, a + b) for s, (a, b) in told.items()}
    else:
        raise BadInput(f"{path}: split_index of meta.JSON is neither [start, end] nor [offset, length] of its arrays")
    for one in spans:
        for other in spans:
            (a, b), (c, d) = spans[one], spans[other]
            if one < other and max(a, c) < min(b, d):
                raise BadInput(
                    f"{path}: split_index says that rows {max(a, c)} to {min(b, d) - 1} are in {one} and in {other}: "
                    "a score on them would be of training rows"
                )


# ---- experimental sweeps


def _experiment(path: Path, file: h5py.File, meta: Path | None) -> Pack:
    keys: dict[Split, dict[str, str]] = {"test": {"frames": _EXPERIMENT}}
    meant = "(sweeps, bins, probes) is wanted"
    shape = hdf5.described(file, path, _EXPERIMENT, kinds="iuf", rank=3, filled=True, meant=meant).shape
    zeros = dataset_of(file, "exper_unitStar_par")
    training = _training_meta(path, meta)
    table = (training.get("dataInfo") or {}).get("conductName")
    names = tuple(str(row[1]) for row in table or ()) or tuple(
        f"par_{i}" for i in range(zeros.shape[1] if zeros is not None and zeros.ndim == 2 else 0)
    )
    time = dataset_of(file, "time")
    step = 200.0 / shape[1]
    if time is not None and time.ndim == 1 and len(time) > 1:
        step = float(np.diff(hdf5.described(file, path, "time")[:2])[0])
    probes, named = _probes(path, ["soma"] if shape[2] == 1 else None, shape[2])
    return Pack(
        path=path,
        world="experiment",
        names=names,
        probes=probes,
        stims=("stim_0",),
        named=named,
        bins=shape[1],
        step_ms=step,
        units=_ontra_units(path, names, table, {}, {})[0] if table else None,
        cell_names=(_cell(path),),
        whole_units=False,
        sizes={"test": shape[0]},
        keys=keys,
        dtype=_held(file[_EXPERIMENT].dtype),
    )


# ---- what the worlds share


def _keys(file: h5py.File, stored: str, frames: str, parameters: Sequence[str]) -> dict[str, str]:
    found = {"frames": f"{stored}_{frames}"}
    wanted = {f"{p}_par": "star" if p == "unitStar" else "unit" for p in parameters}
    wanted |= {"phys_par": "phys", "cell": "cell", "efel_features": "efel", "unit_stim_adjust": "stim"}
    found |= {key: f"{stored}_{name}" for name, key in wanted.items() if dataset_of(file, f"{stored}_{name}")}
    return found


def _held(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "iuf":
        raise BadInput(f"traces are of type {dtype}; numbers are wanted")
    # a native type that torch has, and no wider than the traces are worth
    return np.dtype(np.float32) if dtype.itemsize > 4 or dtype.kind == "u" else dtype.newbyteorder("=")


def _shapes(
    path: Path, file: h5py.File, keys: Mapping[Split, Mapping[str, str]], axes: int
) -> tuple[dict[Split, int], tuple[int, ...], np.dtype[Any], int]:
    """Rows of each split, the frames' shape, their type, the number of parameters; all splits must agree."""
    sizes: dict[Split, int] = {}
    shape: tuple[int, ...] | None = None
    columns: int | None = None
    for split, names in keys.items():
        wanted = "(rows, bins, probes" + (", stimuli)" if axes == 4 else ")")
        frames = hdf5.described(file, path, names["frames"], kinds="iuf", rank=axes, meant=f"{wanted} is wanted")
        if 0 in frames.shape[1:]:
            raise BadInput(f"{path}: {names['frames']} has shape {frames.shape}; {wanted} is wanted")
        if shape is not None and frames.shape[1:] != shape[1:]:
            raise BadInput(f"{path}: {names['frames']} has traces {frames.shape[1:]}, other splits {shape[1:]}")
        shape, sizes[split] = frames.shape, frames.shape[0]
        if "star" not in names and "unit" not in names:
            raise BadInput(f"{path}: {names['frames']} has no unit parameters beside it")
        for key, name in names.items():
            beside = hdf5.described(file, path, name, kinds="iu" if key == "cell" else hdf5.NUMBERS)
            if beside.shape[:1] != (sizes[split],):
                told = beside.shape[0] if beside.ndim else "no"
                raise BadInput(f"{path}: {name} has {told} rows, {names['frames']} {sizes[split]}")
            if _AXES.get(key, beside.ndim) != beside.ndim:
                raise BadInput(f"{path}: {name} has shape {beside.shape}; {_AXES[key]} axes are wanted")
            if key in ("star", "unit", "phys"):
                width = file[name].shape[1] if file[name].ndim == 2 else 0
                if not width or (columns is not None and width != columns):
                    raise BadInput(
                        f"{path}: {name} has the shape {file[name].shape}; (rows, {columns or 'P'}) is wanted"
                    )
                columns = width
    assert shape is not None and columns is not None
    return sizes, shape, _held(file[next(iter(keys.values()))["frames"]].dtype), columns


def _names(path: Path, told: Sequence[Any] | None, columns: int) -> tuple[str, ...]:
    names = tuple(str(name) for name in told) if told else tuple(f"par_{i}" for i in range(columns))
    if len(names) != columns:
        raise BadInput(f"{path}: {columns} parameters a row, but its meta names {len(names)} (conductName, parName)")
    if len(set(names)) < len(names):
        raise BadInput(f"{path}: its meta names a parameter twice")
    return names


def _probes(path: Path, told: Sequence[Any] | None, count: int) -> tuple[tuple[str, ...], bool]:
    if not told:
        return tuple(f"probe_{i}" for i in range(count)), False
    if len(told) != count:
        raise BadInput(f"{path}: traces of {count} probes, but its meta names {len(told)}")
    return tuple(str(name) for name in told), True


def _agree(pack: Pack) -> None:
    """Refuse a pack whose conductances are not what its meta makes of its unit parameters."""
    if pack.units is None:
        return
    for split in pack.sizes:
        key = pack.keys[split]
        if "phys" not in key or not pack.rows(split):
            continue
        some = slice(0, _PROOF)
        u = pack.unit(split, some) if pack.whole_units else pack.star(split, some)
        if u is None:
            continue
        told, made = pack.physical(split, some), pack.units.physical(u.astype(np.float64))
        assert told is not None
        wrong = ~np.isclose(made, told, rtol=1e-2, atol=1e-12)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise BadInput(
                f"{pack.path}: {key['phys']} row {row}, {pack.names[column]}, is {told[row, column]:g}; "
                f"its meta makes {made[row, column]:g} of the unit parameter"
            )


def _cell(path: Path) -> str:
    """The cell of a file that does not say: its name without what all files share."""
    name = path.name.split(".cellSpike")[0].split(".mlPack1")[0]
    return name.removesuffix(".h5").removesuffix("_excite").removesuffix("_inhib")


def _inside(file: h5py.File) -> dict[str, Any]:
    """`meta.JSON` of a file, {} where it has none."""
    if dataset_of(file, "meta.JSON") is None:
        return {}
    text = hdf5.text(file, Path(file.filename), "meta.JSON")
    content = parse_json(text, f"{file.filename}: meta.JSON", constants=True)
    if not isinstance(content, dict):
        raise BadInput(f"{file.filename}: meta.JSON is no mapping")
    return content


def _beside(path: Path) -> dict[str, Any]:
    """The YAML of a single pack."""
    place = path.with_name(path.name.removesuffix(_SUFFIX) + ".meta.yaml")
    return read_yaml(place) if path.name.endswith(_SUFFIX) and place.is_file() else {}


def _training_meta(path: Path, meta: Path | None) -> dict[str, Any]:
    """The YAML of all packs of a folder: of the same probe type, or the only one."""
    if meta is not None:
        return read_yaml(meta)
    _, _, kind = path.name.removesuffix(_SUFFIX).partition(".cellSpike_")
    same = path.with_name(f"meta.cellSpike_{kind}.yaml")
    if kind and same.is_file():
        return read_yaml(same)
    found = sorted(path.parent.glob("meta.cellSpike_*.yaml"))
    return read_yaml(found[0]) if len(found) == 1 else {}
