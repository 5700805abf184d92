"""Leave plates or wells out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.errors import BadInput
from models.cellprofiler import generate, splits
from models.cellprofiler.__main__ import main
from models.cellprofiler.project import Project

SMALL = {"plates": 5, "compounds": 2, "replicates": 3, "controls": 2, "cells": 1, "side": 128, "box": 32}


def _index(plates: int, wells: int, sites: int, labels: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    of_well = rng.integers(0, labels, (plates, wells))
    rows = [
        (f"p-{p}", f"A{w}", s, f"l{of_well[p, w]}") for p in range(plates) for w in range(wells) for s in range(sites)
    ]
    frame = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Compound"])
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


@given(plates=st.integers(3, 9), sites=st.integers(1, 3), held=st.sampled_from([1, 0.2]), seed=st.integers(0, 99))
def test_plates_stay_whole(plates: int, sites: int, held: float, seed: int) -> None:
    index = _index(plates, 4, sites, 3, seed)
    part = splits.by_plates(index, held, held, seed)
    of_plate = pd.Series(part).groupby(index.Metadata_Plate).unique()
    assert (of_plate.map(len) == 1).all()
    count = 1 if held == 1 else int(np.ceil(0.2 * plates))
    assert (of_plate.map(lambda p: p[0]).value_counts()[[1, 2]] == count).all()
    np.testing.assert_array_equal(part, splits.by_plates(index, held, held, seed))


@given(wells=st.integers(1, 12), sites=st.integers(1, 3), labels=st.integers(1, 4), test=st.sampled_from([0, 0.2, 2]),
       seed=st.integers(0, 99))  # fmt: skip
def test_wells_stay_whole_and_every_label_is_trained_on(
    wells: int, sites: int, labels: int, test: float, seed: int
) -> None:
    index = _index(2, wells, sites, labels, seed)
    part = splits.by_wells(index, "Compound", 0.25, test, seed)
    assert (pd.Series(part).groupby([index.Metadata_Plate, index.Metadata_Well]).nunique() == 1).all()
    assert set(index.Compound[part == 0]) == set(index.Compound)
    for _, rows in index.groupby("Compound"):
        here = rows.assign(part=part[rows.index]).drop_duplicates(["Metadata_Plate", "Metadata_Well"]).part
        assert (here == 1).sum() == min(np.ceil(0.25 * len(here)), len(here) - 1)
        assert (here == 2).sum() <= (np.ceil(test * len(here)) if test < 1 else test)


def test_the_verb_adds_a_split_and_keeps_the_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "project"
    generate.write(root, SMALL, 1)
    given = (root / "inputs/metadata/index.csv").read_bytes()
    assert main(["split", str(root), "--by", "plates", "--test", "1", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "training: 3 plates" in out and "--metadata index-plates.csv" in out
    assert (root / "inputs/metadata/index.csv").read_bytes() == given
    split = Project.open(root, metadata="index-plates.csv")
    before, after = Project.open(root).sites(), split.sites()
    assert [site.key for site in before] == [site.key for site in after]
    assert split.index["Split_given"].tolist() == [site.split for site in before]
    plates = {value: {site.plate for site in after if site.split == value} for value in ("Training", "Test")}
    assert len(plates["Training"]) == 3 and len(plates["Test"]) == 1
    # the same again changes nothing, another split is not written over it
    assert main(["split", str(root), "--by", "plates", "--test", "1", "--seed", "3"]) == 0
    held = (root / "inputs/metadata/index-plates.csv").read_bytes()
    assert main(["split", str(root), "--by", "plates", "--test", "2", "--seed", "4"]) == 2
    assert (root / "inputs/metadata/index-plates.csv").read_bytes() == held
    assert main(["split", str(root), "--by", "wells", "--out", "index.csv"]) == 2
    assert main(["split", str(root), "--by", "wells", "--out", "../index.csv"]) == 2
    assert (root / "inputs/metadata/index.csv").read_bytes() == given


def test_no_plate_left(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="leave none for training"):
        splits.by_plates(_index(2, 3, 1, 2, 0), 1, 1, 0)
