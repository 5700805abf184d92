"""Small packs in each world's format: decaying oscillations whose rates and depths follow the unit parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

NAMES = ("gNaT.som", "gK.som", "gIh.den")
CENT = np.array([-1.7516, -2.3441, 0.5493])
DELTA = np.array([1.1689, 1.9458, 1.0527])
BINS, PROBES = 48, ("soma", "axon_150um")
SIZES = {"train": 64, "val": 12, "test": 10}


def traces(ustar: np.ndarray, bins: int, probes: int, stims: int, rng: np.random.Generator) -> np.ndarray:
    """(n, bins, probes, stims) float32."""
    time = np.arange(bins)[None, :, None, None] / bins
    u = ustar[:, None, None, None, :]
    phase = np.arange(probes)[None, None, :, None] + 2 * np.arange(stims)[None, None, None, :]
    wave = np.sin((6 + 3 * u[..., 0]) * np.pi * time + phase) * np.exp(-(1 + u[..., 1]) * time) + u[..., 2] * time
    return (wave + rng.normal(0, 0.02, wave.shape)).astype(np.float32)


def ranges(cell: int) -> list[list[Any]]:
    """physRange of a cell: its own bases within the set's centres."""
    shift = 0.02 * cell
    base = 10.0 ** (CENT + np.array([shift, -shift, shift]))
    rows: list[list[Any]] = [[name, float(b) / 10, float(b) * 10] for name, b in zip(NAMES, base, strict=True)]
    return [rows[0], ["fixed.one", 0.0, 0.0], *rows[1:]]


def table() -> list[list[Any]]:
    return [[i, n, float(c), float(d)] for i, n, c, d in zip((0, 2, 3), NAMES, CENT, DELTA, strict=True)]


def ontra(
    folder: Path,
    cell: int = 0,
    sizes: Mapping[str, int] = SIZES,
    dtype: Any = np.float32,
    older: bool = False,
    meta: bool = True,
) -> Path:
    """A pack of one cell with the YAML beside it; `older`: with unit parameters u, not u*."""
    rng = np.random.default_rng([7, cell])
    path = folder / f"bbp{100 + cell}1_excite.cellSpike_2prT.data.h5"
    rows = ranges(cell)
    base = np.array([np.sqrt(rows[i][1] * rows[i][2]) for i in (0, 2, 3)])
    bias = CENT - np.log10(base)
    with h5py.File(path, "w") as file:
        for split, count in sizes.items():
            u = rng.uniform(-1, 1, (count, 3))
            star = (u - bias) / DELTA
            file[f"{split}_frames"] = traces(star, BINS, 2, 1, rng)[..., 0].astype(dtype)
            file[f"{split}_unit_par" if older else f"{split}_unitStar_par"] = (u if older else star).astype(np.float32)
            file[f"{split}_phys_par"] = (base * 10**u).astype(np.float32)
    content = {
        "dataInfo": {"featureName": list(PROBES), "numTimeBin": BINS, "parName": list(NAMES), "numPar": 3},
        "rawInfo": {"physRange": rows, "stimName": "chaotic_8kHz", "timeAxis": {"step": 0.125, "unit": "(ms)"}},
        "packInfo": {"conductName": table(), "utrans_bias": bias.tolist(), "utrans_scale": DELTA.tolist()},
    }
    if meta:
        path.with_name(path.name.replace(".data.h5", ".meta.yaml")).write_text(yaml.safe_dump(content))
    return path


def training_meta(folder: Path, witness: Sequence[str] = ()) -> Path:
    """The YAML of all packs, with the tab that the real one has."""
    content = {
        "dataInfo": {
            "featureName": list(PROBES),
            "conductName": table(),
            "cellSplit": {"practice": [], "witness": list(witness)},
        }
    }
    path = folder / "meta.cellSpike_2prT.yaml"
    path.write_text(yaml.safe_dump(content) + "shortName:\tx\n")
    return path


def aggregated(
    folder: Path, sizes: Mapping[str, int] = SIZES, cells: Sequence[str] = ("a", "b"), said: bool = True
) -> Path:
    """Many cells in one file, shuffled, u* and meta.JSON only."""
    rng = np.random.default_rng(11)
    path = folder / "practice2c_excite.cellSpike_2prT.data.h5"
    with h5py.File(path, "w") as file:
        for split, count in sizes.items():
            star = rng.uniform(-0.9, 0.9, (count, 3))
            file[f"{split}_frames"] = traces(star, BINS, 2, 1, rng)[..., 0].astype(np.float16)
            file[f"{split}_unitStar_par"] = star.astype(np.float32)
            if said:
                file[f"{split}_cell"] = rng.integers(0, len(cells), count)
        file["meta.JSON"] = [
            json.dumps({"cellNameList": list(cells), "conductName": table(), "timeAxis": {"step": 0.125}})
        ]
    return path


def mlpack(
    path: Path,
    sizes: Mapping[str, int] = {"train": 64, "valid": 12, "test": 10},
    change: Mapping[str, Any] | None = None,
    stims: int = 2,
    features: bool = False,
    ranged: bool = False,
) -> Path:
    """A BBP3 pack; `change` replaces entries of its meta.JSON."""
    rng = np.random.default_rng(5)
    if ranged:
        rows: list[list[Any]] = [[-2.0, 2.0, "S/cm2"], [-1.0, 1.0, "S/cm2"], [-80.0, -60.0, "mV"]]
        names, base = ["gNa_somatic", "gK_somatic", "e_pas_all"], [0.03, 0.2, 1.0]
    else:
        rows = [[0.03, 0.5, "S/cm2"], [0.2, 0.5, "S/cm2"], [-75.0, 8.0, "mV"]]
        names, base = ["gNa_somatic", "gK_somatic", "e_pas_all"], []
    half = np.array([(r[1] - r[0]) / 2 for r in rows]) if ranged else np.array([r[1] for r in rows])
    middle = np.array([(r[0] + r[1]) / 2 for r in rows]) if ranged else np.array([r[0] for r in rows])
    with h5py.File(path, "w") as file:
        for split, count in sizes.items():
            u = rng.uniform(-1, 1, (count, 3))
            x = half * u
            phys = np.where(
                [True, True, False], (np.array(base) * 10**middle if ranged else middle) * 10**x, middle + x
            )
            file[f"{split}_volts_norm"] = traces(u, BINS, 2, stims, rng).astype(np.float16)
            file[f"{split}_unit_par"], file[f"{split}_phys_par"] = u.astype(np.float32), phys.astype(np.float32)
            if features:
                efel = rng.normal(size=(count, 2, stims, 3)).astype(np.float32)
                efel[0] = np.nan
                file[f"{split}_efel_features"] = efel
        meta = {
            "parName": names,
            "num_phys_par": 3,
            "linearParIdx": [2],
            "phys_par_range": rows,
            "timeAxis": {"step": 0.1, "unit": "(ms)"},
            "cell_name": "L5",
            "simu_info": {"probe_names": ["soma", "axon"], "stim_names": [f"stim{i}" for i in range(stims)]},
            **({"base_values": base} if ranged else {}),
            **(change or {}),
        }
        file["meta.JSON"] = [json.dumps(meta)]
    return path


def experiment(path: Path) -> Path:
    """Sweeps of one soma, nothing known of their conductances."""
    rng = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        file["exper_frames"] = rng.normal(size=(7, BINS, 1)).astype(np.float32)
        file["exper_unitStar_par"] = np.zeros((7, 3), np.float32)
        file["time"] = np.arange(BINS) * 0.125
        file["stims"] = np.zeros(BINS, np.float32)
    return path
