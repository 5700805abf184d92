"""Leave whole plates or wells out: another index, whose split field says what is for training, validation and test.

The given split stays as it is. The new index lies beside the given one; every other command takes it with --metadata,
a search with `data: {metadata: FILE}`. In it the given split is called <field>_given.

plates: whole plates are for validation and for the test. What is scored there is what a laboratory asks of a network:
new plates. wells: of each label some wells, whatever their plate; such scores are better than those of new plates, as
wells of a plate are alike in more than what was put into them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import write_text
from models.cellprofiler.opening import add_project, opened
from models.cellprofiler.project import PLATE, WELL, Project

TRAINING, VALIDATION, TEST = range(3)


def by_plates(index: pd.DataFrame, validation: float, test: float, seed: int) -> np.ndarray:
    """(rows,) the part of each row: whole plates.

    Args:
        index: a row a site.
        validation, test: plates, or below 1 their share; at least one each where it is above 0.
        seed: which ones.

    Raises:
        BadInput: no plate is left for training.
    """
    code, plates = pd.factorize(index[PLATE], sort=True)
    counts = [_count(wanted, len(plates)) for wanted in (validation, test)]
    if sum(counts) >= len(plates):
        raise BadInput(
            f"{len(plates)} plates: {counts[0]} for validation and {counts[1]} for the test leave none for training"
        )
    parts = np.repeat([VALIDATION, TEST, TRAINING], [*counts, len(plates) - sum(counts)])
    of_plate = np.empty(len(plates), int)
    of_plate[np.random.default_rng(seed).permutation(len(plates))] = parts
    return of_plate[code]


def by_wells(index: pd.DataFrame, label: str, validation: float, test: float, seed: int) -> np.ndarray:
    """(rows,) the part of each row: whole wells, of each label its share.

    Args:
        index: a row a site.
        label: the column of labels.
        validation, test: share of a label's wells; from 1 on, their number. One at least stays for training: where a
            label has too few wells, the test gets none first, then validation.
        seed: which ones.
    """
    well = index.groupby([PLATE, WELL], sort=True).ngroup().to_numpy()
    first = np.unique(well, return_index=True)[1]
    code = pd.factorize(index[label].iloc[first], sort=True)[0]
    rng, part = np.random.default_rng(seed), np.zeros(len(first), int)
    for each in range(code.max() + 1):
        wells = rng.permutation(np.flatnonzero(code == each))
        held = min(_count(validation, len(wells)), len(wells) - 1)
        tested = min(_count(test, len(wells)), len(wells) - 1 - held)
        part[wells[:held]], part[wells[held : held + tested]] = VALIDATION, TEST
    return part[well]


def _count(wanted: float, there: int) -> int:
    return int(wanted) if wanted >= 1 else int(np.ceil(wanted * there))


def write(project: Project, part: np.ndarray, name: str, overwrite: bool = False) -> Path:
    """The project's index with another split.

    Args:
        project: whose.
        part: (rows,) of the index.
        name: of the file.
        overwrite: replace one that is there.

    Returns:
        The file, beside the project's index.

    Raises:
        BadInput: it is there and differs, or the configuration has no value for one of the parts.
    """
    field, values = project.config.train.partition.split_field, part_values(project)
    index = project.index.copy()
    if field in index:
        index[f"{field}_given"] = index.pop(field)
    index[field] = np.array(values, dtype=object)[part]
    if Path(name).name != name or name in ("", "..", project.index_path.name):
        raise BadInput(f"--out {name}: the name of a new file in {project.index_path.parent}")
    path = project.index_path.with_name(name)
    text = index.to_csv(index=False)
    if path.exists() and not overwrite and path.read_text(encoding="utf-8") != text:
        raise BadInput(f"{path} is there already, with another split; --overwrite replaces it")
    write_text(path, text)
    return path


def part_values(project: Project) -> tuple[str, str, str]:
    """The split field's value for training, validation and test: the configuration's first of each.

    Raises:
        BadInput: there is none for one of them.
    """
    partition = project.config.train.partition
    found = []
    for name in ("training", "validation", "test"):
        values = getattr(partition, f"{name}_values")
        if not values and name == "test":
            values = ["Held-out"]  # what the configuration does not name is for nothing else
        if not values:
            raise BadInput(f"{project.config_path}: train.partition.{name}_values names no value")
        found.append(values[0])
    return found[0], found[1], found[2]


def report(project: Project, part: np.ndarray) -> list[str]:
    """A line for each part, and what a person should know."""
    index, lines = project.index, []
    labels = index[project.label_field].to_numpy(object)
    for number, name in enumerate(("training", "validation", "test")):
        rows = part == number
        plates = index[PLATE][rows].nunique()
        wells = len(index[rows].drop_duplicates([PLATE, WELL]))
        lines.append(f"{name}: {plates} plates, {wells} wells, {rows.sum()} sites, {len(set(labels[rows]))} labels")
    unknown = set(labels[part != TRAINING]) - set(labels[part == TRAINING])
    if unknown:
        lines.append(f"held out and never trained on: {len(unknown)} labels, such as {min(unknown)}")
    return lines


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    parser.add_argument("--by", choices=("plates", "wells"), required=True)
    parser.add_argument("--validation", type=_amount, default=0.2, help="plates or wells of a label, or a share (.2)")
    parser.add_argument("--test", type=_amount, default=0.2, help="the same; 0: none (default: .2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE", help="in inputs/metadata (default: index-plates.csv, index-wells.csv)")
    parser.add_argument("--overwrite", action="store_true")


def _amount(text: str) -> float:
    value = float(text)
    if not (0 <= value < 1 or (value == int(value) and value < 1e6)):
        raise argparse.ArgumentTypeError(f"{text} is neither a share below 1 nor a whole number")
    return value


def main(given: argparse.Namespace) -> None:
    project = opened(given)
    if given.validation == 0:
        raise BadInput("--validation 0: a search is scored on validation wells")
    if given.by == "plates":
        part = by_plates(project.index, given.validation, given.test, given.seed)
    else:
        part = by_wells(project.index, project.label_field, given.validation, given.test, given.seed)
    path = write(project, part, given.out or f"index-{given.by}.csv", given.overwrite)
    print("\n".join([*report(project, part), f"{path}: give it to sample and others with --metadata {path.name}"]))
