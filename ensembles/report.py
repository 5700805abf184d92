"""What a search found, as a page: one self-contained report.html."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ensembles import artifact as artifacts
from ensembles import figures
from ensembles.artifact import Artifact
from ensembles.terminal import CAVEAT, HOLDOUT, score_rows, statuses
from ground.files import write_text
from studies import ledger
from studies.study import Study

_HONEST = f"In sample: the choice saw these samples. {CAVEAT.capitalize()}: its scores are still a little too good. "
_CLEAN = f"{HOLDOUT.capitalize()}. "
_ERRORS = "±: one standard error, jackknife over groups of samples; that of the difference is paired."


def ensure(study: Study) -> Path:
    """The report, written unless it is newer than the ensemble and the table of models."""
    path = study.path / "report.html"
    sources = (artifacts.read(study.path).path / "ensemble.json", study.path / "models.csv")
    if path.exists() and all(path.stat().st_mtime >= s.stat().st_mtime for s in sources if s.exists()):
        return path
    return write(study)


def write(study: Study) -> Path:
    """Write report.html: every figure and the library that draws them are inside the one file.

    Nothing is predicted: the ensemble's folder has its prediction for the validation data.
    """
    import plotly.io as pio

    found = artifacts.read(study.path)
    data = study.load_data()
    frame = ledger.table(study)
    sections = [*figures.search_figures(study, frame), figures.size_curve(found)]
    sections += study.family.pictures(data, found.validation())
    parts = []
    for number, (caption, figure) in enumerate(sections):
        # the first figure brings the library along: the page needs no network
        body = pio.to_html(figure, include_plotlyjs=number == 0, full_html=False, default_height="460px")
        parts.append(f"<section><h2>{html.escape(caption)}</h2>{body}</section>")
    facts = [*study.family.describe(data).items(), *_facts(study, found, frame)]
    write_text(study.path / "report.html", _PAGE.format(
        title=html.escape(study.name), scores=_scores(found), facts=_table(facts), body="\n".join(parts),
        members=_members(found), models=_models(study, frame),
    ))  # fmt: skip
    return study.path / "report.html"


def _table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(c)}</th>' for c in head)}</tr>"] if head else []
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in rest)
        lines.append(f"<tr><th>{html.escape(str(first))}</th>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _scores(found: Artifact) -> str:
    metric = found.meta["metric"]
    better = "larger is better" if metric["mode"] == "max" else "smaller is better"
    head = (f"{metric['name']} ({better})", "ensemble", "best single model", "difference")
    note = _HONEST + (_CLEAN if found.meta["scores"].get("holdout") else "") + _ERRORS
    return _table(score_rows(found.meta), head) + f"<p>{html.escape(note)}</p>"


def _facts(study: Study, found: Artifact, frame: pd.DataFrame) -> list[tuple[str, str]]:
    size, left_out = found.meta["size"], found.meta.get("left_out", {})
    rows = [
        ("ensemble", f"{found.meta['rule']}: {size['members']} members, effectively {size['effective']:.1f}"),
        ("trials", statuses(frame)),
        ("family, seed", f"{study.config['family']}, {study.config['seed']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in study.config["versions"].items())),
    ]
    return rows + [(f"left out: {name}", why) for name, why in left_out.items()]


def _members(found: Artifact) -> str:
    rows = [
        (f"{m['trial_id']}.{m['val_ckpt']}", f"{m['weight']:.4f}", f"{m['score']:.4f}") for m in found.meta["members"]
    ]
    return _table(rows, ("member", "weight", f"validation {found.meta['metric']['name']}"))


def _models(study: Study, frame: pd.DataFrame) -> str:
    metric = study.family.metric.name
    columns = ["trial_id", "val_ckpt", metric, "step", "seconds", "status", "reason", *study.config["space"]]
    return frame[[c for c in columns if c in frame]].to_html(index=False, float_format="%.4g", na_rep="", border=0)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733 }}
h1 {{ margin-bottom: .2rem }} h2 {{ font-size: 1.05rem; margin: 2rem 0 0 }} p {{ color: #556 }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top }}
.models {{ overflow-x: auto; font-size: 12px }} .models th, .models td {{ white-space: nowrap }}
</style></head><body><h1>{title}</h1>{scores}{facts}
{body}
<section><h2>Members of the ensemble</h2>{members}</section>
<section><h2>All checkpoints</h2><div class="models">{models}</div></section></body></html>
"""
