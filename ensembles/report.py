"""What a search found, for people: a leaderboard on the terminal and a self-contained report.html."""

from __future__ import annotations

import html
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ensembles import artifact as artifacts
from ensembles import figures
from ensembles.artifact import Artifact
from ground.files import write_text
from studies import ledger
from studies.study import Study

TOP = 10


def leaderboard(study: Study, found: Artifact) -> None:
    """The best checkpoints and the ensemble, on stdout."""
    frame = ledger.table(study)
    metric = study.family.metric.name
    weights = {(m["trial_id"], m["val_ckpt"]): m["weight"] for m in found.meta["members"]}
    table = Table(title=f"{study.name}: best checkpoints by validation {metric}")
    for column in ("rank", "trial", "snapshot", metric, "epoch", "seconds", "weight in ensemble"):
        table.add_column(column, justify="left" if column in ("trial", "snapshot") else "right")
    for rank, (_, row) in enumerate(frame[frame[metric].notna()].head(TOP).iterrows(), 1):
        weight = weights.get((row["trial_id"], row["val_ckpt"]))
        table.add_row(
            str(rank), str(row["trial_id"]), str(row["val_ckpt"]), f"{row[metric]:.4f}", _whole(row.get("epoch")),
            _whole(row["seconds"]), f"{weight:.3f}" if weight else "",
        )  # fmt: skip
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110)
    console.print(table)
    statuses = frame.drop_duplicates("trial_id")["status"].value_counts()
    console.print("trials: " + ", ".join(f"{count} {status}" for status, count in statuses.items()), highlight=False)
    show(found)


def _whole(value: Any) -> str:
    return "" if value is None or value != value else f"{float(value):.0f}"


def show(found: Artifact) -> None:
    """The ensemble's scores and members, on stdout."""
    scores, metric = found.meta["scores"], found.meta["metric"]["name"]
    fold = scores["out_of_fold"]
    single = scores["best_single_out_of_fold"]
    size = found.meta["size"]
    print(f"ensemble ({found.meta['rule']}): {size['members']} members, effectively {size['effective']:.1f}")
    print(f"  {metric} out of fold  {_plus(fold)}   best single model {_plus(single)}")
    print(f"  {metric} in sample    {scores['in_sample']:.4f}            best single model {scores['best_single']:.4f}")
    print(f"  in {found.path}")


def _plus(estimate: dict[str, float]) -> str:
    error = estimate["standard_error"]
    return f"{estimate['score']:.4f}" + (f" ± {error:.4f}" if error is not None and error == error else "")


def ensure(study: Study) -> Path:
    """The report, written unless it is newer than the ensemble and the table of models."""
    path = study.path / "report.html"
    sources = (artifacts.read(study.path).path / "ensemble.json", study.path / "models.csv")
    if path.exists() and all(path.stat().st_mtime >= s.stat().st_mtime for s in sources if s.exists()):
        return path
    return write(study)


def write(study: Study) -> Path:
    """Write report.html: every figure and the library that draws them are inside the one file."""
    import plotly.io as pio

    found = artifacts.read(study.path)
    data = study.load_data()
    prediction = found.predict(data)
    frame = ledger.table(study)
    sections = [*figures.search_figures(study, frame), figures.size_curve(found)]
    sections += study.family.pictures(data, prediction)
    parts = []
    for number, (caption, figure) in enumerate(sections):
        # the first figure brings the library along: the page needs no network
        body = pio.to_html(figure, include_plotlyjs=number == 0, full_html=False, default_height="460px")
        parts.append(f"<section><h2>{html.escape(caption)}</h2>{body}</section>")
    write_text(study.path / "report.html", _PAGE.format(
        title=html.escape(study.name), summary=_summary(study, found, frame), body="\n".join(parts),
        models=_models(study, frame),
    ))  # fmt: skip
    return study.path / "report.html"


def _summary(study: Study, found: Artifact, frame: pd.DataFrame) -> str:
    scores, metric = found.meta["scores"], found.meta["metric"]["name"]
    rows = [
        (f"ensemble, {metric} out of fold", _plus(scores["out_of_fold"])),
        (f"best single model, {metric} out of fold", _plus(scores["best_single_out_of_fold"])),
        (f"ensemble, {metric} in sample (the choice saw it)", f"{scores['in_sample']:.4f}"),
        (f"best single model, {metric} in sample", f"{scores['best_single']:.4f}"),
        ("rule", f"{found.meta['rule']}: {found.meta['size']['members']} members"),
        (
            "trials",
            ", ".join(f"{n} {s}" for s, n in frame.drop_duplicates("trial_id")["status"].value_counts().items()),
        ),
        ("family, seed", f"{study.config['family']}, {study.config['seed']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in study.config["versions"].items())),
    ]
    return "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows)


def _models(study: Study, frame: pd.DataFrame) -> str:
    metric = study.family.metric.name
    columns = ["trial_id", "val_ckpt", metric, "seconds", "status", "reason", *study.config["space"]]
    return frame[[c for c in columns if c in frame]].to_html(index=False, float_format="%.4g", na_rep="", border=0)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733 }}
h1 {{ margin-bottom: .2rem }} h2 {{ font-size: 1.05rem; margin: 2rem 0 0 }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top }}
.models {{ overflow-x: auto; font-size: 12px }} .models th, .models td {{ white-space: nowrap }}
</style></head><body><h1>{title}</h1><table>{summary}</table>
{body}
<section><h2>All checkpoints</h2><div class="models">{models}</div></section></body></html>
"""
