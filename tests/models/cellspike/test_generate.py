"""The simulated neurons: voltages that an independent integrator agrees with, and packs one can train on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp

from ground.errors import BadInput
from models.cellspike import generate, population
from models.cellspike.__main__ import main
from models.cellspike.aggregate import packs_of
from models.cellspike.neuron import CHANNELS, Cable, Section, simulate
from models.cellspike.yamls import read_yaml
from tests.conftest import ROOT

SMALL = {"types": 2, "clones": 2, "witness": 1, "samples": 24, "shard": 10, "bins": 200}
BALL = [Section("soma", -1, 1, 20, 20), Section("axon", 0, 2, 60, 2), Section("apic", 0, 2, 120, 3)]
DENSITIES = {("soma", "NaTs2_t"): 0.5, ("soma", "SKv3_1"): 0.2, ("axon", "NaTa_t"): 1.0, ("axon", "K_Tst"): 0.1,
             ("axon", "K_Pst"): 0.3, ("apic", "Im"): 6e-4, ("apic", "Ih"): 1e-3, ("all", "pas"): 1e-4}  # fmt: skip


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLSPIKE_DATA", str(tmp_path / "data"))


# ---- the integrator


def reference(cable: Cable, densities: dict[tuple[str, str], float], pieces: list[tuple[float, float]], at: np.ndarray):
    """Voltages (C, T) by LSODA at tolerances of 1e-8: no tree, no tables, no splitting of gates from voltages.

    Args:
        pieces: (until when, nA).
    """
    count = len(cable)
    axial = np.zeros((count, count))
    for child, parent in enumerate(cable.parents):
        if parent >= 0:
            axial[child, [child, parent]] += np.array([-1, 1]) * cable.inward[child]
            axial[parent, [parent, child]] += np.array([-1, 1]) * cable.outward[child]
    parts = [(cable.region(region), CHANNELS[name], 1e3 * g) for (region, name), g in densities.items()]
    state = [np.full(count, -75.0)]
    state += [gate(np.full(part.stop - part.start, -75.0))[0] for part, kind, _ in parts for gate, _ in kind.gates]

    def slope(_: float, y: np.ndarray, current: float) -> np.ndarray:
        v, begins, gates = y[:count], count, []
        membrane = axial @ v
        membrane[0] += current * 1e-3 / cable.areas[0]
        for part, kind, g in parts:
            open_share = np.ones(part.stop - part.start)
            for gate, power in kind.gates:
                s = y[begins : begins + len(open_share)]
                begins += len(s)
                steady, tau = gate(v[part])
                gates.append((steady - s) / tau)
                open_share = open_share * s**power
            membrane[part] += g * open_share * (kind.reversal - v[part])
        return np.concatenate([membrane / cable.capacities, *gates])

    y, begun, found = np.concatenate(state), 0.0, []
    for until, current in pieces:
        times = at[(at >= begun - 1e-9) & (at < until - 1e-9)]
        solved = solve_ivp(slope, (begun, until), y, "LSODA", [*times, until], args=(current,), rtol=1e-8, atol=1e-9)
        assert solved.success
        y, begun = solved.y[:, -1], until
        found.append(solved.y[:count, :-1])
    return np.concatenate(found, 1)


def simulated(cable: Cable, step: float, pieces: list[tuple[float, float]], every: int) -> np.ndarray:
    times = (np.arange(round(pieces[-1][0] / step)) + 0.5) * step
    current = np.select([times < until for until, _ in pieces], [nA for _, nA in pieces])
    densities = {key: np.array([g, g]) for key, g in DENSITIES.items()}
    return np.stack([v[:, 1].copy() for v in simulate(cable, densities, current, step)], 1)[:, ::every]


def crossings(v: np.ndarray, step: float) -> np.ndarray:
    """When the soma passes 0 mV upwards, ms."""
    rises = np.flatnonzero((v[0, 1:] > 0) & (v[0, :-1] <= 0))
    return step * (rises + v[0, rises] / (v[0, rises] - v[0, rises + 1]))


def test_an_independent_integrator_agrees() -> None:
    """At 25 µs: 0.02 mV below threshold, spikes to 0.1 ms, 4 mV rms while it spikes; at 5 µs closer (first order)."""
    cable, pieces = Cable(BALL), [(2.0, 0.0), (12.0, -0.1), (30.0, 0.5)]
    wanted = reference(cable, DENSITIES, pieces, np.arange(1200) * 0.025)
    coarse, fine = simulated(cable, 0.025, pieces, 1), simulated(cable, 0.005, pieces, 5)
    quiet = slice(0, 480)
    assert np.ptp(wanted[:, quiet]) > 5, "nothing happens"
    assert np.abs(coarse - wanted)[:, quiet].max() < 0.02
    spikes = crossings(wanted, 0.025)
    assert len(spikes) >= 2
    late = crossings(coarse, 0.025) - spikes
    assert np.abs(late).max() < 0.1
    assert np.abs(crossings(fine, 0.025) - spikes).max() < np.abs(late).max() / 3
    assert np.sqrt(((coarse - wanted) ** 2).mean()) < 4
    assert np.sqrt(((fine - wanted) ** 2).mean()) < 1


@settings(max_examples=8, deadline=None)
@given(arrays(np.float64, (6, 10), elements=st.floats(-1, 1)), st.floats(-1, 2))
def test_it_is_stable(unit: np.ndarray, current: float) -> None:
    """Voltages stay between the reversal potentials plus what the current can add, for every conductance."""
    cell = population.population(1, 1, 0)[0]
    frames = population.record(cell, unit, np.full(240, current)) * population.COUNT
    assert np.isfinite(frames).all() and frames.max() < 60 + 60 * max(current, 0) and frames.min() > -250


def test_distances_and_the_tree() -> None:
    cable = Cable([*BALL, Section("dend", 0, 1, 50, 2), Section("apic", 2, 1, 40, 1)])
    assert cable.regions == ("soma", "axon", "axon", "apic", "apic", "apic", "dend")
    assert cable.parents.tolist() == [-1, 0, 1, 0, 3, 4, 0]
    assert cable.distances.tolist() == [0, 15, 45, 30, 90, 140, 25]
    assert cable.areas[0] == pytest.approx(np.pi * 20 * 20 * 1e-8)
    # half of each compartment between centres: Ra (l/2) / (π d²/4) each
    between = 100 * (15e-4 / (np.pi * (2e-4) ** 2 / 4) + 10e-4 / (np.pi * (20e-4) ** 2 / 4))
    assert cable.inward[1] * cable.areas[1] == pytest.approx(1e3 / between)
    assert cable.outward * cable.areas[np.maximum(cable.parents, 0)] == pytest.approx(cable.inward * cable.areas)


@pytest.mark.parametrize(
    ("name", "gate", "v", "steady", "tau"),
    [
        # by hand from the published formulas, at 34 °C
        ("NaTs2_t", 0, -32.0, 0.182 / 0.306, 1 / (6 * 0.306) / 2.3**1.3),
        ("NaTs2_t", 1, -60.0, 0.5, 1 / (12 * 0.015) / 2.3**1.3),
        ("SKv3_1", 0, 18.7, 0.5, 4 / (1 + np.exp((18.7 + 46.56) / -44.14))),
        ("Im", 0, -35.0, 0.5, 1 / 0.0066 / 2.3**1.3),
        ("K_Tst", 0, -10.0, 0.5, (0.34 + 0.92 * np.exp(-((71 / 59) ** 2))) / 2.3**1.3),
        ("K_Pst", 1, -64.0, 0.5, (360 + 1034 * np.exp(-((21 / 48) ** 2))) / 2.3**1.3),
        ("Ih", 0, -154.9, 0.0765 / (0.0765 + 0.193 * np.exp(-154.9 / 33.1)), None),
    ],
)
def test_kinetics(name: str, gate: int, v: float, steady: float, tau: float | None) -> None:
    found = CHANNELS[name].gates[gate][0](np.array([v]))
    assert found[0][0] == pytest.approx(steady, rel=2e-3)
    if tau is not None:
        assert found[1][0] == pytest.approx(tau, rel=2e-3)


# ---- cells and packs


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.h5")}


def test_cells_in_the_raw_layout(tmp_path: Path) -> None:
    cells = generate.write_cells(SMALL, tmp_path / "raw", 1)
    assert [cell.name for cell in cells] == ["demo0011", "demo0012", "demo0021", "demo0022"]
    first = cells[0]
    assert len(first.probes) >= 8 and first.step == 0.025 and first.shards == 3
    with h5py.File(first.path(2)) as file:
        assert (file["frames"].shape, file["frames"].dtype) == ((4, 200, len(first.probes)), np.int16)
        unit, phys = file["unit_par"][()], file["phys_par"][()]
        volts = file["frames"][()] * file["frames"].attrs["mV_per_count"]
    assert -160 < volts.min() < volts.max() < 60 and np.ptp(volts) > 3
    for k, (name, (low, high)) in enumerate(zip(first.names, first.ranges, strict=True)):
        if "fixed" in name or "const" in name:
            assert (phys[:, k] == np.float32(low)).all() and not unit[:, k].any()
        else:
            assert phys[:, k] == pytest.approx(np.sqrt(low * high) * 10.0 ** unit[:, k], rel=1e-5)
    assert np.ptp([np.log10(cell.ranges[0, 0]) for cell in cells]) > 0.05, "all bases are equal"
    stim = read_yaml(first.folder / f"stim.{population.STIM}.yaml")
    assert len(stim["stimFunc"]) == 200 and np.ptp(stim["stimFunc"]) > 0.5
    with pytest.raises(BadInput, match="other options"):
        generate.write_cells({**SMALL, "seed": 3}, tmp_path / "raw", 1)
    other = generate.write_cells({**SMALL, "seed": 3}, tmp_path / "other", 1)[0]
    with h5py.File(other.path(2)) as file:
        assert not np.array_equal(file["unit_par"][()], unit)


def test_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = generate.demo(SMALL)
    assert folder.parent == tmp_path / "data" and generate.demo(SMALL) == folder
    files = packs_of([folder])
    assert [file.cell for file in files] == ["demo0011", "demo0012", "demo0021", "demo0022"]
    meta = read_yaml(folder / "meta.cellSpike_4prB8kHz.yaml")["dataInfo"]
    assert meta["cellSplit"] == {"practice": ["demo0011", "demo0021", "demo0022"], "witness": ["demo0012"]}
    assert len(meta["conductName"]) == 10 and [row[0] for row in meta["conductName"]] != list(range(10))
    with h5py.File(files[0].path) as file:
        assert file["train_frames"].shape == (20, 40, 4)
        star = file["train_unitStar_par"][()]
        assert np.abs(star).max() <= 1
        direct = 10 ** (star * [row[3] for row in meta["conductName"]] + [row[2] for row in meta["conductName"]])
        assert direct == pytest.approx(file["train_phys_par"][()], rel=1e-4)
    assert not list((folder / "raw").rglob("*.h5")), "raw shards are not needed any more"
    capfd.readouterr()
    assert main(["generate", *(f"--set={k}={v}" for k, v in SMALL.items())]) == 0
    said = capfd.readouterr()
    assert said.out.strip() == str(folder) and "simulations" not in said.err


def test_the_same_seed_the_same_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_WORTH_PROCESSES", 0)
    one = digests(generate.demo(SMALL, 1))
    monkeypatch.setenv("CELLSPIKE_DATA", str(tmp_path / "again"))
    assert digests(generate.demo(SMALL, 2)) == one and len(one) == 4
    other = digests(generate.demo({**SMALL, "seed": 1}, 1))
    assert not set(other.values()) & set(one.values())


def test_a_killed_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(generate, "_WORTH_PROCESSES", 0)
    options = {**SMALL, "samples": 60}
    whole = digests(generate.demo(options, 2))
    monkeypatch.setenv("CELLSPIKE_DATA", str(tmp_path / "again"))
    program = f"from models.cellspike import generate as g; g._WORTH_PROCESSES = 0; g.demo({options!r}, 2)"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    folder, end = generate.place(options), time.monotonic() + 60
    # the first pack is there: cells are simulated that have none yet
    while not list(folder.glob("*.data.h5")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(folder.glob("*.data.h5"))) < 4 and not list(folder.glob("meta.cellSpike*"))
    capfd.readouterr()
    assert generate.demo(options, 2) == folder
    assert capfd.readouterr().err.count("simulations") < 24
    assert digests(folder) == whole
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cells": 3}, "unknown neurons option cells"), ({"samples": 3}, "at least 10"), ({"bins": 500}, "of 200"),
        ({"witness": 5}, "one a type"), ({"types": 1, "clones": 1, "witness": 1}, "not every cell"),
        ({"seed": -1}, "seed is -1"), ({"samples": True}, "samples is True"), ({"clones": 12}, "at most 9"),
    ],
)  # fmt: skip
def test_impossible_options(options: dict[str, int], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        generate.demo(options)


@pytest.mark.slow
def test_conductances_can_be_read_off() -> None:
    """Trees on plain features get below .6 of the mean predictor's error on rows they have not seen."""
    from sklearn.ensemble import ExtraTreesRegressor

    folder = generate.demo({"types": 2, "clones": 2, "witness": 1, "samples": 300})
    parts: dict[str, list[np.ndarray]] = {}
    for file in packs_of([folder]):
        if file.cell == "demo0012":
            continue
        with h5py.File(file.path) as pack:
            for split in ("train", "test"):
                x = pack[f"{split}_frames"][()]
                pieces = x.reshape(len(x), 40, -1, x.shape[2])
                features = np.concatenate([f(pieces, axis=2) for f in (np.mean, np.std, np.max, np.min)], 1)
                parts.setdefault(f"{split}_x", []).append(features.reshape(len(x), -1))
                parts.setdefault(f"{split}_y", []).append(pack[f"{split}_unitStar_par"][()])
    data = {name: np.concatenate(rows) for name, rows in parts.items()}
    trees = ExtraTreesRegressor(60, min_samples_leaf=2, max_features=0.3, random_state=0)
    predicted = trees.fit(data["train_x"], data["train_y"]).predict(data["test_x"])
    error = ((predicted - data["test_y"]) ** 2).mean()
    assert error < 0.6 * ((data["train_y"].mean(0) - data["test_y"]) ** 2).mean()
