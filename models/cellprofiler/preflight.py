"""What is wrong with a project, found before hours of work: nothing is decoded, headers and tables are read.

Of each kind of problem there is one line: how many, and the first by name. What stops:

    images that are missing, cannot be read, or differ in size or depth from the configuration or within a site
    locations that are no table, masks that are missing, more than 1 % of the cells outside their image, no cell at all
    a site without label, one class alone, no site for training   (before `sample`, unless --all)

What is only told: sites named twice (the first counts), locations that are no numbers (left out), some cells outside
their image (their crops are 0 where there is no image), sites without cells, values of the split that are for nothing,
no site for validation, classes that are absent from training or validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from ground.errors import BadInput
from models.cellprofiler import images
from models.cellprofiler.opening import minutes
from models.cellprofiler.project import SITE_COLUMNS, Project, Site

MOST_OUTSIDE = 0.01
_THREADS = 8
_SILENT = 20  # seconds without a word
T = TypeVar("T")


@dataclass
class Problem:
    """One kind of problem.

    Attributes:
        what: in words, {n} for the number.
        count: how often.
        first: the first one, by name.
        stops: whether work must not begin.
    """

    what: str
    count: int
    first: str
    stops: bool

    @property
    def line(self) -> str:
        words = self.what.replace("{n}", str(self.count))
        return f"{words}; the first, {self.first}" if self.first else words


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: a kind each, those that stop first.
        located: every site and the (n, 2) locations of its cells; empty before `prepare`.
    """

    problems: list[Problem] = field(default_factory=list)
    located: list[tuple[Site, np.ndarray]] = field(default_factory=list)

    def add(self, what: str, found: Sequence[str], stops: bool = True, count: int | None = None) -> None:
        if found:
            self.problems.append(Problem(what, len(found) if count is None else count, found[0], stops))


def check(project: Project, purpose: str, say: Callable[[str], None]) -> Report:
    """Look, tell what is only told, and stop where that must be.

    Args:
        purpose: "prepare" (original images alone), "profile" (and locations) or "sample" (and labels and split).

    Raises:
        BadInput: something stops; where several things do, all were told.
    """
    report = look(project, purpose, say)
    stopping = [problem for problem in report.problems if problem.stops]
    for problem in report.problems:
        if not problem.stops or len(stopping) > 1:
            say(f"  {problem.line}")
    if stopping:
        more = f" (and {len(stopping) - 1} more, above)" if len(stopping) > 1 else ""
        raise BadInput(f"{project.root}: {stopping[0].line}{more}")
    return report


def look(project: Project, purpose: str, say: Callable[[str], None]) -> Report:
    """All that is wrong, as far as the purpose needs it."""
    report = Report()
    sites = project.sites()
    twice = [f"{_key(project, row)}, line {row + 2} of {project.index_path.name}" for row in project.duplicates]
    report.add("{n} rows of the index name a site again and are left out", twice, stops=False)
    sizes = _images(project, sites, purpose, report, say)
    if purpose != "prepare":
        _locations(project, sites, sizes, report, say)
        _masks(project, sites, sizes, report, say)
    if purpose == "sample":
        _labels(project, sites, report)
    report.problems.sort(key=lambda problem: not problem.stops)
    return report


def _key(project: Project, row: int) -> str:
    return "/".join(project.index[name].iloc[row] for name in SITE_COLUMNS)


def _mapped(work: Callable[[Site], T], sites: Sequence[Site], what: str, say: Callable[[str], None]) -> list[T]:
    """`work` of every site, in threads, with a word from time to time."""
    found: list[T] = []
    began = spoke = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        for result in pool.map(work, sites):
            found.append(result)
            if time.monotonic() - spoke > _SILENT:
                spoke = time.monotonic()
                left = (spoke - began) / len(found) * (len(sites) - len(found))
                say(f"  {what}: {len(found)} of {len(sites)} sites, {minutes(left)} left")
    return found


def _header(path: Path) -> images.Header | str | None:
    """What a file says of itself, why it says nothing, or None where it is missing."""
    try:
        return images.header(path)
    except BadInput as error:
        return str(error) if path.exists() else None


def _images(
    project: Project, sites: Sequence[Site], purpose: str, report: Report, say: Callable[[str], None]
) -> list[tuple[float, float] | None]:
    """Height and width of each site's images, in pixels of the locations; None where it has none that can be read."""
    about = project.config.dataset.images
    original = purpose == "prepare" or not project.config.prepare.compression.implement
    scale, bits = (1.0, about.bits) if original else (project.scale, 8)
    paths = project.originals() if purpose == "prepare" else None
    of = {site.row: site.paths if paths is None else paths[site.row] for site in sites}
    headers = _mapped(lambda site: [_header(path) for path in of[site.row]], sites, "images", say)
    expected = None if project.size is None else tuple(int(side * scale) for side in project.size)
    missing, damaged, sized, depth, differ = [], [], [], [], []
    sizes: list[tuple[float, float] | None] = []
    for site, found in zip(sites, headers, strict=True):
        good = []
        for channel, path, header in zip(project.channels, of[site.row], found, strict=True):
            if header is None:
                missing.append(f"{path} ({channel} of {site.key})")
            elif isinstance(header, str):
                damaged.append(header)
            else:
                good.append(header)
                if expected is not None and (header.height, header.width) != expected:
                    sized.append(f"{path}: {header.width} x {header.height}")
                if bits is not None and header.bits != bits:
                    depth.append(f"{path}: {header.bits}")
        if len(set(good)) > 1:
            words = ", ".join(f"{h.width} x {h.height} of {h.bits} bits" for h in dict.fromkeys(good))
            differ.append(f"{site.key}: {words}")
        sizes.append((good[0].height / scale, good[0].width / scale) if good else None)
    advice = "" if original else " (`prepare` writes the compressed ones)"
    report.add("{n} images are missing" + advice, missing)
    report.add("{n} images cannot be read", damaged)
    if expected is not None:
        report.add(f"{{n}} images are not of the configuration's {expected[1]} x {expected[0]} pixels", sized)
    report.add(f"{{n}} images are not of {bits} bits", depth)
    report.add("{n} sites have channels that differ in size or depth", differ)
    if bits is None:
        kinds = {header.bits for found in headers for header in found if isinstance(header, images.Header)}
        report.add("some images are of 8, others of 16 bits", [""] if len(kinds) > 1 else [])
    return sizes


def _locations(
    project: Project,
    sites: Sequence[Site],
    sizes: Iterable[tuple[float, float] | None],
    report: Report,
    say: Callable[[str], None],
) -> None:
    def read(site: Site) -> tuple[np.ndarray, int, str]:
        try:
            return *project.read_locations(site), ""
        except BadInput as error:
            return np.empty((0, 2)), 0, str(error)

    dropped, outside, damaged, empty = [], [], [], []
    cells = lost = beyond = 0
    for site, size, (at, bad, why) in zip(sites, sizes, _mapped(read, sites, "locations", say), strict=True):
        report.located.append((site, at))
        cells, lost = cells + len(at), lost + bad
        if why:
            damaged.append(why)
        elif not len(at):
            empty.append(site.key)
        if bad:
            dropped.append(f"{project.location_file(site)}: {bad}")
        if size is not None:
            out = ((at < 0) | (at >= [size[1], size[0]])).any(1)
            if out.any():
                beyond += int(out.sum())
                x, y = at[np.flatnonzero(out)[0]]
                outside.append(f"{site.key}: x {x:g}, y {y:g} in {size[1]:g} x {size[0]:g} pixels")
    report.add("{n} files of locations cannot be used", damaged)
    report.add("{n} locations are no numbers and are left out", dropped, stops=False, count=lost)
    much = beyond > MOST_OUTSIDE * cells
    report.add(f"{{n}} of {cells} cells lie outside their image", outside, stops=much, count=beyond)
    if not cells and not damaged:
        report.add("no site has a cell", [f"{project.location_file(sites[0])}"])
    else:
        report.add("{n} sites have no cell", empty, stops=False)


def _masks(
    project: Project,
    sites: Sequence[Site],
    sizes: Sequence[tuple[float, float] | None],
    report: Report,
    say: Callable[[str], None],
) -> None:
    about = project.config.dataset.locations
    if not about.mask_objects or about.mode != "single_cells":
        return

    def look(site: Site) -> images.Header | str:
        try:
            return images.header(project.mask_file(site))
        except BadInput as error:
            return str(error)

    wrong, sized = [], []
    for site, size, found in zip(sites, sizes, _mapped(look, sites, "masks", say), strict=True):
        if isinstance(found, str):
            wrong.append(found)
        elif size is not None and (found.height, found.width) != tuple(round(side * project.scale) for side in size):
            sized.append(f"{project.mask_file(site)}: {found.width} x {found.height}")
    report.add("{n} masks cannot be used", wrong)
    report.add("{n} masks differ from their images in size", sized)


def _labels(project: Project, sites: Sequence[Site], report: Report) -> None:
    partition = project.config.train.partition
    no_label = [f"{site.key}, line {site.row + 2} of {project.index_path.name}" for site in sites if not site.label]
    report.add(f"{{n}} sites have no {project.label_field}", no_label)
    classes = [name for name in project.classes if name]
    if len(classes) == 1:
        report.add(f"{project.label_field} has one class alone, {classes[0]!r}", [""])
    if partition.split_field not in project.index:
        report.add(f"the index has no column {partition.split_field} (train.partition.split_field)", [""])
        return
    parts = {"training": partition.training_values, "validation": partition.validation_values}
    labels = {name: {site.label for site in sites if site.split in values} for name, values in parts.items()}
    for name, values in parts.items():
        there = sorted({site.split for site in sites})
        if not labels[name]:
            found = ", ".join(map(repr, there[:5]))
            line = f"no site is for {name}: {partition.split_field} is never {' or '.join(values)}, but {found}"
            report.add(line, [""], stops=name == "training")
        absent = [label for label in classes if label not in labels[name]]
        if labels[name]:
            report.add(f"{{n}} of {len(classes)} classes are absent from {name}", absent, stops=False)
    if labels["training"] and len(labels["training"]) < 2 and len(classes) > 1:
        report.add(f"training has one class alone, {min(labels['training'])!r}", [""])
    known = {*partition.training_values, *partition.validation_values, *partition.test_values}
    unused = [f"{site.key}: {site.split!r}" for site in sites if site.split not in known]
    report.add("{n} sites are for neither training, validation nor test", unused, stops=False)
