"""Illumination and compression against a slow reference, and killed runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.transform import resize

from ground.errors import BadInput
from models.cellprofiler import prepare as module
from models.cellprofiler.__main__ import main
from models.cellprofiler.config_json import Config
from models.cellprofiler.prepare import prepare, tasks
from models.cellprofiler.project import Project
from tests.conftest import ROOT
from tests.models.cellprofiler.projects import edit, small


def quiet(_: str) -> None:
    pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """16-bit images under a lamp that is brighter on the right."""
    root = small(tmp_path, wells=3, size=(60, 80), bits=16)
    lamp = np.linspace(0.4, 1.0, 80)
    for number, path in enumerate(sorted((root / "inputs/images").rglob("*.png"))):
        noise = np.random.default_rng(number).gamma(4, 2000, (60, 80))
        Image.fromarray((noise * lamp).clip(1, 65535).astype(np.uint16)).save(path)
    edit(
        root,
        dataset__images__bits=16,
        prepare__compression={"implement": True, "scaling_factor": 1.0},
        prepare__illumination_correction={"down_scale_factor": 4, "median_filter_size": 8},
    )
    return root


def reference(root: Path, plate: str, channel: str, scale: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """f and the compressed images of a plate and channel, step by step."""
    paths = sorted((root / "inputs/images" / plate).glob(f"*_{channel}.png"))
    images = [np.asarray(Image.open(path)) for path in paths]
    small_ones = [resize(image.astype(float), (15, 20), mode="reflect", anti_aliasing=True) for image in images]
    mean = np.mean(small_ones, 0)
    padded, filtered = np.pad(mean, 4, mode="edge"), np.empty_like(mean)
    for i in range(15):
        for j in range(20):
            near = [padded[i + 4 + di, j + 4 + dj] for di in range(-4, 5) for dj in range(-4, 5) if di**2 + dj**2 <= 16]
            filtered[i, j] = np.median(near)
    large = resize(filtered, (60, 80), mode="reflect", anti_aliasing=True)
    f = np.maximum(large, np.percentile(large, 2)) / np.percentile(large, 2)
    values = np.sort(np.concatenate([image.ravel() for image in images]))
    high = next(v for v in np.unique(values) if (values <= v).mean() > 0.9999)
    found = {}
    for path, image in zip(paths, images, strict=True):
        corrected = image / f
        if scale != 1:
            corrected = resize(corrected, (int(60 * scale), int(80 * scale)), mode="reflect", anti_aliasing=True)
        low, top = np.percentile(corrected, 0.05), min(np.percentile(corrected, 99.95), high)
        found[path.name] = np.rint((corrected.clip(low, top) - low) / (top - low) * 255)
    return f, found


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_images_are_corrected_and_compressed(root: Path, scale: float) -> None:
    edit(root, prepare__compression={"implement": True, "scaling_factor": scale})
    project = Project.open(root)
    prepare(project, say=quiet)
    for plate in ("P-1", "P-2"):
        for channel in ("DNA", "ER"):
            f, images = reference(root, plate, channel, scale)
            with np.load(root / f"outputs/intensities/{plate}/{channel}.npz", allow_pickle=False) as file:
                assert np.abs(file["illumination"] - f).max() < 1e-4 and f.max() > 1.5
            for name, wanted in images.items():
                image = Image.open(root / "outputs/compressed/images" / plate / name)
                assert image.mode == "L" and np.abs(np.asarray(image).astype(float) - wanted).max() <= 1
    # the plate is even now, and the project uses these images
    project = Project.open(root)
    image = project.read(project.sites()[0])
    assert image.dtype == np.uint8 and image.shape == (2, int(60 * scale), int(80 * scale))
    left, right = image[..., : image.shape[2] // 2].mean(), image[..., image.shape[2] // 2 :].mean()
    assert abs(left / right - 1) < 0.15
    assert main(["sample", str(root)]) == 0


def test_f_is_that_of_scipy_on_a_large_disk() -> None:
    from models.cellprofiler.illumination import Plate

    plate = Plate(2, 16)
    for seed in range(3):
        plate.add(np.random.default_rng(seed).integers(1, 60000, (64, 96)).astype(np.uint16))
    y, x = np.mgrid[-5:6, -5:6]
    assert plate.total is not None and plate.total.shape == (32, 48)
    filtered = ndimage.median_filter(plate.total / 3, footprint=y**2 + x**2 <= 25, mode="nearest")
    large = resize(filtered, (64, 96), mode="reflect", anti_aliasing=True)
    wanted = np.maximum(large / np.percentile(large, 2), 1)
    assert np.allclose(plate.function(10), wanted) and plate.function(10).min() == 1


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / "outputs").rglob("*.png"))}


@pytest.mark.slow
def test_a_killed_run_goes_on(root: Path) -> None:
    command = [sys.executable, "-m", "models.cellprofiler", "prepare", str(root), "--processes", "1"]
    folder, killed = root / "outputs", 0
    for wanted in (1, 9):
        with subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
        ) as running:
            while running.poll() is None and len(list(folder.rglob("*.png"))) < wanted:
                time.sleep(0.002)
            if running.poll() is None:
                running.send_signal(signal.SIGKILL)
                killed += 1
    there = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.png")}
    assert killed >= 2 and len(there) < 24
    assert main(["prepare", str(root)]) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in there.items())
    whole = snapshot(root)
    assert len(whole) == 24
    edit(root, paths={"compressed_images": "other", "intensities": "statistics"})
    assert main(["prepare", str(root), "--processes", "2"]) == 0
    other = {str(p.relative_to(root / "other")): p.read_bytes() for p in (root / "other").rglob("*.png")}
    assert other == {name.removeprefix("outputs/compressed/images/"): data for name, data in whole.items()}


def test_other_settings_are_not_mixed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(root)]) == 0
    before = snapshot(root)
    edit(root, prepare__illumination_correction={"down_scale_factor": 2, "median_filter_size": 8})
    assert main(["prepare", str(root)]) == 2
    assert "made from other images or with other settings; --overwrite" in capsys.readouterr().err
    assert snapshot(root) == before
    assert main(["prepare", str(root), "--overwrite"]) == 0
    after = snapshot(root)
    assert set(after) == set(before) and after != before


def test_originals_are_never_written_over(root: Path) -> None:
    edit(root, paths={"compressed_images": "inputs/images"})
    before = {path: path.read_bytes() for path in (root / "inputs/images").rglob("*.png")}
    with pytest.raises(BadInput, match="is an original image, which would be written over"):
        prepare(Project.open(root), say=quiet)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_two_images_of_one_name(root: Path) -> None:
    index = root / "inputs/metadata/index.csv"
    index.write_text(index.read_text().replace("P-1/A02_s1_DNA.png", "A01_s1_DNA.png"))
    (root / "inputs/images/P-1/A02_s1_DNA.png").rename(root / "inputs/images/A01_s1_DNA.png")
    with pytest.raises(BadInput, match="would both become"):
        tasks(Project.open(root))


def test_black_plates_and_missing_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "inputs/images/P-2").glob("*_ER.png"):
        Image.fromarray(np.zeros((60, 80), np.uint16)).save(path)
    assert main(["prepare", str(root), "--processes", "2"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "plate P-2, ER: is black in 2 % of its pixels" in errors[-1]
    (root / "inputs/images/P-2/A01_s1_ER.png").unlink()
    assert main(["prepare", str(root)]) == 2
    assert "1 images are missing" in capsys.readouterr().err


def test_what_the_plate_hardly_ever_exceeds_is_white() -> None:
    """A bright image is clipped at the plate's 99.99 percent."""
    from models.cellprofiler.illumination import compressed

    image = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    found = compressed(image, np.ones((40, 50)), 1000, 1)
    low = np.percentile(image, 0.05)
    assert (found[image >= 1000] == 255).all()
    assert np.abs(found - np.clip((image - low) / (1000 - low), 0, 1) * 255).max() <= 0.5


def test_a_constant_image_is_black() -> None:
    from models.cellprofiler.illumination import compressed

    flat = np.full((20, 30), 500, np.uint16)
    assert not compressed(flat, np.ones((20, 30)), 1000, 1).any()


def test_without_compression(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root, prepare__compression={"implement": False})
    assert main(["prepare", str(root)]) == 0
    assert "prepare.compression.implement is false" in capsys.readouterr().out
    assert (root / "outputs/intensities/P-1/DNA.npz").exists() and not (root / "outputs/compressed").exists()
    assert Project.open(root).read(Project.open(root).sites()[0]).dtype == np.uint16


def test_sampling_before_prepare_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "inputs/images").rglob("*.png"):
        path.rename(path.with_suffix(".tif"))
    index = root / "inputs/metadata/index.csv"
    index.write_text(index.read_text().replace(".png", ".tif"))
    assert main(["sample", str(root)]) == 2
    assert "(`prepare` writes the compressed ones)" in capsys.readouterr().err


def test_setup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new"
    options = ["--channels", "DNA", "ER", "--label", "moa", "--box", "64", "--width", "100", "--height", "90"]
    assert main(["setup", str(root), *options, "--bits", "8"]) == 0
    config = Config.read(root / "inputs/config/config.json")
    assert config.channels == ("DNA", "ER") and config.box == 64 and config.dataset.metadata.label_field == "moa"
    assert (root / "inputs/metadata/index.csv").read_text().startswith("Metadata_Plate,Metadata_Well,Metadata_Site,DNA")
    with pytest.raises(BadInput, match="has no site"):
        Project.open(root)
    (root / "inputs/config/config.json").write_text("mine")
    (root / "inputs/metadata/index.csv").write_text("mine")
    capsys.readouterr()
    assert main(["setup", str(root), *options]) == 0
    assert capsys.readouterr().out.count("stays") == 2
    assert (
        (root / "inputs/config/config.json").read_text() == (root / "inputs/metadata/index.csv").read_text() == "mine"
    )
    assert main(["setup", str(tmp_path / "bad"), "--box", "1"]) == 2
    assert "dataset.locations.box_size" in capsys.readouterr().err and not (tmp_path / "bad").exists()


def test_a_process_that_dies_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "side_by_side", lambda *_, **__: False)
    assert main(["prepare", str(root), "--processes", "2"]) == 1
    assert "a process ended badly; the same command goes on" in capsys.readouterr().err
