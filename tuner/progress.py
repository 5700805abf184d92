"""What a person sees while a search runs: a live table, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ground.files import finite
from models.base import Metric


@dataclass
class Running:
    progress: float = 0.0
    score: float = math.nan
    since: float = field(default_factory=time.monotonic)


class Progress:
    """Follows a search. `mode` is "live", "plain", "json" or "quiet".

    Args:
        metric: the family's metric.
        total: trials the study is to have in the end.
        done: trials that had ended before this run.
    """

    def __init__(self, mode: str, metric: Metric, total: int, done: int, name: str, out: TextIO | None = None) -> None:
        self.mode, self.metric, self.total, self.name = mode, metric, total, name
        self.before = self.ended = done
        self.failed = 0
        self.best = math.nan
        self.best_trial = ""
        self.running: dict[str, Running] = {}
        self._out = out or sys.stdout
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.mode == "live":
            console = Console(file=self._out)
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, trial_id: str, resumed: bool) -> None:
        self.running[trial_id] = Running()
        self._event("resumed" if resumed else "started", trial_id)

    def report(self, trial_id: str, progress: float, score: float | None) -> None:
        running = self.running.setdefault(trial_id, Running())
        running.progress = progress
        if score is not None and self.metric.better(score, running.score):
            running.score = score
            self._note_best(trial_id, score)
        if self.mode == "json":
            self._emit({"event": "progress", "trial_id": trial_id, "progress": progress, self.metric.name: score})

    def end(self, trial_id: str, status: str, score: float | None, reason: str) -> None:
        self.running.pop(trial_id, None)
        self.ended += 1
        self.failed += status in ("failed", "diverged", "oom")
        if score is not None:
            self._note_best(trial_id, score)
        self._event(status, trial_id, score, reason)

    def _note_best(self, trial_id: str, score: float) -> None:
        if self.metric.better(score, self.best):
            self.best, self.best_trial = score, trial_id

    def say(self, message: str) -> None:
        """A line of the program itself, such as what it goes on to do."""
        if self.mode == "json":
            self._emit({"event": "message", "text": message})
        elif self.mode != "quiet":
            self._line(message)

    @property
    def eta(self) -> float:
        """Seconds that are left, by the share of work this run has done so far; NaN while that says nothing."""
        done = self.ended - self.before + sum(r.progress for r in self.running.values())
        left = self.total - self.ended - sum(r.progress for r in self.running.values())
        elapsed = time.monotonic() - self._began
        return elapsed * left / done if done > 0.05 else math.nan

    def _event(self, event: str, trial_id: str, score: float | None = None, reason: str = "") -> None:
        if self.mode == "json":
            self._emit({
                "event": event, "trial_id": trial_id, self.metric.name: score, "reason": reason,
                "ended": self.ended, "total": self.total, "best": self.best, "eta_seconds": self.eta,
            })  # fmt: skip
        elif self.mode == "plain" and event not in ("started", "resumed"):
            value = f"{self.metric.name} {score:.4f}" if score is not None else reason or "no score"
            best = f"best {self.best:.4f} ({self.best_trial})" if self.best == self.best else "no best yet"
            self._line(
                f"[{self.ended}/{self.total}] {trial_id} {event}: {value}; {best}; "
                f"{len(self.running)} running, {self.failed} failed; ETA {clock(self.eta)}"
            )
        elif self.mode == "live" and reason:
            self._line(f"{trial_id} {event}: {reason}")

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._out, flush=True)

    def _emit(self, value: dict[str, Any]) -> None:
        print(json.dumps(finite(value)), file=self._out, flush=True)

    def _table(self) -> Table:
        best = (
            f"best {self.metric.name} {self.best:.4f} ({self.best_trial})" if self.best == self.best else "no score yet"
        )
        table = Table(
            title=f"{self.name}: {self.ended}/{self.total} trials, {self.failed} failed; {best}",
            caption=f"elapsed {clock(time.monotonic() - self._began)}, ETA {clock(self.eta)}; "
            "Ctrl-C stops, the same command resumes",
        )
        table.add_column("trial")
        table.add_column("progress")
        table.add_column(f"best {self.metric.name}", justify="right")
        table.add_column("time", justify="right")
        for trial_id, running in list(self.running.items()):
            filled = int(20 * running.progress)
            score = f"{running.score:.4f}" if running.score == running.score else "-"
            table.add_row(
                trial_id,
                "█" * filled + "░" * (20 - filled) + f" {running.progress:4.0%}",
                score,
                clock(time.monotonic() - running.since),
            )
        return table


def clock(seconds: float) -> str:
    """75 -> 1:15; NaN -> a dash."""
    if seconds != seconds:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
