"""Projects: configuration, index, images and locations, as they are and as they should not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ground.errors import BadInput
from models.cellprofiler import images
from models.cellprofiler.config_json import Config
from models.cellprofiler.project import Project
from tests.models.cellprofiler.projects import LABELS, config, edit, small, write_locations


def content(**changes: Any) -> dict[str, Any]:
    about = config(("DNA", "ER"), "Compound", 64, 48)
    for name, value in changes.items():
        *sections, last = name.split("__")
        at = about
        for section in sections:
            at = at[section]
        at[last] = value
    return about


def test_a_configuration_is_read() -> None:
    about = Config.of(content(train__partition__training_values=[0, 1.5, "a"], profile__feature_layer="pool5"), "x")
    assert about.channels == ("DNA", "ER") and about.box == 16
    assert about.train.partition.training_values == ["0", "1.5", "a"]
    assert about.train.model.params.learning_rate == 0.005 and about.train.model.lr_schedule == "cosine"
    assert about.dataset.metadata.control_value == "DMSO" and about.profile.feature_layer == "pool5"


def test_other_versions_names_and_null() -> None:
    given = content(train__model__lr_schedule={"epoch": [1, 3], "lr": [0.1, 0.01]}, profile__checkpoint=None)
    given["train"]["partition"] = {"targets": ["Compound"], "split_field": "Fold", "training": [0], "validation": [1]}
    given["dataset"]["metadata"] = {"label_field": "Compound", "control_id": 17}
    about = Config.of(given, "x")
    assert (about.train.partition.training_values, about.train.partition.validation_values) == (["0"], ["1"])
    assert about.train.partition.test_values == ["Test"] and about.dataset.metadata.control_value == "17"


def test_sites_of_the_validation_are_not_for_the_test_too() -> None:
    assert Config.of(content(train__partition__validation_values=["Test"]), "x").train.partition.test_values == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset__locations__box_sise": 3}, "unknown key dataset.locations.box_sise; did you mean box_size?"),
        ({"trian": {}}, "unknown key trian; did you mean train?"),
        ({"train__partition__trainig_values": []}, "did you mean training_values?"),
        ({"dataset__locations__box_size": "big"}, "dataset.locations.box_size is 'big'"),
        ({"dataset__images__bits": 12}, "dataset.images.bits is 12; it takes 8 or 16"),
        ({"dataset__images__channels": []}, "dataset.images.channels"),
        ({"dataset__images__channels": ["A", "A"]}, "has A twice"),
        ({"dataset__locations": {}}, "has no dataset.locations.box_size"),
        ({"train__partition__targets": ["moa"]}, "train.partition.targets begins with moa"),
        ({"train__partition__validation_values": ["Training"]}, "'Training' for training and for validation"),
        ({"paths": {"imagse": "x"}}, "unknown key paths.imagse; did you mean images?"),
        ({"dataset__locations__mode": "cells"}, "dataset.locations.mode is 'cells'"),
    ],
)
def test_what_a_configuration_may_not_say(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput) as error:
        Config.of(content(**changes), "some.json")
    assert line in str(error.value) and str(error.value).startswith("some.json: ") and "\n" not in str(error.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["dataset", "train", "prepare", "profile", "paths", "dataset__images", "train__partition"]), _json
)
def test_any_json_is_a_configuration_or_one_line(where: str, value: object) -> None:
    try:
        Config.of(content(**{where: value}), "x")
    except BadInput as error:
        assert len(str(error).splitlines()) == 1


def test_a_project(tmp_path: Path) -> None:
    root = small(tmp_path)
    project = Project.open(root)
    sites = project.sites()
    assert len(sites) == 16 and sites[0].key == "P-1/A01/1" and sites[-1].key == "P-2/A04/2"
    assert project.classes == ("DMSO", "NA", "Zinc", "aspirin") and set(project.classes) == set(LABELS)
    assert sites[0].split == "Training" and sites[-1].split == "Validation" and sites[2].label == "NA"
    image = project.read(sites[3])
    assert image.shape == (2, 48, 64) and image.dtype == np.uint8
    assert (image[1] == np.asarray(Image.open(root / "inputs/images/P-1/A02_s2_ER.png"))).all()
    at = project.locations(sites[0])
    table = pd.read_csv(root / "inputs/locations/P-1/A01-1-Nuclei.csv")
    assert (at == table.to_numpy()).all() and at.dtype == np.float64


def test_sites_named_twice_are_left_out(tmp_path: Path) -> None:
    root = small(tmp_path)
    path = root / "inputs/metadata/index.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2].replace("DMSO", "Zinc"), lines[1]]) + "\n")
    project = Project.open(root)
    assert project.duplicates == (16, 17) and len(project.sites()) == 16
    assert [site.label for site in project.sites() if site.key == "P-1/A01/2"] == ["DMSO"]


def test_locations_that_are_no_numbers(tmp_path: Path) -> None:
    root = small(tmp_path)
    path = write_locations(root, "P-1", "A01", "1", np.array([[1.0, 2.0], [np.nan, 3.0], [4.5, np.inf], [5.0, 6.0]]))
    project = Project.open(root)
    first, second = project.sites()[:2]
    assert project.read_locations(first)[1] == 2
    assert project.locations(first).tolist() == [[1, 2], [5, 6]]
    project.location_file(second).unlink()
    assert project.locations(second).shape == (0, 2)
    path.write_text("X,Y\n1,2\n")
    with pytest.raises(BadInput, match="no column Nuclei_Location_Center_X"):
        project.locations(first)


def test_paths_stand_in_place_of_folders(tmp_path: Path) -> None:
    root = small(tmp_path)
    (root / "inputs/images").rename(tmp_path / "pictures")
    (root / "inputs/locations").rename(root / "places")
    (root / "inputs/metadata").rename(root / "meta")
    edit(root, paths={"images": str(tmp_path / "pictures"), "locations": "places", "metadata": "meta/"})
    project = Project.open(root)
    assert project.read(project.sites()[0]).shape == (2, 48, 64) and len(project.locations(project.sites()[0])) > 0


def test_compressed_images_are_used_where_there_are_some(tmp_path: Path) -> None:
    root = small(tmp_path, wells=1)
    index = root / "inputs/metadata/index.csv"
    index.write_text(index.read_text().replace(".png", ".TIF"))
    edit(root, prepare__compression__implement=True)
    # a project that came with its compressed images
    assert Project.open(root).sites()[0].paths[0] == root / "inputs/images/P-1/A01_s1_DNA.png"
    (root / "outputs/compressed/images").mkdir(parents=True)
    assert Project.open(root).sites()[0].paths[0] == root / "outputs/compressed/images/P-1/A01_s1_DNA.png"
    index.write_text(index.read_text().replace("P-1/A01", "raw/x/A01"))
    assert Project.open(root).sites()[0].paths[0] == root / "outputs/compressed/images/P-1/raw/x/A01_s1_DNA.png"


def refused(root: Path, line: str, **given: Any) -> None:
    with pytest.raises(BadInput) as error:
        Project.open(root, **given)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_projects_that_cannot_be_opened(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder")
    root = small(tmp_path)
    index = root / "inputs/metadata/index.csv"
    refused(root, "no such file", metadata="other.csv")
    refused(root, "no such file", config="other.json")
    text = index.read_text()
    index.write_text(text.replace(",ER,", ",EX,"))
    refused(root, "has no column ER; its columns are Metadata_Plate")
    index.write_text(text.splitlines()[0] + "\n")
    refused(root, "has no site")
    index.write_text(text.replace("P-1,A01,1", "P-1,../A01,1"))
    refused(root, "line 2: Metadata_Well is '../A01'")
    index.write_bytes(b"\xff\xfe\0")
    refused(root, "NUL bytes")
    index.write_text(text)
    (root / "inputs/config/b.json").write_text(json.dumps(content()))
    refused(root, "has 2 configurations (b.json, config.json); name one with --config")
    assert Project.open(root, "b.json").config.box == 16


def test_channels_that_differ_are_refused(tmp_path: Path) -> None:
    root = small(tmp_path)
    project = Project.open(root)
    site = project.sites()[0]
    for pixels in (np.zeros((48, 63), np.uint8), np.zeros((48, 64), np.uint16)):
        Image.fromarray(pixels).save(site.paths[1])
        with pytest.raises(BadInput, match="but DNA of this site has 64 x 48 pixels of uint8"):
            project.read(site)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["png", "tif", "deflate", "lzw", "big"])
def test_images_are_read_as_they_are(tmp_path: Path, bits: int, kind: str) -> None:
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (37, 53)).astype(f"uint{bits}")
    path = tmp_path / f"image.{'png' if kind == 'png' else 'tiff'}"
    if kind == "png":
        Image.fromarray(pixels).save(path)
    elif kind == "lzw":
        Image.fromarray(pixels).save(path, compression="tiff_lzw")
    else:
        order = ">" if kind == "big" else "<"
        compression = "zlib" if kind == "deflate" else None
        tifffile.imwrite(path, pixels, byteorder=order, compression=compression, predictor=bool(compression))
    about = images.header(path)
    assert (about.height, about.width, about.bits) == (37, 53, bits)
    found = images.read(path)
    assert found.dtype == pixels.dtype and (found == pixels).all()


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)

    def refuses(name: str, line: str, only_pixels: bool = False) -> None:
        for look in [images.read] if only_pixels else [images.read, images.header]:
            with pytest.raises(BadInput) as error:
                look(tmp_path / name)
            assert line in str(error.value) and "\n" not in str(error.value), error.value

    refuses("none.tif", "no such image")
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([grey, grey]), photometric="minisblack")
    refuses("pages.tif", "has 2 pages; an image has one, of one channel")
    tifffile.imwrite(tmp_path / "rgb.tif", np.dstack([grey] * 3), photometric="rgb")
    refuses("rgb.tif", "is no grey image")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "rgb.png")
    refuses("rgb.png", "is no grey image")
    tifffile.imwrite(tmp_path / "float.tif", grey.astype(np.float32))
    refuses("float.tif", "has float32 pixels")
    tifffile.imwrite(tmp_path / "signed.tif", grey.astype(np.int16))
    refuses("signed.tif", "has int16 pixels")
    (tmp_path / "text.png").write_text("no image")
    refuses("text.png", "not a readable image")
    (tmp_path / "empty.tif").write_bytes(b"")
    refuses("empty.tif", "not a readable image")
    (tmp_path / "folder.tif").mkdir()
    refuses("folder.tif", "no regular file")
    for name, save in (
        ("cut.png", lambda p: Image.fromarray(grey).save(p)),
        ("cut.tif", lambda p: tifffile.imwrite(p, grey)),
    ):
        save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) - 200])
        refuses(name, "not a readable image", only_pixels=True)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_images_are_one_line_or_pixels(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30)
    kind = data.draw(st.sampled_from(["tif", "png"]))
    path = folder / f"x.{kind}"
    if kind == "png":
        Image.fromarray(grey).save(path)
    else:
        tifffile.imwrite(path, grey, compression="zlib")
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        assert images.read(path).dtype in (np.uint8, np.uint16)
    except BadInput as error:
        assert len(str(error).splitlines()) == 1
