"""What a search found, as a page: one self-contained report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ensembles import artifact as artifacts
from ensembles import figures
from ensembles.artifact import Artifact
from ensembles.glossary import glossary
from ensembles.next_steps import next_steps
from ensembles.terminal import CAVEAT, HOLDOUT, moments, score_rows, statuses
from ground.files import write_text
from ground.page import Page, commands, definitions, facts, paragraph, plain_table, sortable
from ground.typed import command
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
    found = artifacts.read(study.path)
    data = study.load_data()
    frame = ledger.table(study)
    page = Page(study.name)
    page.add("Scores", _scores(found))
    page.add("Data", facts(_data(study, data)))
    page.add("How it came about", facts(_origin(study, found, frame)))
    page.add("Members of the ensemble", *_members(study, found, frame))
    page.add("What to do next", *(paragraph(f"{s.words}:") + commands([s.command]) for s in next_steps(found, study)))
    for caption, figure in figures.search_figures(study, frame):
        page.figure(caption, figure)
    page.figure(*figures.size_curve(found))
    for caption, figure in study.family.pictures(data, found.validation()):
        page.figure(caption, figure)
    page.add("All checkpoints", paragraph(_TABLE), _models(study, found, frame))
    page.add("Words", definitions(glossary(study.family)))
    write_text(study.path / "report.html", page.html())
    return study.path / "report.html"


_TABLE = (
    "One row a distinct moment of a trial, and the ensemble in sample among them; trials that left no checkpoint with "
    "their reason. A click on a column's head sorts by it."
)


def _scores(found: Artifact) -> str:
    metric = found.meta["metric"]
    better = "larger is better" if metric["mode"] == "max" else "smaller is better"
    head = (f"{metric['name']} ({better})", "ensemble", "best single model", "difference")
    note = _HONEST + (_CLEAN if found.meta["scores"].get("holdout") else "") + _ERRORS
    return plain_table(head, score_rows(found.meta)) + paragraph(note)


def _data(study: Study, data: Any) -> list[tuple[str, str]]:
    block: Mapping[str, Any] = study.config["data"] or {}
    rows = [*study.family.describe(data).items()]
    rows += [(f"data: {key}", value if isinstance(value, str) else json.dumps(value)) for key, value in block.items()]
    if study.config["fingerprint"]:
        rows.append(("fingerprint", study.config["fingerprint"][:16]))
    return rows


def _origin(study: Study, found: Artifact, frame: pd.DataFrame) -> list[tuple[str, str]]:
    given = study.config.get("command")
    rows = [("command", command("run_hyperopt.py", *given))] if given is not None else []
    rows += [("trials", statuses(frame)), ("family, seed", f"{study.config['family']}, {study.config['seed']}")]
    rows += [(name, str(study.config[name])) for name in ("objective", "holdout", "ranks") if study.config.get(name)]
    start = study.config.get("init")
    if start:
        rows.append(("started from", str(start.get("from"))))
    if study.config["fixed"]:
        rows.append(("fixed settings", ", ".join(f"{k}={v}" for k, v in study.config["fixed"].items())))
    rows.append(("ensemble built", str(found.meta.get("built", ""))))
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in study.config["versions"].items())))
    return rows


def _members(study: Study, found: Artifact, frame: pd.DataFrame) -> list[str]:
    size, metric = found.meta["size"], found.meta["metric"]["name"]
    about = f"{found.meta['rule']}: {size['members']} members, effectively {size['effective']:.1f}."
    at = {(row["trial_id"], row["val_ckpt"]): row.get("step") for _, row in frame.iterrows()}
    searched = [name for name in study.config["space"] if any(name in m["settings"] for m in found.meta["members"])]
    rows = [
        [
            f"{m['trial_id']}.{m['val_ckpt']}", m["weight"], m["score"], at.get((m["trial_id"], m["val_ckpt"])),
            *(m["settings"].get(name) for name in searched),
        ]
        for m in found.meta["members"]
    ]  # fmt: skip
    head = ["member", "weight", metric, "step", *searched]
    table = sortable("Members of the ensemble", head, rows, sorted_by=("weight", "descending"), bars="weight")
    out = [(f"left out: {name}", why) for name, why in found.meta.get("left_out", {}).items()]
    return [paragraph(about), table, facts(out) if out else ""]


def _models(study: Study, found: Artifact, frame: pd.DataFrame) -> str:
    metric = study.family.metric
    weights = {(m["trial_id"], m["val_ckpt"]): m["weight"] for m in found.meta["members"]}
    scored = moments(frame, metric.name)
    rest = frame[frame[metric.name].isna()]
    searched = [name for name in study.config["space"] if name in frame]
    columns = [c for c in ("step", "seconds", "status", "reason") if c in frame]
    rows: list[list[Any]] = []
    for _, row in pd.concat([scored, rest]).iterrows():
        weight = weights.get((row["trial_id"], row["val_ckpt"]))
        head = [row["trial_id"], row["val_ckpt"], row[metric.name], weight]
        rows.append([*head, *(row[c] for c in (*columns, *searched))])
    ensemble = found.meta["scores"]["in_sample"]
    better = [metric.better(row[2], ensemble) if ensemble is not None else False for row in rows]
    at = sum(better)
    own = ["ensemble", found.meta["rule"], ensemble, 1.0, *("" for _ in (*columns, *searched))]
    rows.insert(at, own)
    head = ["trial", "snapshot", metric.name, "weight", *columns, *searched]
    order = "descending" if metric.mode == "max" else "ascending"
    return sortable("All checkpoints", head, rows, marked=at, sorted_by=(metric.name, order))
