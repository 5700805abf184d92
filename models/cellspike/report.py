"""A prediction file against the truth: the field's `sum_pred` YAML, CSVs in physical units, pictures in one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ground.errors import BadInput
from ground.files import atomic_path, finite, write_text
from ground.page import Page, facts, sortable
from models.cellspike import plots
from models.cellspike.scored import Scored, score
from models.cellspike.statistics import BAD, IDENTIFIABLE, WEAK, Residuals

_SUMMARY, _RESIDUALS, _PAGE_NAME = "sum_pred_{}.yaml", "residuals_{}.csv", "report_{}.html"


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb `report`."""
    parser.add_argument("prediction", type=Path, help="what `python -m ensembles predict STUDY DATA -o` wrote")
    parser.add_argument("data", help="the same data: a file, folder, glob or list")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder for what is written")
    parser.add_argument("-n", "--rows", type=int, default=0, help="of so many rows, drawn at random (default: all)")
    parser.add_argument("--domain", default="test", help="what to call these rows (default test)")
    parser.add_argument("--witness", nargs="+", default=[], metavar="CELL", help="cells that training never saw "
                        "(default: those that the data's meta names)")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report of this domain")


def report_main(given: argparse.Namespace) -> int:
    """`report`: write it and say what it found.

    Raises:
        BadInput: files that cannot be read, do not belong together, hold no truth, or a report that is there already.
    """
    if given.rows < 0:
        raise BadInput(f"--rows is {given.rows}; it is at least 1, or 0 for all")
    scored = score(given.prediction, given.data, given.rows, given.witness)
    paths = write(scored, given.output, given.domain, given.overwrite)
    found = scored.found
    print(f"{found.samples:,} rows of {scored.told}: mean squared error {found.loss:.5f}")
    if scored.practice is not None and scored.witness is not None:
        print(f"practice cells {scored.practice.loss:.5f}, witness cells {scored.witness.loss:.5f}")
    print("\n".join(_verdict(found)))
    print("\n".join(str(path) for path in paths))
    return 0


def write(scored: Scored, folder: Path, domain: str, overwrite: bool = False) -> list[Path]:
    """The files of a report; each is whole or absent.

    Raises:
        BadInput: one is there and is not to be replaced.
    """
    summary, table, page = (folder / name.format(domain) for name in (_SUMMARY, _RESIDUALS, _PAGE_NAME))
    predicted, true = (folder / f"{kind}_physical_{domain}.csv" for kind in ("predicted", "true"))
    paths = [summary, table, page, *([predicted, true] if scored.physical is not None else [])]
    for path in paths:
        if path.exists() and not overwrite:
            raise BadInput(f"{path} exists; give --overwrite to replace it")
    _csv(table, scored.found.table())
    if scored.physical is not None:
        units = scored.attributes["units"] or [""] * len(scored.found.names)
        names = [f"{n} ({u})" if u else n for n, u in zip(scored.found.names, units, strict=True)]
        for path, values in zip((predicted, true), scored.physical, strict=True):
            _csv(path, pd.concat([scored.ids, pd.DataFrame(values, columns=names)], axis=1))
    write_text(page, _page(scored, domain))
    content = finite(summarised(scored, domain))
    write_text(summary, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110))
    return paths


def summarised(scored: Scored, domain: str) -> dict[str, Any]:
    """The content of the `sum_pred` YAML: the original program's keys first, then what it lacked.

    `residual_mean_std` is signed (truth − prediction), as it was before 2025.
    """
    found, pack = scored.found, scored.pack
    table = found.table()
    each = [
        {
            "name": row["conductance"],
            "rmse": _round(row["rmse"]),
            "mae": _round(row["mae"]),
            "pearson": _round(row["pearson"]),
            "explained_variance": _round(row["explained"]),
            "interval": [_round(row["low"]), _round(row["high"])],
            "class": row["class"],
            "mark": row["mark"],
        }
        for row in table.to_dict("records")
    ]
    content: dict[str, Any] = {
        "domain": domain,
        f"{domain}LossMSE": _round(found.loss),
        "numSamples": found.samples,
        "lossThrHi": BAD,
        "inpShape": [pack.bins, len(pack.probes), *([len(pack.stims)] if len(pack.stims) > 1 else [])],
        "short_name": scored.told,
        "modelDesign": str(scored.attributes.get("study", scored.source.stem)),
        "residual_mean_std": [
            [row["conductance"], _round(row["mean"]), _round(row["std"]), _round(row["rmse"] ** 2)]
            for row in table.to_dict("records")
        ],
        "space": scored.symbol,
        "meanPredictorMSE": _round(scored.baseline),
        "conductances": each,
        "identifiability": {kind: [e["name"] for e in each if e["class"] == kind] for kind in _KINDS},
        "bootstrap": f"{found.groups} {found.over}",
        "prediction": scored.source.name,
        "members": scored.attributes.get("members"),
    }
    if scored.practice is not None and scored.witness is not None:
        content |= {"practiceLossMSE": _round(scored.practice.loss), "witnessLossMSE": _round(scored.witness.loss)}
    return content


_KINDS = {
    "identifiable": f"identifiable (explained variance surely {IDENTIFIABLE} or more)",
    "weak": f"weak (surely {WEAK} or more)",
    "not": "not identifiable from these traces",
}


def _verdict(found: Residuals) -> list[str]:
    """The classes in plain words."""
    lines = []
    for kind, words in _KINDS.items():
        names = [name for name, c in zip(found.names, found.classes, strict=True) if c == kind]
        lines.append(f"{words}: {', '.join(names) if names else 'none'}")
    return lines


def _page(scored: Scored, domain: str) -> str:
    found, pack, symbol = scored.found, scored.pack, scored.symbol
    sections = [
        plots.against_truth(scored.prediction, scored.truth, found, symbol),
        plots.identifiability(found),
    ]
    if scored.practice is not None and scored.witness is not None:
        sections.append(plots.practice_and_witness(scored.practice, scored.witness))
    if scored.ids["cell"].nunique() > 1:
        apart = plots.cells_apart(
            scored.prediction, scored.truth, scored.cells, scored.attributes["cells"], scored.unseen
        )
        sections.append(apart)
    if scored.spread is not None:
        sections.append(plots.spread_and_error(scored.spread, scored.truth - scored.prediction))
    sections += [
        plots.waveforms(scored.traces, pack.step_ms, plots.channels(pack.probes, pack.stims)),
        plots.unit_histograms(found.names, scored.prediction, scored.truth, symbol),
    ]
    about = [
        ("loss", f"{found.loss:.5f} (a predictor of the mean: {scored.baseline:.5f})"),
        ("rows", f"{found.samples:,} of {scored.told}, domain {domain}"),
        ("traces", f"{pack.bins} bins of {pack.step_ms:g} ms, probes {', '.join(pack.probes)}"),
        ("stimuli", ", ".join(pack.stims)),
        ("prediction", scored.source.name),
        *((name, str(scored.attributes[name])) for name in ("study", "members") if name in scored.attributes),
        *((line.partition(": ")[0], line.partition(": ")[2]) for line in _verdict(found)),
    ]
    table = found.table().rename(columns={"explained": "explained variance", "low": "from", "high": "to"})
    page = Page(f"{scored.source.stem}, {domain}")
    page.add("Facts", facts(about))
    page.add("Residuals, truth − prediction", sortable("Residuals", list(table), table.to_numpy(object).tolist()))
    for caption, figure in sections:
        page.figure(caption, figure)
    return page.html()


def _csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.7g")


def _round(value: float) -> float:
    return float(f"{value:.6g}")
