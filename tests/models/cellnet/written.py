"""Small xy files whose ghosts can be told: real voxels are crossed tracks, ghosts what two planes alone agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.cellnet import xy

BOX = 24


def event(rng: np.random.Generator, tracks: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (N, 6) of x, y, z and three charges, their truth (N, 1), and all true voxels (M, 4)."""
    true = set()
    for _ in range(tracks):
        begin, direction = rng.uniform(4, BOX - 4, 3), rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        for step in np.arange(-10, 10, 0.5):
            cell = np.floor(begin + step * direction).astype(int)
            if (cell >= 0).all() and (cell < BOX).all():
                true.add(tuple(cell.tolist()))
    cells = np.array(sorted(true))
    charge = rng.gamma(4, 0.5, len(cells))
    ghosts = np.unique(rng.integers(0, BOX, (3 * len(cells), 3)), axis=0)
    ghosts = ghosts[[tuple(g) not in true for g in ghosts.tolist()]]
    seen = rng.random(len(cells)) < 0.95  # what no plane saw is true, but not active
    rows = np.concatenate([cells[seen], ghosts])
    y = np.concatenate([charge[seen], np.zeros(len(ghosts))])
    planes = np.where(y[:, None] > 0, y[:, None] * 1000, rng.gamma(2, 300, (len(rows), 1)))
    planes = planes * rng.normal(1, 0.15, (len(rows), 3)).clip(0.3)
    order = np.lexsort(rows.T[::-1])
    truth = np.column_stack([cells, charge])
    return np.column_stack([rows, planes])[order], y[order, None], truth


def write(path: Path, seed: int, events: int = 2, truth: bool = True) -> Path:
    """One xy file."""
    rng = np.random.default_rng(seed)
    made = [event(rng) for _ in range(events)]
    counts = [len(rows) for rows, _, _ in made]
    x = np.concatenate([np.insert(rows, 3, number, axis=1) for number, (rows, _, _) in enumerate(made)])
    starts = np.cumsum([0, *counts[:-1]])
    y = np.concatenate([y for _, y, _ in made]).astype(np.float32)
    if truth:
        xy.write(path, x.astype(np.float32), starts, y, [t.astype(np.float32) for _, _, t in made])
    else:
        xy.write(path, x.astype(np.float32), starts)
    return path


def folder(place: Path, kind: str = "Electron", files: int = 6, tpc: int = 1, first: int = 1, **options: int) -> Path:
    """A folder of xy files, numbered from `first`."""
    place.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + files):
        write(place / f"reco_{kind}_{index:03d}_xy-TPC{tpc}.npz", 100 * tpc + index, **options)
    return place
