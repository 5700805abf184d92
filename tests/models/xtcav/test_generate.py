"""The generated experiment: its layout, its statistics, and that a killed generation goes on."""

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

from ground.errors import BadInput
from models.xtcav import generate
from models.xtcav.picture import Lobe, _light, render
from models.xtcav.waveforms import find_peaks, label_of, waveforms
from tests.conftest import ROOT

SMALL = {"files": 3, "rows": 12, "runs": 2, "dark": 3, "pred": 4, "scale": 8}


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTCAV_DATA", str(tmp_path / "data"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.h5"))}


def test_the_layout_is_the_experiments() -> None:
    folder = generate.ensure(SMALL, 1)
    assert [path.name for path in sorted(folder.glob("*.h5"))] == [
        "amo86815_dark-r068-c0000.h5", "amo86815_mlearn-r070-c0000.h5", "amo86815_mlearn-r070-c0001.h5",
        "amo86815_mlearn-r071-c0000.h5", "amo86815_pred-r072-c0000.h5",
    ]  # fmt: skip
    with h5py.File(folder / "amo86815_mlearn-r070-c0001.h5") as file:
        assert (file["xtcavimg"].shape, file["xtcavimg"].dtype) == ((12, 90, 71), np.int16)
        assert file["acq.waveforms"].shape == (12, 16, 250)
        assert file["acq.peaksLabel"].dtype.kind == "i" and file["acq.peaksLabel"].shape == (12,)
        for name in ("evt.seconds", "evt.nanoseconds", "evt.fiducials", "run", "run.index", "lasing"):
            assert file[name].dtype.kind == "i" and file[name].shape == (12,)
        for name in ("bld.L3energy", *(f"acq.t{k}.{w}" for k in range(3) for w in ("pos", "ampl"))):
            assert file[name].dtype.kind == "f" and file[name].shape == (12,)
        assert (file["run"][0], file["run.index"][0]) == (70, 12)
        again, _ = find_peaks(file["acq.waveforms"][()], file["bld.L3energy"][()])
        assert np.array_equal(label_of(again), file["acq.peaksLabel"][()])
    with h5py.File(folder / "amo86815_pred-r072-c0000.h5") as file:
        assert "acq.peaksLabel" not in file and file["acq.waveforms"].shape == (4, 16, 1000)
    with h5py.File(folder / "amo86815_dark-r068-c0000.h5") as file:
        assert file["xtcavimg"][()].max() < 40 and not file["lasing"][()].any()


def test_labels_are_as_rare_as_the_experiments() -> None:
    rng = np.random.Generator(np.random.SFC64(5))
    meant, found = [], []
    for _ in range(40):
        peaks, intended = generate.amplitudes(rng, 100)
        energy = generate.energies(rng, 0, 100)
        meant.append(intended)
        found.append(label_of(find_peaks(waveforms(rng, peaks, energy, 250), energy)[0]))
    labels = np.concatenate(found)
    assert (labels == np.concatenate(meant)).mean() > 0.99
    assert (labels < 0).mean() == pytest.approx(0.43, abs=0.025)
    assert np.bincount(labels[labels >= 0]) / (labels >= 0).sum() == pytest.approx(generate.CLASSES, abs=0.03)


def test_images_are_the_experiments() -> None:
    rng = np.random.Generator(np.random.SFC64(5))
    peaks = np.tile([[2.0, 2.0, 2.0], [12, 15, 15]], (6, 1))
    images = render(rng, peaks, np.full(12, 3500.0), 1)
    assert images.shape == (12, 726, 568) and images.dtype == np.int16
    assert images.min() >= -20 and 1000 < images.max() < 3500
    assert images[:, :100].mean() == pytest.approx(-3, abs=0.1)
    assert images[:, :100].std() == pytest.approx(6, abs=0.1)
    # lasing shifts charge away from the ridge: fingers below it
    below = images[:, 430:460, 150:420].mean((1, 2))
    assert below[1::2].min() > below[::2].max() + 2
    half = render(np.random.Generator(np.random.SFC64(5)), peaks, np.full(12, 3500.0), 2)
    assert half.shape == (12, 363, 284) and half.max() > 1000


def test_lit_pixels_are_signal_and_noise() -> None:
    rng = np.random.Generator(np.random.SFC64(5))
    bits = rng.integers(0, 1 << 16, (726, 568), np.uint16)
    image, x, rows = np.zeros((726, 568), np.int16), np.arange(568), np.arange(726, dtype=np.float32)
    flat = np.ones(568)
    lobe = Lobe(100 * flat, 300 + 0.1 * x, 40 * flat, 0 * flat)
    for left in range(0, 568, 71):
        _light(image, bits, [lobe], rows, slice(left, left + 71), 1)
    signal = 100 * np.exp(-0.5 * ((rows[:, None] - lobe.ridge) / 40) ** 2)
    off = (image - signal)[image != 0]
    assert off.mean() == pytest.approx(-3, abs=0.2)
    assert (image - signal)[340, :].std() == pytest.approx(np.sqrt(36 + 1.5 * signal[340].mean()), rel=0.1)


def test_the_ramp_of_two_channels_is_undone() -> None:
    rng = np.random.Generator(np.random.SFC64(5))
    energy = np.full(200, 3500.0)
    wave = waveforms(rng, np.full((200, 3), 12.0), energy, 250)
    size = np.abs(wave).reshape(200, 16, 5, 50).mean((0, 3))
    assert size[8, -1] / size[8, 0] == pytest.approx(1.45 / 1.05, rel=0.1)
    ampl, pos = find_peaks(wave, energy)
    assert ampl.mean(0) == pytest.approx(12, rel=0.06)
    assert pos.mean(0) == pytest.approx([60, 120, 180], abs=1)


def test_content_depends_on_the_seed_not_on_the_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = digests(generate.ensure(SMALL, 1))
    monkeypatch.setenv("XTCAV_DATA", str(tmp_path / "again"))
    monkeypatch.setattr(generate, "_WORTH_PROCESSES", 0)
    assert digests(generate.ensure(SMALL, 2)) == one
    assert digests(generate.ensure({**SMALL, "seed": 1}, 1)) != one


def test_a_killed_generation_goes_on(tmp_path: Path) -> None:
    options = {**SMALL, "files": 6, "rows": 60, "scale": 2}
    program = f"from models.xtcav import generate; generate.ensure({options}, 1)"
    folder = generate.place(options)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    try:
        for _ in range(3000):
            if len(list(folder.glob("amo*.h5"))) >= 2 and list(folder.glob(".tmp-*")):
                break
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    there = {path: path.stat().st_mtime_ns for path in folder.glob("amo*.h5")}
    assert 2 <= len(there) < 8
    # whatever is there is whole
    for path in there:
        with h5py.File(path) as file:
            assert file["run.index"].shape[0] == file["xtcavimg"].shape[0]
    generate.ensure(options, 1)
    assert len(list(folder.glob("amo*.h5"))) == 8
    assert not list(folder.glob(".tmp-*"))
    assert all(path.stat().st_mtime_ns == when for path, when in there.items())


@pytest.mark.parametrize("wrong", [{"file": 3}, {"files": 0}, {"rows": 1.5}, {"files": 2, "runs": 3}, {"scale": 99}])
def test_wrong_options_are_one_line(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput) as error:
        generate.ensure(wrong)
    assert "\n" not in str(error.value)
