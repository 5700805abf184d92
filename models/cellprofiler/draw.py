"""Which cells of which sites are sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ground.errors import BadInput
from models.cellprofiler.project import Project, Site


@dataclass(frozen=True)
class Options:
    """How cells are drawn.

    Attributes:
        factor: of the median number of cells of a training site, which are drawn from each (at least one, at most all);
            None: the configuration's.
        everything: all cells of all sites, whatever their split.
        held_out: cells of each site of the validation and test values; None: all.
        original: sites are drawn as the original does: of each class as many as the median class has, with
            replacement where it has fewer. Otherwise every training site is there once.
        seed: of all draws. A site's cells depend on the seed and on its own name alone.
    """

    factor: float | None = None
    everything: bool = False
    held_out: int | None = None
    original: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        sites: those with cells, in the index's order.
        centres: (n, 2) x and y of each site's cells, in its file's order.
        repeats: (n,) how often each cell was drawn.
        notes: what a person should know, a line each.
    """

    sites: list[Site]
    centres: list[np.ndarray]
    repeats: list[np.ndarray]
    notes: list[str]


def draw(project: Project, located: Sequence[tuple[Site, np.ndarray]], options: Options) -> Drawn:
    """Draw cells.

    Args:
        project: its partition says which sites are for what.
        located: every site, and its (n, 2) locations.
        options: how.

    Raises:
        BadInput: there is no training site, or none with a cell.
    """
    partition = project.config.train.partition
    held_out = set(partition.validation_values) | set(partition.test_values)
    training = [(site, at) for site, at in located if site.split in partition.training_values]
    times = {site.row: 1 for site, _ in training}
    per_site = 0
    if not options.everything:
        if not training:
            raise BadInput(
                f"{project.index_path}: {partition.split_field} is {' or '.join(partition.training_values)} for no site"
                " (train.partition.training_values)"
            )
        with_cells = [(site, at) for site, at in training if len(at)]
        if not with_cells:
            raise BadInput(f"{project.locations_folder}: no training site has a cell; the first, {training[0][0].key}")
        factor = project.config.train.sampling.factor if options.factor is None else options.factor
        per_site = max(1, int(factor * int(np.median([len(at) for _, at in with_cells]))))
        if options.original:
            times = _original(training, with_cells, options.seed)
    drawn = Drawn([], [], [], [])
    empty: list[Site] = []
    unused = 0
    for site, at in located:
        if options.everything:
            repeats = np.ones(len(at), np.int64)
        elif site.split in partition.training_values:
            repeats = _cells(site, len(at), per_site, times.get(site.row, 0), options.seed)
        elif site.split in held_out:
            repeats = _cells(site, len(at), options.held_out, 1, options.seed)
        else:
            unused += 1
            continue
        if not len(at):
            empty.append(site)
        if repeats.any():
            drawn.sites.append(site)
            drawn.centres.append(at[repeats > 0])
            drawn.repeats.append(repeats[repeats > 0])
    if not drawn.sites:
        raise BadInput(f"{project.locations_folder}: no site has a cell; the first, {located[0][0].key}")
    if empty:
        drawn.notes.append(f"{len(empty)} sites have no cell; the first, {empty[0].key}")
    if unused:
        drawn.notes.append(f"{unused} sites are for neither training, validation nor test")
    return drawn


def _original(
    training: Sequence[tuple[Site, np.ndarray]], with_cells: Sequence[tuple[Site, np.ndarray]], seed: int
) -> dict[int, int]:
    """How often each training site is drawn: a row of the index -> times."""
    counts: dict[str, int] = {}
    for site, _ in with_cells:
        counts[site.label] = counts.get(site.label, 0) + 1
    wanted = int(np.median(list(counts.values())))
    times: dict[int, int] = {}
    generator = np.random.default_rng(seed)
    for label in sorted(counts):
        rows = [site.row for site, _ in training if site.label == label]
        for row in generator.choice(rows, wanted, replace=len(rows) < wanted):
            times[int(row)] = times.get(int(row), 0) + 1
    return times


def _cells(site: Site, there: int, wanted: int | None, times: int, seed: int) -> np.ndarray:
    """(there,) how often each cell of a site is drawn: `wanted` of them without repeats, that `times` times."""
    if wanted is None or there <= wanted:
        return np.full(there, times)
    repeats = np.zeros(there, np.int64)
    generator = np.random.default_rng([seed, *hashlib.sha256(site.key.encode()).digest()[:16]])
    for _ in range(times):
        repeats[generator.choice(there, wanted, replace=False)] += 1
    return repeats
