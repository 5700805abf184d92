"""Every cell of a project, cropped from the images as it is asked for: no store needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from models.cellprofiler import images
from models.cellprofiler.project import LOCATION_COLUMNS, Project, Site

KEY, TARGET, CLASS, SPLIT = "Key", "Target", "Class_Name", "Split"


class SiteCells:
    """A project's cells in the order of its sites and of their locations; see `stream.Cells`.

    Args:
        project: whose.
        sites: which of its sites (default: all).
        mode: of the crops, "integer" or "bilinear".

    Raises:
        BadInput: locations that are no table, or no image to tell the pixels' type.
    """

    def __init__(self, project: Project, sites: Sequence[Site] | None = None, mode: str = "integer") -> None:
        self.project, self.mode = project, mode
        self.sites = project.sites() if sites is None else list(sites)
        self.channels, self.box, self.classes = project.channels, project.box, project.classes
        self._locations = [project.locations(site) for site in self.sites]
        counts = [len(found) for found in self._locations]
        self._site = np.repeat(np.arange(len(self.sites)), counts)
        self._first = np.cumsum([0, *counts])
        filled = next((site for site, count in zip(self.sites, counts, strict=True) if count), None)
        self.dtype = np.dtype(images.header(filled.paths[0]).dtype if filled is not None else np.uint8)
        self._held: tuple[int, np.ndarray] | None = None

    @property
    def table(self) -> pd.DataFrame:
        """A row a cell: the index's columns, Key, the locations, Target, Class_Name and Split."""
        rows = np.array([site.row for site in self.sites], dtype=int)[self._site]
        table = self.project.index.iloc[rows].reset_index(drop=True)
        names = np.array([site.label for site in self.sites], dtype=object)[self._site]
        where = np.concatenate([*self._locations, np.empty((0, 2))])
        numbers = {name: number for number, name in enumerate(self.classes)}
        added = {
            KEY: np.array([site.key for site in self.sites], dtype=object)[self._site],
            LOCATION_COLUMNS[0]: where[:, 0],
            LOCATION_COLUMNS[1]: where[:, 1],
            TARGET: np.array([numbers.get(name, -1) for name in names], dtype=np.int64),
            CLASS: names,
            SPLIT: np.array([site.split for site in self.sites], dtype=object)[self._site],
        }
        return table.assign(**added)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, box, box) crops of some cells; each site's image is read once.

        Raises:
            BadInput: an image cannot be read.
        """
        rows = np.asarray(rows)
        out = np.empty((len(rows), len(self.channels), self.box, self.box), self.dtype)
        at = self._site[rows]
        for number in np.unique(at):
            which = np.flatnonzero(at == number)
            centres = self._locations[number][rows[which] - self._first[number]]
            out[which] = self.project.crops(self.sites[number], self._image(int(number)), centres, self.mode)
        return out

    def _image(self, number: int) -> np.ndarray:
        """A site's image; that of the last one is kept, as batches end within sites."""
        if self._held is None or self._held[0] != number:
            self._held = None  # two images need not be held at once
            self._held = number, self.project.read(self.sites[number])
        return self._held[1]
