"""Features of single cells become profiles of wells or treatments, by pycytominer.

In this order: cells without finite features are left out and counted; cells → wells (`--method`); each plate normalised
on its control wells (`--normalize`); features chosen (`--select`); all plates sphered on their control wells
(`--spherize`, ZCA-cor); wells → treatments (`--by treatment`). What was left out is told on stderr.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ground.errors import BadInput
from models.cellprofiler.cells import CellFeatures
from models.cellprofiler.join import TOLERANCE, join
from models.cellprofiler.tables import (
    KEYS,
    LOCATION,
    META,
    PLATE,
    SITE,
    WELL,
    check_ending,
    column,
    features_of,
    read_table,
    write_table,
)

METHODS = ("median", "mean", "site-median")
NORMALIZE = ("standardize", "robustize", "mad_robustize")
EPSILON = 1e-6
"""Of pycytominer's sphering."""
COUNT = "Metadata_Object_Count"
_SITES = "Metadata_Site_Count"
_SELECT = ["variance_threshold", "correlation_threshold", "drop_na_columns"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("place", type=Path, metavar="ROOT|FEATURES|TABLE", help="a project, a folder that `profile` "
                        "or DeepProfiler wrote, or a table of cells (.parquet, .csv, .csv.gz)")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help=".parquet, .csv or .csv.gz")
    parser.add_argument("--exp", default="results", help="the experiment of a project (default: results)")
    parser.add_argument("--config", metavar="NAME.json", help="of a project that has several")
    parser.add_argument("--method", choices=METHODS, default="median", help="of cells: median or mean of all of a "
                        "well, or the median of each site and the mean of those (default: median)")  # fmt: skip
    parser.add_argument("--normalize", choices=NORMALIZE, help="each plate, on its control wells")
    parser.add_argument("--spherize", action="store_true", help="all plates together, on their control wells")
    parser.add_argument("--select", action="store_true", help="leave out features that vary little, lack values or "
                        "repeat another (correlation above .9)")  # fmt: skip
    parser.add_argument("--by", choices=("cell", "well", "treatment"), default="well", help="what a row is (default: "
                        "well; a treatment's is the mean of its wells, their median with --method median)")  # fmt: skip
    parser.add_argument("--label", metavar="COLUMN", help="of treatments (default: the project's)")
    parser.add_argument("--control", metavar="VALUE", help="label of control wells (default: the project's)")
    parser.add_argument("--features", nargs="+", default=[], metavar="PATTERN", help="only these, as in deep_*")
    parser.add_argument("--join", type=Path, metavar="TABLE", help="first join a table of the same cells "
                        "(CellProfiler's, say) on their locations: only cells that both have stay")  # fmt: skip
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, metavar="PIXELS",
                        help=f"how far two centres of one cell may be apart (default: {TOLERANCE:g})")  # fmt: skip
    parser.add_argument("--plate", action="append", default=[], metavar="OURS=THEIRS",
                        help="what the joined table calls a plate, where its name is another")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def main(given: argparse.Namespace) -> None:
    """`aggregate`: write the table and say what is in it.

    Raises:
        BadInput: nothing to aggregate, no controls where some are needed, or OUT is there already.
    """
    check_ending(given.out)
    if given.out.exists() and not given.overwrite:
        raise BadInput(f"{given.out} exists; give --overwrite to replace it")
    if given.by == "cell" and (given.normalize or given.spherize or given.select):
        raise BadInput("--by cell: cells are normalised, sphered and selected as wells only")
    if not given.tolerance > 0:
        raise BadInput(f"--tolerance {given.tolerance:g}: it is above 0")
    source = CellFeatures.of(given.place, given.exp, given.config)
    label = given.label or source.label
    control = source.control if given.control is None else given.control
    other = None if given.join is None else read_table(given.join)
    names = dict(_pair(word) for word in given.plate)
    table, features = collect(source, given.method, given.by == "cell", given.features, other, given.tolerance, names)
    if given.by != "cell":
        table, features = process(table, features, label, control, given.normalize, given.select, given.spherize, _say)
    if given.by == "treatment":
        if not label:
            raise BadInput("--by treatment needs --label COLUMN")
        table = treatments(table, features, column(table, label), "median" if given.method == "median" else "mean")
    write_table(given.out, table)
    print(f"{given.out}: {len(table):,} {given.by}s, {len(features):,} features")


def _pair(word: str) -> tuple[str, str]:
    ours, equals, theirs = word.partition("=")
    if not equals or not ours or not theirs:
        raise BadInput(f"--plate {word}: expected OURS=THEIRS")
    return ours, theirs


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def collect(
    source: CellFeatures,
    method: str,
    single: bool = False,
    wanted: Sequence[str] = (),
    other: pd.DataFrame | None = None,
    tolerance: float = TOLERANCE,
    renamed: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Wells (or with `single` the cells themselves) of all plates, one plate in memory at a time.

    Args:
        source: where cells are.
        method: one of `METHODS`.
        wanted: patterns of features.
        other: a table of cells to join.
        tolerance: pixels of that join.
        renamed: what that table calls plates.

    Returns:
        The table and its features.

    Raises:
        BadInput: no cells, or plates whose features differ altogether.
    """
    parts: list[pd.DataFrame] = []
    features: list[str] | None = None
    seen: set[tuple[str, str, str]] = set()
    begun = time.perf_counter()
    for plate, cells in source.plates():
        if other is not None:
            try:
                joined = join(cells, other, tolerance, renamed)
            except BadInput as error:
                _say(f"{plate}: left out: {error}")
                continue
            _say(f"{plate}: {joined.line()}")
            cells = joined.table
        names = features_of(cells, wanted)
        finite = np.isfinite(cells[names].to_numpy(np.float64))
        good = finite.any(1)
        if SITE in cells:
            seen |= set(cells[list(KEYS)].astype(str).drop_duplicates().itertuples(index=False, name=None))
        lost = f", {int((~good).sum()):,} left out: no finite feature" if not good.all() else ""
        some = int((~finite[good]).any(1).sum())
        gaps = f", {some:,} lack some features, which do not count in a well's" if some else ""
        if not finite.all():
            cells = cells[good].reset_index(drop=True)
            cells[names] = cells[names].replace([np.inf, -np.inf], np.nan)
        if len(cells):
            parts.append(cells if single else wells_of(cells, names, method))
            features = names if features is None else [name for name in features if name in set(names)]
        _say(f"{plate}: {len(finite):,} cells{lost}{gaps}; {time.perf_counter() - begun:.1f} s")
    empty = source.without_cells(seen)
    if empty:
        _say(f"{empty:,} sites of the index have no cells")
    if not parts:
        why = "no cell has finite features" if other is None else "no cell is in the table to join, too"
        raise BadInput(f"{source.folder}: {why}")
    if not features:
        raise BadInput(f"{source.folder}: plates have no feature in common")
    table = pd.concat(parts, ignore_index=True)
    kept = [
        name for name in table.columns if name.startswith(META) or name in features or (single and name in LOCATION)
    ]
    return table[kept], features


def wells_of(cells: pd.DataFrame, features: Sequence[str], method: str) -> pd.DataFrame:
    """Wells of one plate: Metadata_* that are constant in each well, counts of cells and sites, features.

    Raises:
        BadInput: medians of sites are wanted, and no column says the site.
    """
    from pycytominer import aggregate

    names, keys = list(features), [PLATE, WELL]
    if method == "site-median":
        if SITE not in cells:
            raise BadInput(f"--method site-median: the cells have no column {SITE}")
        medians = aggregate(cells, strata=list(KEYS), features=names, operation="median")
        profiles = aggregate(medians, strata=keys, features=names, operation="mean")
    else:
        profiles = aggregate(cells, strata=keys, features=names, operation=method)
    grouped = cells.groupby(keys)
    metadata = [name for name in cells.columns if name.startswith(META) and name not in keys]
    constant = [name for name in metadata if (grouped[name].nunique(dropna=False) <= 1).all()]
    about = grouped[constant].first() if constant else pd.DataFrame(index=grouped.size().index)
    about[COUNT] = grouped.size()
    if SITE in cells:
        about[_SITES] = grouped[SITE].nunique()
    return about.reset_index().merge(profiles, on=keys, how="right", validate="one_to_one")


def process(
    table: pd.DataFrame,
    features: Sequence[str],
    label: str = "",
    control: str = "",
    normalize: str | None = None,
    select: bool = False,
    spherize: bool = False,
    say: object = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Normalised, selected and sphered wells.

    Raises:
        BadInput: controls are needed and there are none, or pycytominer cannot sphere these.
    """
    tell = say if callable(say) else lambda line: None
    names = list(features)
    missing = table[names].isna().any()
    if missing.any():
        names = [name for name in names if not missing[name]]
        tell(f"{int(missing.sum()):,} features left out: a well has no finite value")
        if not names:
            raise BadInput("every feature lacks a value in some well")
    metadata = [name for name in table.columns if name.startswith(META)]
    table = table[[*metadata, *names]]
    if normalize or spherize:
        chosen = _controls(table, label, control)
        if normalize:
            table = _normalized(table, names, chosen, normalize)
            flat = ~np.isfinite(table[names].to_numpy()).all(0) | (table[names].abs().max() > 1e15).to_numpy()
            if flat.any():
                tell(f"{int(flat.sum()):,} features left out: the controls of a plate do not vary in them")
                names = [name for name, bad in zip(names, flat, strict=True) if not bad]
    if select:
        from pycytominer import feature_select

        kept = set(feature_select(table[[*metadata, *names]], features=names, operation=_SELECT).columns)
        tell(f"{len(names) - len([n for n in names if n in kept]):,} of {len(names):,} features left out by --select")
        names = [name for name in names if name in kept]
    if spherize and names:
        names = [name for name in names if table.loc[chosen, name].var(ddof=0) > 0]
        table = _sphered(table[[*metadata, *names]], names, chosen)
    if not names:
        raise BadInput("no feature is left")
    return table[[*metadata, *names]].reset_index(drop=True), names


def _controls(table: pd.DataFrame, label: str, control: str) -> np.ndarray:
    if not label or not control:
        raise BadInput("normalising and sphering need control wells: --label COLUMN --control VALUE")
    name = column(table, label)
    found = (table[name] == control).to_numpy()
    lacking = sorted(set(table[PLATE]) - set(table[PLATE][found]))
    if lacking:
        raise BadInput(f"plate {lacking[0]} has no control well ({name} is {control} nowhere)")
    return found


def _normalized(table: pd.DataFrame, names: list[str], control: np.ndarray, method: str) -> pd.DataFrame:
    from pycytominer import normalize

    parts = []
    for _, rows in table.groupby(PLATE, sort=False).indices.items():
        plate = table.iloc[rows].assign(**{_FLAG: np.where(control[rows], "yes", "no")})
        parts.append(normalize(
            plate, features=names, meta_features=[c for c in table.columns if c not in names],
            samples=f"{_FLAG} == 'yes'", method=method,
        ))  # fmt: skip
    return pd.concat(parts).loc[table.index]


_FLAG = "Metadata_is_reference"


def _sphered(table: pd.DataFrame, names: list[str], control: np.ndarray) -> pd.DataFrame:
    """pycytominer's sphering.

    Raises:
        BadInput: controls do not vary in some direction of features. (pycytominer 1.7.1 means to refuse that, but its
            check always passes, and noise would be stretched a million times.)
    """
    from pycytominer import normalize

    reference = table.loc[control, names].to_numpy(np.float64)
    rank = int(np.linalg.matrix_rank((reference - reference.mean(0)) / reference.std(0)))
    if rank < min(len(names), len(reference) - 1):
        raise BadInput(
            f"{len(reference)} control wells cannot be sphered: their {len(names)} features vary in {rank} directions"
            " only; --select leaves out features that repeat another"
        )
    return normalize(
        table.assign(**{_FLAG: np.where(control, "yes", "no")}), features=names,
        meta_features=[c for c in table.columns if c not in names], samples=f"{_FLAG} == 'yes'",
        method="spherize", spherize_method="ZCA-cor", spherize_epsilon=EPSILON,
    )  # fmt: skip


def treatments(table: pd.DataFrame, features: Sequence[str], label: str, how: str) -> pd.DataFrame:
    """A row a treatment, the median or mean of its wells; metadata that are constant in each treatment stay.

    Raises:
        BadInput: no well has a label.
    """
    from pycytominer import aggregate

    known = table[table[label].notna()]
    if not len(known):
        raise BadInput(f"no well has a {label}")
    profiles = aggregate(known, strata=[label], features=list(features), operation=how)
    grouped = known.groupby(label)
    others = [name for name in known.columns if name.startswith(META) and name not in (label, COUNT, _SITES)]
    constant = [name for name in others if (grouped[name].nunique(dropna=False) <= 1).all()]
    about = grouped[constant].first() if constant else pd.DataFrame(index=grouped.size().index)
    about["Metadata_Well_Count"] = grouped.size()
    return about.reset_index().merge(profiles, on=label, how="right", validate="one_to_one")
