"""What a search found, on the terminal: the leaderboard and the ensemble's scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table

from ensembles.artifact import Artifact
from ensembles.next_steps import next_steps
from studies import ledger
from studies.study import Study

TOP = 10
CAVEAT = "out of fold: ranking, size and rule never saw what they are scored on; snapshots' epochs and the search did"
HOLDOUT = "holdout: nothing saw it before; the clean number"


class Row(NamedTuple):
    """One way of scoring, in words: of the ensemble, of the best single model, and their difference."""

    how: str
    ensemble: str
    single: str
    difference: str


def score_rows(meta: Mapping[str, Any]) -> list[Row]:
    """The scores of an ensemble.json, the most honest first."""
    scores = meta["scores"]
    rows = []
    if scores.get("holdout"):
        held = scores["holdout"]
        rows.append(Row("holdout", plus_minus(held["ensemble"]), plus_minus(held["best_single"]), gain(held)))
    outside, single = scores["out_of_fold"], scores["best_single_out_of_fold"]
    rows.append(Row("out of fold", plus_minus(outside), plus_minus(single), gain(scores)))
    rows.append(Row("in sample", number(scores["in_sample"]), number(scores["best_single"]), ""))
    return rows


def number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None or value != value else f"{value:{sign}.4f}"


def plus_minus(estimate: Mapping[str, float | None], sign: str = "") -> str:
    """A score with its standard error."""
    error = estimate["standard_error"]
    return number(estimate["score"], sign) + ("" if error is None or error != error else f" ± {error:.4f}")


def gain(scores: Mapping[str, Any]) -> str:
    """What the ensemble adds to the best single model."""
    return plus_minus(scores["difference"], "+") if "difference" in scores else ""


def leaderboard(study: Study, found: Artifact) -> None:
    """The best checkpoints and the ensemble among them, on stdout."""
    frame = ledger.table(study)
    name, scores = study.family.metric.name, found.meta["scores"]
    weights = {(m["trial_id"], m["val_ckpt"]): m["weight"] for m in found.meta["members"]}
    table = Table(title=f"{study.name}: best checkpoints by validation {name}, and the ensemble in sample")
    for column in ("rank", "trial", "snapshot", name, "step", "seconds", "weight in ensemble"):
        table.add_column(column, justify="left" if column in ("trial", "snapshot") else "right")
    size = found.meta["size"]["members"]
    table.add_row(
        "", "ensemble", found.meta["rule"], number(scores["in_sample"]), "", "", f"{size} members", style="bold"
    )
    for rank, (_, row) in enumerate(moments(frame, name).head(TOP).iterrows(), 1):
        weight = weights.get((row["trial_id"], row["val_ckpt"]))
        table.add_row(
            str(rank), str(row["trial_id"]), str(row["val_ckpt"]), number(row[name]), _whole(row.get("step")),
            _whole(row["seconds"]), f"{weight:.3f}" if weight else "",
        )  # fmt: skip
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"trials: {statuses(frame)}", highlight=False)
    show(found)


def moments(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Scored rows of a table of models, one a distinct moment of a trial."""
    scored = frame[frame[metric].notna()]
    if "step" not in scored:
        return scored
    same = scored.duplicated(["trial_id", "step"]) & scored["step"].notna()
    return scored[~same]


def statuses(frame: pd.DataFrame) -> str:
    counts = frame.drop_duplicates("trial_id")["status"].value_counts()
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _whole(value: Any) -> str:
    return "" if value is None or value != value else f"{float(value):.0f}"


def next_commands(found: Artifact, study: Study | None = None) -> None:
    """What to do with it now, on stdout, as commands that work as they are printed."""
    for step in next_steps(found, study):
        print(f"{step.words}:\n  {step.command}")


def show(found: Artifact) -> None:
    """The ensemble's scores, on stdout."""
    meta, size = found.meta, found.meta["size"]
    print(f"ensemble ({meta['rule']}): {size['members']} members, effectively {size['effective']:.1f}")
    rows = score_rows(meta)
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        line = f"  {meta['metric']['name']} {row.how:{widths[0]}}  {row.ensemble:{widths[1]}}"
        line += f"   best single model {row.single:{widths[2]}}"
        print(f"{line}   difference {row.difference}" if row.difference else line.rstrip())
    print(f"  ({CAVEAT})")
    if meta["scores"].get("holdout"):
        print(f"  ({HOLDOUT})")
    print(f"  in {found.path}")
