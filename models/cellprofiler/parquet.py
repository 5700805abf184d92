"""The features of a plate's cells as one Parquet file, made of the files of its sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ground.errors import BadInput
from ground.files import atomic_path
from models.cellprofiler.project import LOCATION_COLUMNS, Project, Site
from models.cellprofiler.tables import META

_GROUP = 64 * 2**20  # bytes of features that are written together
_KEY = b"concert"
PREFIX = "deep_"


def write_plate(
    folder: Path, project: Project, net: str, layers: Sequence[str], sites: Sequence[tuple[Site, int]]
) -> Path:
    """Write PLATE.parquet, unless it is there and of the same sites.

    Args:
        folder: of the features.
        project: whose index says what the sites are.
        net: Metadata_Model.
        layers: in the order of the columns.
        sites: one plate's, and for each a number that tells its cells from others.

    Raises:
        BadInput: a site's file is damaged.
    """
    path = folder / f"{sites[0][0].plate}.parquet"
    rows = project.index.drop(columns=list(project.channels))
    rows.columns = [name if name.startswith(META) else META + name for name in rows.columns]
    words = [(site.key, crc, rows.iloc[site.row].tolist()) for site, crc in sites]
    key = hashlib.sha256(json.dumps([list(rows.columns), list(layers), words]).encode()).hexdigest().encode()
    if path.exists() and (pq.read_schema(path).metadata or {}).get(_KEY) == key:
        return path
    writer: pq.ParquetWriter | None = None
    with atomic_path(path) as temporary:
        try:
            held: list[pa.Table] = []
            for site, _ in sites:
                held.append(_table(folder, site, rows.iloc[site.row].to_dict() | {"Metadata_Model": net}, layers))
                if sum(table.nbytes for table in held) > _GROUP or site is sites[-1][0]:
                    table = pa.concat_tables(held)
                    if writer is None:
                        # features hardly shrink, and dictionaries of them are as long as they are
                        writer = pq.ParquetWriter(
                            temporary, table.schema.with_metadata({_KEY: key}), use_dictionary=list(rows.columns)
                        )
                    writer.write_table(table)
                    held = []
        finally:
            if writer is not None:
                writer.close()
    return path


def _table(folder: Path, site: Site, row: dict[str, str], layers: Sequence[str]) -> pa.Table:
    path = folder / site.plate / site.well / f"{site.site}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file["features" if number == 0 else f"features_{layer}"] for number, layer in enumerate(layers)]
            at = file["locations"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(f"{path}: damaged ({' '.join(str(error).split())[:80]}); delete it and profile again") from None
    columns: dict[str, pa.Array] = {name: pa.array([value] * len(at), pa.string()) for name, value in row.items()}
    columns |= {name: pa.array(at[:, axis]) for axis, name in enumerate(LOCATION_COLUMNS)}
    for layer, features in zip(layers, arrays, strict=True):
        head = PREFIX if len(layers) == 1 else f"{PREFIX}{layer}_"
        by_column = np.ascontiguousarray(features.T)
        columns |= {f"{head}{number}": pa.array(values) for number, values in enumerate(by_column)}
    return pa.table(columns)
