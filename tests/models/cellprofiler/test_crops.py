"""Crops against slow loops, masks, and the mode full_image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ground.errors import BadInput
from models.cellprofiler import crops
from models.cellprofiler.project import Project
from tests.models.cellprofiler.projects import edit, small


def slow_integer(image: np.ndarray, x: float, y: float, box: int) -> np.ndarray:
    out = np.zeros((len(image), box, box), image.dtype)
    top, left = int(np.floor(y + 0.5)) - box // 2, int(np.floor(x + 0.5)) - box // 2
    for i in range(box):
        for j in range(box):
            if 0 <= top + i < image.shape[1] and 0 <= left + j < image.shape[2]:
                out[:, i, j] = image[:, top + i, left + j]
    return out


def slow_bilinear(image: np.ndarray, x: float, y: float, side: float, box: int) -> np.ndarray:
    """TensorFlow's crop_and_resize, sample by sample, before rounding."""
    _, height, width = image.shape
    y1, y2, x1, x2 = (y - side / 2) / height, (y + side / 2) / height, (x - side / 2) / width, (x + side / 2) / width
    out = np.zeros((len(image), box, box))
    for i in range(box):
        for j in range(box):
            in_y = y1 * (height - 1) + i * (y2 - y1) * (height - 1) / (box - 1)
            in_x = x1 * (width - 1) + j * (x2 - x1) * (width - 1) / (box - 1)
            if max(-in_y, in_y - (height - 1), -in_x, in_x - (width - 1)) > 1e-6:  # what is at the edge is inside
                continue
            in_y, in_x = min(max(in_y, 0), height - 1), min(max(in_x, 0), width - 1)
            top, left = int(np.floor(in_y)), int(np.floor(in_x))
            bottom, right = int(np.ceil(in_y)), int(np.ceil(in_x))
            dy, dx = in_y - top, in_x - left
            for c in range(len(image)):
                above = image[c, top, left] + (float(image[c, top, right]) - image[c, top, left]) * dx
                below = image[c, bottom, left] + (float(image[c, bottom, right]) - image[c, bottom, left]) * dx
                out[c, i, j] = above + (below - above) * dy
    return out


images = st.integers(0, 2**16).map(
    lambda seed: np.random.default_rng(seed).integers(0, 60000, (2, 11 + seed % 5, 14 + seed % 3)).astype(np.uint16)
)
places = st.lists(st.tuples(st.floats(-30, 50), st.floats(-30, 50)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(images, places, st.integers(2, 9))
def test_integer_crops(image: np.ndarray, centres: list[tuple[float, float]], box: int) -> None:
    found = crops.cut(image, np.array(centres), box)
    assert found.dtype == image.dtype and found.flags.c_contiguous
    for crop, (x, y) in zip(found, centres, strict=True):
        assert (crop == slow_integer(image, x, y, box)).all()


@settings(max_examples=60, deadline=None)
@given(images, places, st.integers(2, 9))
def test_bilinear_crops(image: np.ndarray, centres: list[tuple[float, float]], box: int) -> None:
    found = crops.cut(image, np.array(centres), box, "bilinear")
    assert found.dtype == image.dtype
    for crop, (x, y) in zip(found, centres, strict=True):
        assert np.abs(crop - slow_bilinear(image, x, y, box, box)).max() <= 0.5 + 1e-6


def test_the_published_step() -> None:
    """1080 pixels and a box of 128: samples are 1.0069 pixels apart (facts of the original)."""
    ramp = np.broadcast_to(np.arange(1080, dtype=np.uint16) * 60, (1, 1080, 1080)).copy()
    row = crops.cut(ramp, np.array([[540.0, 540.0]]), 128, "bilinear")[0, 0, 5].astype(float) / 60
    assert np.diff(row).mean() == pytest.approx(1.0069, abs=2e-4)


def test_no_cells() -> None:
    image = np.ones((3, 20, 20), np.uint8)
    for mode in crops.MODES:
        assert crops.cut(image, np.empty((0, 2)), 8, mode).shape == (0, 3, 8, 8)


def test_bilinear_and_integer_crops_are_of_one_place() -> None:
    """Smooth images look the same in both but for a pixel's shift."""
    y, x = np.mgrid[:300, :400]
    image = (128 + 100 * np.sin(x / 40) * np.cos(y / 30)).astype(np.uint8)[None]
    at = np.array([[150.0, 120.0], [300.0, 200.0]])
    one, two = (crops.cut(image, at, 64, mode).astype(float) for mode in crops.MODES)
    assert np.abs(one - two).max() <= 6  # a gradient of 3.4 a pixel, up to 1.3 pixels
    flipped = crops.cut(image, at[:, ::-1], 64).astype(float)
    assert np.abs(one - flipped).max() > 50


def discs(filled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mask of three cells (one at the border), their centres, and the true number of each pixel."""
    y, x = np.mgrid[:60, :80]
    centres = np.array([[20.0, 20.0], [45.0, 30.0], [76.0, 50.0]])
    truth = np.zeros((60, 80), int)
    for number, (cx, cy) in enumerate(centres, 1):
        truth[np.hypot(x - cx, y - cy) <= 9] = number
    if filled:
        return np.where(truth > 0, 255, 0).astype(np.uint8), centres, truth
    edge = np.zeros_like(truth, bool)
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        edge |= (truth > 0) & (np.roll(truth, (dy, dx), (0, 1)) != truth)
    truth[edge] = 0
    return edge.astype(np.uint8), centres, truth


@pytest.mark.parametrize("kind", ["filled", "outline"])
@pytest.mark.parametrize("mode", crops.MODES)
def test_masked_crops(kind: str, mode: str) -> None:
    mask, centres, truth = discs(kind == "filled")
    image = np.random.default_rng(0).integers(1, 255, (2, 60, 80)).astype(np.uint8)
    objects = crops.regions(mask, kind)
    plain = crops.cut(image, centres, 32, mode)
    found = crops.masked(plain, objects, centres, mode)
    for number, (x, y) in enumerate(centres, 1):
        of = crops.cut((truth == number).astype(np.uint8)[None], np.array([[x, y]]), 32)[0, 0] > 0
        if mode == "integer":
            assert (found[number - 1] == plain[number - 1] * of).all() and of.sum() > 100
        else:  # samples between pixels: as large as the object, but for its edge
            kept = (found[number - 1] > 0).all(0)
            assert abs(int(kept.sum()) - int(of.sum())) < 0.15 * of.sum()
            assert ((found[number - 1] == plain[number - 1]) | (found[number - 1] == 0)).all()


def test_a_cell_without_an_object_is_black() -> None:
    mask, _, _ = discs(True)
    at = np.array([[60.0, 10.0], [-40.0, 5.0]])
    image = np.full((1, 60, 80), 9, np.uint8)
    assert not crops.masked(crops.cut(image, at, 16), crops.regions(mask, "filled"), at).any()


def test_objects_that_are_numbered_stay_so() -> None:
    mask = np.zeros((10, 12), np.uint16)
    mask[:, :6], mask[:, 6:] = 7, 300
    assert (crops.regions(mask, "filled") == mask).all()


def test_diagonal_outlines_enclose() -> None:
    """A closed line of pixels that touch by their corners alone."""
    mask = np.zeros((21, 21), np.uint8)
    for step in range(9):
        for y, x in ((2 + step, 10 - step), (2 + step, 10 + step), (18 - step, 10 - step), (18 - step, 10 + step)):
            mask[y, x] = 1
    objects = crops.regions(mask, "outline")
    assert objects[10, 10] != objects[0, 0] and objects[2, 10] == 0


def test_the_object_is_the_median_of_the_patch() -> None:
    objects = np.random.default_rng(1).integers(0, 5, (40, 50)).astype(np.int32)
    centres = np.random.default_rng(2).uniform([-3, -3], [53, 43], (200, 2))
    found = crops.object_at(objects, centres)
    for number, (cx, cy) in zip(found, centres, strict=True):
        x, y = int(cx), int(cy)
        patch = objects[max(y - 5, 0) : max(y + 5, 0), max(x - 5, 0) : max(x + 5, 0)]
        assert number == (int(np.median(patch)) if patch.size else 0)


def test_masks_of_a_project(tmp_path: Path) -> None:
    root = small(tmp_path)
    edit(root, dataset__locations__mask_objects=True, dataset__locations__mask_kind="filled")
    project = Project.open(root)
    site = project.sites()[0]
    with pytest.raises(BadInput, match=r"outlines.csv: no such file"):
        project.objects(site, (48, 64))
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Site,Outlines"]
    (root / "inputs/outlines").mkdir()
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:30] = 255
    for at in project.sites():
        lines.append(f"{at.plate},{at.well},{at.site},{at.well}.png")
        Image.fromarray(mask).save(root / "inputs/outlines" / f"{at.well}.png")
    (root / "inputs/metadata/outlines.csv").write_text("\n".join(lines))
    project = Project.open(root)
    crop = project.crops(site, project.read(site), np.array([[20.0, 20.0]]))[0]
    assert (crop > 0).all()  # 12..28 is inside the object
    crop = project.crops(site, project.read(site), np.array([[27.0, 20.0]]))[0]
    assert (crop[:, :, :11] > 0).all() and not crop[:, :, 11:].any()
    Image.fromarray(mask[1:]).save(root / "inputs/outlines/A01.png")
    with pytest.raises(BadInput, match=r"A01.png: 64 x 47 pixels, its image has 64 x 48"):
        project.crops(site, project.read(site), np.array([[20.0, 20.0]]))


@pytest.mark.parametrize("coverage", [1.0, 0.75])
def test_full_images(tmp_path: Path, coverage: float) -> None:
    root = small(tmp_path, wells=1, size=(48, 48), box=24)
    edit(root, dataset__locations__mode="full_image", dataset__locations__area_coverage=coverage)
    project = Project.open(root)
    site = project.sites()[0]
    at, image = project.locations(site), project.read(site)
    found = project.crops(site, image, at)
    side = 48 if coverage == 1 else 36
    assert len(found) == (1 if coverage == 1 else 5) and found.shape[1:] == (2, 24, 24)
    for crop, (x, y) in zip(found, at, strict=True):
        assert np.abs(crop - slow_bilinear(image, x, y, side, 24)).max() <= 0.5 + 1e-6
    if coverage < 1:  # its corners and its centre
        assert at.tolist() == [[18, 18], [18, 30], [30, 18], [30, 30], [24, 24]]


def test_locations_in_compressed_images_are_scaled(tmp_path: Path) -> None:
    root = small(tmp_path, wells=1)
    edit(root, prepare__compression={"implement": True, "scaling_factor": 0.5})
    project = Project.open(root)
    image = np.random.default_rng(0).integers(1, 255, (2, 24, 32)).astype(np.uint8)
    found = project.crops(project.sites()[0], image, np.array([[30.0, 20.0]]))[0]
    assert (found == slow_integer(image, 15, 10, 16)).all()
