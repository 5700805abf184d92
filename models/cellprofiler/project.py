"""A DeepProfiler project: its folders, the index of sites, their images and the cells' locations.

    ROOT/inputs/config/NAME.json   images/   locations/PLATE/WELL-SITE-Nuclei.csv   metadata/index.csv   outlines/
    ROOT/outputs/...

Every path comes from the index and the configuration's `paths`, which stand in place of the folders above; relative
ones begin at ROOT. Where `prepare.compression.implement` is true, images are the compressed ones: those of `prepare`,
or PNGs of the index's names where the project came with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.limits import shown
from ground.tables import measure
from models.cellprofiler import crops, images
from models.cellprofiler.config_json import Config

PLATE, WELL, SITE = SITE_COLUMNS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
X, Y = LOCATION_COLUMNS = ("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y")
_LONGEST = 100  # bytes of the name of a plate, well or site
_SUFFIX = re.compile(r"\.(tiff?|png|jpe?g|bmp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Site:
    """A field of view.

    Attributes:
        plate, well, site: where it is.
        paths: its images, a channel each, in the configuration's order.
        label: its class.
        split: value of the split field, "" where the index has none.
        row: of the index.
    """

    plate: str
    well: str
    site: str
    paths: tuple[Path, ...]
    label: str
    split: str
    row: int

    @property
    def key(self) -> str:
        return f"{self.plate}/{self.well}/{self.site}"


@dataclass(frozen=True)
class Project:
    """A project as `Project.open` found it.

    Attributes:
        root: its folder.
        config: its configuration.
        config_path: where that is.
        index: a row a site, every column text.
        duplicates: rows of the index whose site an earlier row has; they are not used.
    """

    root: Path
    config: Config
    config_path: Path
    index_path: Path
    index: pd.DataFrame = field(repr=False, compare=False)
    duplicates: tuple[int, ...] = ()

    @classmethod
    def open(cls, root: Path, config: str | None = None, metadata: str = "index.csv") -> Project:
        """Read a project's configuration and index.

        Args:
            root: its folder.
            config: a file in inputs/config (None: the only JSON there).
            metadata: the index's file in inputs/metadata.

        Raises:
            BadInput: no such folder or file, several configurations, an index that lacks a column, a cell of it that
                cannot be, or what `Config.read` refuses.
        """
        root = Path(root)
        if not root.is_dir():
            raise BadInput(f"{root}: no such folder")
        path = _configuration(root / "inputs" / "config", config)
        found = Config.read(path)
        folder = _folder(root, found, "metadata", "inputs/metadata")
        at = (
            _under(root, found.paths["index"])
            if "index" in found.paths and metadata == "index.csv"
            else folder / metadata
        )
        index = read_csv(at)
        needed = [*SITE_COLUMNS, *found.channels, found.dataset.metadata.label_field]
        missing = [name for name in needed if name not in index.columns]
        if missing:
            raise BadInput(f"{at}: has no column {missing[0]}; its columns are {', '.join(index.columns[:20])}")
        if not len(index):
            raise BadInput(f"{at}: has no site")
        _check_names(at, index)
        twice = np.flatnonzero(index.duplicated(list(SITE_COLUMNS)).to_numpy())
        return cls(root, found, path, at, index, tuple(int(row) for row in twice))

    @property
    def channels(self) -> tuple[str, ...]:
        return self.config.channels

    @property
    def box(self) -> int:
        """The side of a crop, in pixels."""
        return self.config.box

    @property
    def label_field(self) -> str:
        return self.config.dataset.metadata.label_field

    @property
    def control(self) -> str:
        """The label of controls, "" where the configuration names none."""
        return self.config.dataset.metadata.control_value

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of all rows of the index, sorted, capitals first."""
        return tuple(sorted(set(self.index[self.label_field])))

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    def folder(self, name: str, default: str) -> Path:
        """The folder that the configuration's `paths` name, or its default below the root."""
        return _folder(self.root, self.config, name, default)

    @cached_property
    def images_folder(self) -> Path:
        """Where images are read from."""
        return self.compressed_folder if self.compressed else self.originals_folder

    @property
    def originals_folder(self) -> Path:
        return self.folder("images", "inputs/images")

    @property
    def compressed_folder(self) -> Path:
        return self.folder("compressed_images", "outputs/compressed/images")

    @property
    def locations_folder(self) -> Path:
        return self.folder("locations", "inputs/locations")

    @cached_property
    def compressed(self) -> bool:
        """Whether images are those that `prepare` wrote."""
        if not self.config.prepare.compression.implement:
            return False
        if self.compressed_folder.is_dir():
            return True
        # the project may have come with compressed images in place of the others
        return not self.compressed_names(0, self.originals_folder)[0].exists()

    @property
    def scale(self) -> float:
        """Pixels of the images that are read, for one of those that were located in."""
        compression = self.config.prepare.compression
        return compression.scaling_factor if compression.implement else 1.0

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """Height and width that the configuration says the images have, before any compression."""
        about = self.config.dataset.images
        return None if about.height is None or about.width is None else (about.height, about.width)

    def sites(self) -> list[Site]:
        """Sites in the index's order; rows that repeat an earlier one's are left out (see `duplicates`)."""
        partition = self.config.train.partition.split_field
        names = [self.index[column].tolist() for column in (*SITE_COLUMNS, self.label_field)]
        splits = self.index[partition].tolist() if partition in self.index else [""] * len(self.index)
        left_out = set(self.duplicates)
        paths = self._paths()
        return [
            Site(plate, well, site, paths[row], label, splits[row], row)
            for row, (plate, well, site, label) in enumerate(zip(*names, strict=True))
            if row not in left_out
        ]

    def _paths(self) -> list[tuple[Path, ...]]:
        if not self.config.prepare.compression.implement:
            return self.originals()
        folder = self.compressed_folder if self.compressed else self.originals_folder
        return [self.compressed_names(row, folder) for row in range(len(self.index))]

    def originals(self) -> list[tuple[Path, ...]]:
        """The images that the index names, a tuple a row."""
        columns = [self.index[channel].tolist() for channel in self.channels]
        return [tuple(self.originals_folder / name for name in row) for row in zip(*columns, strict=True)]

    def compressed_names(self, row: int, folder: Path) -> tuple[Path, ...]:
        """Where the compressed images of a row of the index are.

        In `prepare`'s folder it is PLATE/FILE.png, with the folders that the index has between them.
        """
        plate, found = self.index[PLATE].iloc[row], []
        for channel in self.channels:
            name = Path(_SUFFIX.sub("", self.index[channel].iloc[row] or "none") + ".png")
            if folder == self.compressed_folder:
                parts = name.parts[1:] if name.is_absolute() else name.parts
                name = Path(plate, *(parts[1:] if parts[0] == plate and len(parts) > 1 else parts))
            found.append(folder / name)
        return tuple(found)

    def locations(self, site: Site) -> np.ndarray:
        """(n, 2) float64 x and y of a site's cells, pixels of the original image, in the file's order.

        Rows that are no numbers are left out, and there are none without a file. In the mode full_image these are the
        centres of regions of the image: one, or its corners and its centre.

        Raises:
            BadInput: the file has no such columns, or is no table.
        """
        return self.read_locations(site)[0]

    def read_locations(self, site: Site) -> tuple[np.ndarray, int]:
        """As `locations`, and how many rows of the file were left out."""
        if self.config.dataset.locations.mode == "full_image":
            return self._regions(site), 0
        path = self.location_file(site)
        if not path.exists():
            return np.empty((0, 2)), 0
        table = read_csv(path)
        missing = [name for name in LOCATION_COLUMNS if name not in table.columns]
        if missing:
            raise BadInput(f"{path}: has no column {missing[0]}")
        values = np.column_stack([pd.to_numeric(table[name], errors="coerce") for name in LOCATION_COLUMNS])
        good = np.isfinite(values).all(1)
        return np.ascontiguousarray(values[good], np.float64), int((~good).sum())

    def location_file(self, site: Site) -> Path:
        return self.locations_folder / site.plate / f"{site.well}-{site.site}-Nuclei.csv"

    def _regions(self, site: Site) -> np.ndarray:
        """Centres of regions in the mode full_image, as published."""
        if self.size is None:
            about = images.header(site.paths[0])
            height, width = about.height / self.scale, about.width / self.scale
        else:
            height, width = self.size
        coverage = self.config.dataset.locations.area_coverage
        if coverage == 1:
            return np.array([[width / 2, height / 2]])
        right, down = width - int(width * coverage), height - int(height * coverage)
        places = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]]) / 2
        return np.array([width, height]) / 2 + places * [right, down]

    def read(self, site: Site) -> np.ndarray:
        """(C, H, W) uint8 or uint16, the site's image.

        Raises:
            BadInput: a channel cannot be read, or differs from the first in size or depth.
        """
        first = images.read(site.paths[0])
        image = np.empty((len(site.paths), *first.shape), first.dtype)
        image[0] = first
        for channel, path in enumerate(site.paths[1:], 1):
            pixels = images.read(path)
            if pixels.shape != first.shape or pixels.dtype != first.dtype:
                raise BadInput(f"{path}: {_size(pixels)}, but {self.channels[0]} of this site has {_size(first)}")
            image[channel] = pixels
        return image

    def crops(self, site: Site, image: np.ndarray, centres: np.ndarray, mode: str = "integer") -> np.ndarray:
        """The crops of a site's cells, as the configuration wants them: masked or not, or regions of the whole image.

        Args:
            site: whose.
            image: (C, H, W), as `read` gives it.
            centres: (n, 2), as `locations` gives them.
            mode: "integer" or "bilinear", of single cells.

        Returns:
            (n, C, box, box) in the image's dtype.

        Raises:
            BadInput: there is no mask, or it cannot be used.
        """
        centres = np.asarray(centres, np.float64).reshape(-1, 2) * self.scale
        about = self.config.dataset.locations
        if about.mode == "full_image":
            side = int(min(image.shape[1:]) * about.area_coverage)
            return crops.resized(image, centres, side, self.box)
        found = crops.cut(image, centres, self.box, mode)
        return crops.masked(found, self.objects(site, image.shape[1:]), centres, mode) if about.mask_objects else found

    def objects(self, site: Site, size: Sequence[int]) -> np.ndarray:
        """(H, W) int32 the numbered objects of a site's mask.

        Raises:
            BadInput: the index names none, or it cannot be read or has another size.
        """
        path = self.mask_file(site)
        mask = images.read(path)
        if mask.shape != tuple(size):
            raise BadInput(f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, its image has {size[1]} x {size[0]}")
        return crops.regions(mask, self.config.dataset.locations.mask_kind)

    def mask_file(self, site: Site) -> Path:
        """Where a site's mask is; raises BadInput where nothing says so."""
        name = self._outlines.get((site.plate, site.well, site.site), "")
        if not name:
            raise BadInput(f"{site.key}: mask_objects is true, but neither the index nor outlines.csv has its Outlines")
        return self.folder("outlines", "inputs/outlines") / name

    @cached_property
    def _outlines(self) -> dict[tuple[str, str, str], str]:
        """The mask of each site: of the index's column Outlines, or of outlines.csv beside it."""
        table = self.index if "Outlines" in self.index else read_csv(self.index_path.with_name("outlines.csv"))
        missing = [name for name in (*SITE_COLUMNS, "Outlines") if name not in table.columns]
        if missing:
            raise BadInput(f"{self.index_path.with_name('outlines.csv')}: has no column {missing[0]}")
        return dict(zip(zip(*(table[name] for name in SITE_COLUMNS), strict=True), table["Outlines"], strict=True))


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV table, every cell text as it stands there.

    Raises:
        BadInput: no such file, or no table.
    """
    measure(path)
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except ValueError as error:
        raise BadInput(f"{path}: not a table ({' '.join(str(error).split())[:100]})") from None


def _configuration(folder: Path, name: str | None) -> Path:
    if name is not None:
        return folder / name if (folder / name).exists() or not Path(name).exists() else Path(name)
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found[:5])}); name one with --config" if found else ""
        raise BadInput(f"{folder}: has {len(found)} configurations{names}")
    return found[0]


def _under(root: Path, name: str) -> Path:
    return root / Path(name).expanduser()


def _folder(root: Path, config: Config, name: str, default: str) -> Path:
    return _under(root, config.paths.get(name, default))


def _check_names(path: Path, index: pd.DataFrame) -> None:
    """Names of plates, wells and sites become names of files."""
    for column in SITE_COLUMNS:
        for value in index[column].unique():
            odd = value in ("", ".", "..") or "/" in value or value != value.strip()
            if odd or not value.isprintable() or len(value.encode()) > _LONGEST:
                row = int(np.flatnonzero(index[column].to_numpy() == value)[0])
                raise BadInput(
                    f"{path}, line {row + 2}: {column} is {shown(value)}, which cannot be part of a file's name"
                )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels of {pixels.dtype}"
