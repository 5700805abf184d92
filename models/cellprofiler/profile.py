"""Features of every cell of every site, cropped straight from the images; a killed run goes on.

    outputs/EXP/features/PLATE/WELL/SITE.npz   features (cells, d) float32, in the order of the locations; locations
                                               (cells, 2); features_LAYER of further layers; metadata, a JSON text: the
                                               site's row of the index, and Metadata_Model. Nothing is pickled.
    outputs/EXP/features/PLATE.parquet         a row a cell: Metadata_*, Nuclei_Location_Center_X and _Y, deep_0 …
                                               (with several layers deep_LAYER_0 …)
    outputs/EXP/features/sites_without_cells.csv
    outputs/EXP/features/profile.json           by which model; the features of two models never mix

A site that is there, with the same cells, is not done again. Locations that changed since are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from ground.errors import BadInput
from ground.files import atomic_path, read_json, write_json, write_text
from ground.locks import alone
from ground.machine import available_cpus
from models.cellprofiler import preflight
from models.cellprofiler import snapshot as snapshots
from models.cellprofiler.opening import add_project, minutes, opened, stderr
from models.cellprofiler.parquet import write_plate
from models.cellprofiler.project import PLATE, SITE_COLUMNS, Project, Site, read_csv
from models.cellprofiler.snapshot import Snapshot, add_model

ABOUT, WITHOUT = "profile.json", "sites_without_cells.csv"
_FORMAT = "concert features 1"
_SILENT = 10  # seconds without a word
_WRITING = 8  # sites that wait to be written


@dataclass(frozen=True)
class Work:
    """A site to be looked at.

    Attributes:
        site: which.
        centres: (n, 2) of its cells, n at least 1.
        crc: of the centres; what is stored was made of the same cells.
    """

    site: Site
    centres: np.ndarray
    crc: int


def profile(
    project: Project,
    model: Snapshot,
    layers: Sequence[str] | None = None,
    exp: str = "results",
    plates: Sequence[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = stderr,
) -> Path:
    """Write the features of every cell.

    Args:
        project: whose.
        model: by which.
        layers: whose features (default: the layer that was best on the validation wells).
        exp: the folder below the project's outputs.
        plates: only these (default: all).
        overwrite: features of another model or of other layers are deleted first.
        say: is told what happens.

    Returns:
        The folder of features.

    Raises:
        BadInput: what `preflight.check` finds, a plate that is not there, a model that does not fit the crops, or
            features that are there already, of another model or of other layers.
    """
    if Path(exp).name != exp or exp in ("", ".", ".."):
        raise BadInput(f"--exp {exp}: is no name of a folder")
    chosen = model.layers(list(layers) if layers else None)
    model.fit(project)
    project = only(project, plates)
    located = preflight.check(project, "profile", say).located
    folder = project.outputs / exp / "features"
    with alone(folder, say):
        _begin(folder, _about(project, model, chosen), overwrite)
        for left in folder.rglob(".tmp-*"):
            left.unlink()
        works = [Work(site, at, zlib.crc32(np.ascontiguousarray(at).data)) for site, at in located if len(at)]
        todo = [work for work in works if not _there(folder, work)]
        if len(todo) < len(works):
            say(f"  {len(works) - len(todo)} of {len(works)} sites are there already")
        _extract(folder, project, model, chosen, todo, say)
        empty = [site for site, at in located if not len(at)]
        for site in empty:  # its cells may have been there before
            _place(folder, site).unlink(missing_ok=True)
        _note_empty(folder, project, empty)
        for plate in dict.fromkeys(work.site.plate for work in works):
            mine = [work for work in works if work.site.plate == plate]
            write_plate(folder, project, model.settings["NET"], chosen, [(work.site, work.crc) for work in mine])
    cells = sum(len(work.centres) for work in works)
    without = f", {len(empty)} sites without cells ({WITHOUT})" if empty else ""
    say(f"  {folder}: {cells} cells of {len(works)} sites, layer {', '.join(chosen)}{without}")
    return folder


def only(project: Project, plates: Sequence[str]) -> Project:
    """The project with some of its plates alone.

    Raises:
        BadInput: there is no such plate.
    """
    if not plates:
        return project
    there = set(project.index[PLATE])
    for plate in plates:
        if plate not in there:
            raise BadInput(f"--plates {plate}: the index has {', '.join(sorted(there)[:8])}")
    index = project.index[project.index[PLATE].isin(list(plates))].reset_index(drop=True)
    twice = np.flatnonzero(index.duplicated(list(SITE_COLUMNS)).to_numpy())
    return replace(project, index=index, duplicates=tuple(int(row) for row in twice))


def _about(project: Project, model: Snapshot, layers: Sequence[str]) -> dict[str, Any]:
    """All that the features of given cells depend on."""
    prepared = {"scale": project.scale, "compressed": project.compressed}
    return {
        "format": _FORMAT,
        "model": model.digest,
        "network": model.settings["NET"],
        "layers": list(layers),
        "channels": list(project.channels),
        "crop": model.crop,
        "locations": project.config.dataset.locations.model_dump(),
        **prepared,
    }


def _begin(folder: Path, about: dict[str, Any], overwrite: bool) -> None:
    """Raises BadInput where the folder's features are others; deletes them where that is wanted."""
    known = read_json(folder / ABOUT)
    if known == about:
        return
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            what = (
                "features that were not written by this command"
                if known is None
                else next(name for name in about if known.get(name) != about[name])
            )
            reason = {
                "model": "features of another model",
                "layers": f"layers {', '.join((known or {}).get('layers', []))}",
            }
            raise BadInput(
                f"{folder}: holds {reason.get(what, what if known is None else f'features made with another {what}')}; "
                "another name (--exp), or --overwrite"
            )
        # the description goes first: what is left, should this be killed, is known to be nobody's
        (folder / ABOUT).unlink(missing_ok=True)
        shutil.rmtree(folder)
    write_json(folder / ABOUT, about)


def _place(folder: Path, site: Site) -> Path:
    return folder / site.plate / site.well / f"{site.site}.npz"


def _there(folder: Path, work: Work) -> bool:
    """Whether a site's features are there, of the same cells."""
    try:
        with np.load(_place(folder, work.site), allow_pickle=False) as file:
            return int(file["crc"]) == work.crc
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return False


def _extract(
    folder: Path,
    project: Project,
    model: Snapshot,
    layers: tuple[str, ...],
    todo: Sequence[Work],
    say: Callable[[str], None],
) -> None:
    batch, extractor = model.member.batch, model.member.extractor
    rows = project.index.to_dict("records") if todo else []
    total, done, began, spoke = sum(len(work.centres) for work in todo), 0, time.monotonic(), time.monotonic()
    with ThreadPoolExecutor(1) as writer:
        writing: deque[Future[None]] = deque()
        for works, crops in _groups(_cropped(project, todo, model.crop, extractor.device.type), batch):
            parts = [extractor(part, layers)[1] for part in torch.from_numpy(crops).split(batch)]
            found = {layer: torch.cat([part[layer] for part in parts]).cpu().numpy() for layer in layers}
            start = 0
            for work in works:
                mine = slice(start, start + len(work.centres))
                arrays = {layer: found[layer][mine] for layer in layers}
                row = {str(k): v for k, v in rows[work.site.row].items()}
                writing.append(writer.submit(_write, folder, work, arrays, row, str(model.settings["NET"])))
                start = mine.stop
            while len(writing) > _WRITING:
                writing.popleft().result()
            done += start
            if time.monotonic() - spoke > _SILENT:
                spoke = time.monotonic()
                speed = done / (spoke - began)
                say(f"  {done} of {total} cells, {speed:.0f} a second, {minutes((total - done) / speed)} left")
        for future in writing:
            future.result()


def _cropped(project: Project, works: Sequence[Work], mode: str, device: str) -> Iterator[tuple[Work, np.ndarray]]:
    """Each site's crops, read and cut ahead of who needs them."""
    readers = min(8, available_cpus()) if device == "cuda" else 1

    def cut(work: Work) -> np.ndarray:
        return project.crops(work.site, project.read(work.site), work.centres, mode)

    with ThreadPoolExecutor(readers) as pool:
        coming: deque[tuple[Work, Future[np.ndarray]]] = deque()
        for work in works:
            coming.append((work, pool.submit(cut, work)))
            if len(coming) > readers + 1:
                first, future = coming.popleft()
                yield first, future.result()
        while coming:
            first, future = coming.popleft()
            yield first, future.result()


def _groups(cropped: Iterator[tuple[Work, np.ndarray]], batch: int) -> Iterator[tuple[list[Work], np.ndarray]]:
    """Sites together, until they fill a batch."""
    works: list[Work] = []
    held: list[np.ndarray] = []
    for work, crops in cropped:
        works.append(work)
        held.append(crops)
        if sum(map(len, held)) >= batch:
            yield works, np.concatenate(held) if len(held) > 1 else held[0]
            works, held = [], []
    if works:
        yield works, np.concatenate(held)


def _write(folder: Path, work: Work, arrays: dict[str, np.ndarray], row: dict[str, str], net: str) -> None:
    first, *others = arrays
    named: dict[str, Any] = {"features": arrays[first], **{f"features_{layer}": arrays[layer] for layer in others}}
    metadata = json.dumps({**row, "Metadata_Model": net})
    with atomic_path(_place(folder, work.site)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **named, locations=work.centres, metadata=np.array(metadata), crc=np.array(work.crc))


def _note_empty(folder: Path, project: Project, empty: Sequence[Site]) -> None:
    """The sites without cells, those of other plates as they were."""
    path = folder / WITHOUT
    rows = pd.DataFrame([(site.plate, site.well, site.site) for site in empty], columns=list(SITE_COLUMNS), dtype=str)
    if path.exists():
        before = read_csv(path)
        rows = pd.concat([before[~before[PLATE].isin(set(project.index[PLATE]))], rows])
    write_text(path, rows.sort_values(list(SITE_COLUMNS)).to_csv(index=False))


def arguments(parser: argparse.ArgumentParser) -> None:
    add_project(parser)
    add_model(parser)
    parser.add_argument("--layer", nargs="+", metavar="L", help="such as pool, block6a_activation, probabilities "
                        "(default: the one that was best on the validation wells)")  # fmt: skip
    parser.add_argument("--exp", default="results", metavar="NAME", help="folder in outputs (default: %(default)s)")
    parser.add_argument("--plates", nargs="+", default=[], metavar="PLATE", help="only these")
    parser.add_argument("--overwrite", action="store_true", help="delete features of another model or of other layers")


def main(given: argparse.Namespace) -> None:
    project = opened(given)
    model = snapshots.opened(given)
    print(profile(project, model, given.layer, given.exp, given.plates, given.overwrite))
