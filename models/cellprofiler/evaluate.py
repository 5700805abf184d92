"""How well the profiles of a table find their like; several tables are compared on the wells that all have.

Any table of wells with Metadata_* columns: what `aggregate` wrote, CellProfiler's profiles, pycytominer's output.
Scored are wells of one label among all treated wells: mean average precision with p values by copairs, odds ratio of
the nearest pairs with Fisher's p, precision, recall and hits at k, percent replicating. With --control, also against
control wells; and how much oftener near control wells are of one plate (odds: the batch effect). With --moa, labels of
one mechanism among all labels. Rows without a label, and what is not finite, are left out and counted on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from ground.files import atomic_path, write_json
from models.cellprofiler.enrichment import KINDS
from models.cellprofiler.evaluated import Asked, Evaluated, evaluated
from models.cellprofiler.tables import PLATE, WELL, clean, column, features_of, read_table, well_name

MOST = 20_000
"""Rows: every pair of them is looked at."""
SCORES, CLASSES, SUMMARY, PAGE = "scores.csv", "classes.csv", "evaluation.json", "evaluation.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help=".parquet, .csv or .csv.gz")
    parser.add_argument("--label", required=True, metavar="COLUMN", help="what wells have in common (a compound)")
    parser.add_argument("--control", metavar="VALUE", help="label of control wells; they are no label to be found")
    parser.add_argument("--moa", metavar="COLUMN", help="mechanisms of labels")
    parser.add_argument("--moa-match", choices=("any", "equal"), default="any",
                        help="mechanisms match by any part between | (default), or as they are written")  # fmt: skip
    parser.add_argument("--features", nargs="+", default=[], metavar="PATTERN", help="only these, as in deep_*")
    parser.add_argument("--similarity", choices=KINDS, default="cosine", help="of profiles (default: cosine)")
    parser.add_argument("--pairs", choices=("any", "plates"), default="any",
                        help="plates: mean average precision is of wells on other plates only")  # fmt: skip
    parser.add_argument("--quantile", nargs="+", type=float, default=[0.99, 0.995], metavar="P",
                        help="pairs above it are near (default: 0.99 0.995)")  # fmt: skip
    parser.add_argument("--k", nargs="+", type=int, default=[5, 10, 50], help="neighbours (default: 5 10 50)")
    parser.add_argument("--null", type=int, default=10_000, help="random rankings for p values (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help=f"write {SCORES}, {CLASSES}, {SUMMARY}, {PAGE}"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in FOLDER")


def main(given: argparse.Namespace) -> None:
    """`evaluate`: print the scores, and write them where asked.

    Raises:
        BadInput: no table, no such column, nothing to score, or an earlier evaluation that is not to be replaced.
    """
    _check(given)
    frames, features = [], []
    names = titles(given.tables)
    for path, name in zip(given.tables, names, strict=True):
        frame = read_table(path)
        if len(frame) > MOST:
            raise BadInput(f"{path}: {len(frame):,} rows; more than {MOST:,} are no wells but cells: `aggregate` them")
        wanted = features_of(frame, given.features)
        frame, kept, notes = clean(frame, wanted)
        frame, lost = wells_of(frame, given.label, given.control, given.moa, path)
        for note in (*notes, *lost):
            print(f"  {name}: {note}", file=sys.stderr)
        frames.append(frame)
        features.append(kept)
    if len(frames) > 1:
        frames = common(frames, names)
    asked = Asked(given.similarity, given.quantile, given.k, given.pairs == "plates",
                  "|" if given.moa_match == "any" else None, given.null, given.seed)  # fmt: skip
    found = [
        evaluated(name, frame[kept].to_numpy(np.float64), frame[list(_WELL)].rename(columns=_WELL), asked)
        for name, frame, kept in zip(names, frames, features, strict=True)
    ]
    for one in found:
        for note in one.notes:
            print(f"  {one.name}: {note}", file=sys.stderr)
    if not any(one.scores for one in found):
        raise BadInput("nothing can be scored: " + found[0].notes[0])
    table = compared(found)
    print(shown(table))
    if given.out is not None:
        values = [frame[kept].to_numpy(np.float64) for frame, kept in zip(frames, features, strict=True)]
        print("\n".join(str(path) for path in write(given.out, found, table, frames, values, given)))


def _check(given: argparse.Namespace) -> None:
    for value in given.quantile:
        if not 0 < value < 1:
            raise BadInput(f"--quantile {value:g}: it is between 0 and 1")
    for value in given.k:
        if value < 1:
            raise BadInput(f"--k {value}: it is at least 1")
    if given.null < 100:
        raise BadInput(f"--null {given.null}: it is at least 100")
    if given.out is not None and not given.overwrite:
        for name in (SCORES, CLASSES, SUMMARY, PAGE):
            if (given.out / name).exists():
                raise BadInput(f"{given.out / name} exists; give --overwrite to replace it")


def titles(paths: Sequence[Path]) -> list[str]:
    """A name a table: of its file, or with its folder where two files are called alike."""
    short = [path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".parquet") for path in paths]
    if len(set(short)) < len(short):
        short = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, short, strict=True)]
    if len(set(short)) < len(short):
        short = [f"{number}: {name}" for number, name in enumerate(short, 1)]
    return short


_WELL = {"_label": "label", "_plate": "plate", "_control": "control", "_mechanism": "mechanism"}


def wells_of(
    frame: pd.DataFrame, label: str, control: str | None, moa: str | None, where: object = "the table"
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that have a label, with the columns _label, _plate, _control and _mechanism.

    Returns:
        The table, and lines about what was left out.

    Raises:
        BadInput: no such column, no label, or no control of that name.
    """
    name = column(frame, label, where)
    known = frame[name].notna()
    frame = frame[known].reset_index(drop=True)
    if not len(frame):
        raise BadInput(f"{where}: no row has a {name}")
    notes = [f"{int((~known).sum()):,} rows without {name} left out"] if not known.all() else []
    labels = frame[name].astype(str)
    is_control = labels == control
    if control is not None and not is_control.any():
        raise BadInput(f"{where}: no row has {name} {control}")
    plate = frame[PLATE].astype(str) if PLATE in frame else pd.Series("", index=frame.index)
    mechanism = pd.Series(None, index=frame.index, dtype=object) if moa is None else frame[column(frame, moa, where)]
    added = {"_label": labels, "_plate": plate, "_control": is_control, "_mechanism": mechanism}
    return pd.concat([frame, pd.DataFrame(added)], axis=1), notes


def common(frames: Sequence[pd.DataFrame], names: Sequence[str]) -> list[pd.DataFrame]:
    """The rows that all tables have, in one order: by plate and well, or by label where a table has no wells.

    Raises:
        BadInput: a table has two rows of one well, none is common, or one well has two labels.
    """
    by_well = all({PLATE, WELL} <= set(frame.columns) for frame in frames)
    keys = [_key(frame, by_well) for frame in frames]
    for key, name in zip(keys, names, strict=True):
        if key.duplicated().any():
            what = "well" if by_well else "label"
            raise BadInput(f"{name}: {what} {key[key.duplicated()].iloc[0]} is there twice; rows cannot be compared")
    shared = [key for key in keys[0] if all(key in other for other in (set(k) for k in keys[1:]))]
    if not shared:
        firsts = ", ".join(f"{key.iloc[0]} in {name}" for key, name in zip(keys, names, strict=True))
        raise BadInput(f"the tables have no {'well' if by_well else 'label'} in common ({firsts})")
    out = [frame.set_axis(key).loc[shared] for frame, key in zip(frames, keys, strict=True)]
    for frame, name in zip(out[1:], names[1:], strict=True):
        other = (frame["_label"] != out[0]["_label"]).to_numpy()
        if other.any():
            row = int(np.flatnonzero(other)[0])
            raise BadInput(
                f"{shared[row]} is {out[0]['_label'].iloc[row]} in {names[0]}, {frame['_label'].iloc[row]} in {name}"
            )
    counts = ", ".join(f"{len(frame):,} of {name}" for frame, name in zip(frames, names, strict=True))
    print(f"  {len(shared):,} rows in common ({counts})", file=sys.stderr)
    return [frame.reset_index(drop=True) for frame in out]


def _key(frame: pd.DataFrame, by_well: bool) -> pd.Series[str]:
    if by_well:
        return frame[PLATE].astype(str) + "/" + frame[WELL].astype(str).map(well_name)
    return frame["_label"]


def compared(found: Sequence[Evaluated]) -> pd.DataFrame:
    """Columns section, score, and one a table."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for one in found:
        for section, scores in one.scores.items():
            for score, value in scores.items():
                rows.setdefault((section, score), {})[one.name] = value
    sections = list(dict.fromkeys(section for section, _ in rows))
    order = sorted(rows, key=lambda key: sections.index(key[0]))
    table = pd.DataFrame([{"section": a, "score": b, **rows[a, b]} for a, b in order])
    return table[["section", "score", *(one.name for one in found)]]


def shown(table: pd.DataFrame) -> str:
    """The table as lines for a terminal."""
    lines: list[str] = []
    wide = max(len(str(score)) for score in table["score"]) + 2
    columns = [name for name in table.columns if name not in ("section", "score")]
    widths = [max(10, len(name)) for name in columns]
    for section, part in table.groupby("section", sort=False):
        head = "  ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
        lines.append(f"{'':{wide}}  {head}" if not lines else "")
        lines.append(str(section))
        for row in part.to_dict("records"):
            cells = "  ".join(f"{number(row[name]):>{width}}" for name, width in zip(columns, widths, strict=True))
            lines.append(f"  {row['score']:{wide}}{cells}")
    return "\n".join(lines)


def number(value: float) -> str:
    """A score for people."""
    if not np.isfinite(value):
        return "-" if np.isnan(value) else "inf"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def write(
    folder: Path,
    found: Sequence[Evaluated],
    table: pd.DataFrame,
    frames: Sequence[pd.DataFrame],
    values: Sequence[np.ndarray],
    given: argparse.Namespace,
) -> list[Path]:
    """The files of an evaluation, each whole or absent."""
    from models.cellprofiler.page import page

    paths = [folder / name for name in (SCORES, CLASSES, SUMMARY, PAGE)]
    classes = pd.concat([one.classes.assign(table=one.name) for one in found], ignore_index=True)
    for path, frame in ((paths[0], table), (paths[1], classes[["table", *classes.columns.drop("table")]])):
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.9g")
    about = {
        "tables": {one.name: str(path) for one, path in zip(found, given.tables, strict=True)},
        "label": given.label,
        "control": given.control,
        "moa": given.moa,
        "similarity": given.similarity,
        "pairs": given.pairs,
        "null": given.null,
        "seed": given.seed,
        "rows": len(frames[0]),
        "features": {one.name: int(x.shape[1]) for one, x in zip(found, values, strict=True)},
        "notes": {one.name: one.notes for one in found if one.notes},
        "scores": {one.name: one.scores for one in found},
    }
    write_json(paths[2], about)
    page(paths[3], found, table, frames, values, about)
    return paths
