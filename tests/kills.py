"""kill -9 at random moments of real searches: nothing that has finished is lost, nothing hangs, nothing stays.

    python -m tests.kills --rounds 50 --seed 1

Each round begins a study, kills one process of its search (the driver, a worker, the raylet, the GCS, or a whole node
of a cluster of two), then gives the same command again until it ends well. The last line counts what went wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from models import registry
from tests.clusters import Cluster
from tests.conftest import ROOT

KINDS = ("driver", "worker", "raylet", "gcs", "node")
MARK = "CONCERT_KILLS"
"""Environment variable by which the processes of a run are known, whatever they call themselves."""
DEADLINE, GRACE = 240.0, 30.0
ATTEMPTS = 4
SPACE = """
family: mean
data: {{path: {data}}}
fixed: {{epochs: 100, pace: 0.03}}
space:
  rate: {{loguniform: [0.001, 0.3]}}
budget: {{samples: 5}}
"""


@dataclass
class Counts:
    """What the rounds came to."""

    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    lost: int = 0
    hangs: int = 0
    leftovers: int = 0
    differ: int = 0
    refused: int = 0
    longest: float = 0.0

    @property
    def bad(self) -> int:
        return self.lost + self.hangs + self.leftovers + self.differ + self.refused

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.kills[kind]}" for kind in KINDS if self.kills[kind])
        return (
            f"{self.kills.total()} rounds of kill -9 ({kinds}): {self.finished} trials had finished, lost {self.lost}; "
            f"hangs {self.hangs}, leftovers {self.leftovers}, tables that differ {self.differ}, "
            f"ends that are no line {self.refused}; the longest end after a kill took {self.longest:.0f} s"
        )


class Search:
    """One command, run in the background; all its processes carry the mark."""

    def __init__(self, study: Path, home: Path, env: dict[str, str], *more: str) -> None:
        self.study, self.mark = study, f"{os.getpid()}-{time.time_ns()}"
        command = [sys.executable, "run_hyperopt.py", "kills", "--study", str(study), "--workers", "2"]
        command += ["--checkpoint-seconds", "0.2", *more]
        self.log = home / f"log-{self.mark}.txt"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **env, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.began, self.clock = time.monotonic(), time.time()

    def running(self) -> list[psutil.Process]:
        """Every process of it that lives, wherever it hangs in the tree."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def end(self, seconds: float) -> int | None:
        """Its exit code; None where it does not end in time: then it is ended."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            for process in self.running():
                process.kill()
            self.process.wait()
            return None


def victims(search: Search, kind: str) -> list[psutil.Process]:
    """Whom a kill of that kind can hit now."""

    def is_one(process: psutil.Process) -> bool:
        try:
            if kind == "worker":
                return "ray::ImplicitFunc" in " ".join(process.cmdline())
            return bool(process.name() == {"raylet": "raylet", "gcs": "gcs_server"}[kind])
        except psutil.Error:
            return False

    return [process for process in search.running() if is_one(process)]


def kept(study: Path) -> dict[str, str]:
    """What must never change again: each finished trial's result, its checkpoints, and its rows of the table."""
    found = {}
    for result in study.glob("trials/*/result.json"):
        for path in [result, *result.parent.glob("*.safetensors"), *result.parent.glob("*.json")]:
            if not path.name.startswith((".", "last.")):  # the last checkpoint goes when a trial has ended
                found[str(path.relative_to(study))] = hashlib.sha256(path.read_bytes()).hexdigest()
    if (study / "models.csv").exists():
        for _, row in pd.read_csv(study / "models.csv", index_col=0, dtype=str).iterrows():
            if row["status"] == "finished":
                found[f"models.csv: {row['trial_id']} {row['val_ckpt']}"] = row.to_json()
    return found


def table(study: Path) -> pd.DataFrame:
    """The final table without what a clock decides."""
    return pd.read_csv(study / "models.csv", index_col=0, dtype=str).drop(columns="seconds")


def leftovers(searches: list[Search], study: Path) -> list[str]:
    """What the runs that have ended left on the machine."""
    end = time.monotonic() + GRACE
    while (living := [p for s in searches for p in s.running()]) and time.monotonic() < end:
        time.sleep(0.3)
    found = [f"process {p.pid} {_title(p)}" for p in living]
    for search in searches:
        for place in {tempfile.gettempdir(), "/tmp"}:
            found += [str(path) for path in Path(place).glob(f"concert-ray-{search.process.pid}-*")]
            sessions = Path(place).glob(
                f"ray/session_*_{search.process.pid}"
            )  # a number may have been another's before
            found += [str(path) for path in sessions if path.stat().st_mtime > search.clock]
    found += [str(path) for path in study.rglob(".tmp-*")]
    found += [str(path) for path in study.parent.glob(".concert-*")]
    found += [str(path) for path in study.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.Error:
        return ""


class Rounds:
    """Rounds on one machine, against one uninterrupted run."""

    def __init__(self, home: Path, seed: int, say: Callable[[str], None]) -> None:
        self.home, self.say, self.random, self.counts = home, say, random.Random(seed), Counts()
        (home / "spaces").mkdir(parents=True)
        np.savetxt(home / "values.txt", np.random.default_rng(0).normal(4.0, 1.0, 40))
        (home / "spaces/kills.yaml").write_text(SPACE.format(data=home / "values.txt"))
        self.env = {
            registry.EXTRA_FOLDERS: str(ROOT / "tests/families"),
            "CONCERT_SPACES": str(home / "spaces"),
            "OMP_NUM_THREADS": "1",
        }
        whole = Search(home / "whole/kills", home, self.env)
        if whole.end(DEADLINE) != 0:
            raise RuntimeError(f"the uninterrupted run: {whole.log.read_text()}")
        self.seconds = time.monotonic() - whole.began
        self.table = table(home / "whole/kills")
        self.trials = float(pd.read_csv(home / "whole/kills/models.csv")["seconds"].sum()) / 2  # two run side by side
        left = leftovers([whole], home / "whole/kills")
        if left:
            raise RuntimeError(f"the uninterrupted run left {left}")

    def play(self, number: int, kind: str) -> None:
        """One round: a kill, then the same command until it ends well."""
        study = self.home / f"round-{number}/kills"
        cluster = Cluster() if kind == "node" else None
        try:
            env, other = self.env, None
            more = [] if kind == "driver" else ["--no-ensemble"]  # a driver can be killed on its way to the report, too
            if cluster is not None:
                cluster.add(cpus=1)
                other = cluster.add(cpus=1)
                env = {**env, **cluster.env}
                more += ["--address", cluster.address]
            before = self.counts.bad
            searches = [Search(study, self.home, env, *more)]
            after = self._strike(searches[0], kind, cluster, other)
            killed = time.monotonic()
            had = kept(study)
            finished = sum(name.endswith("result.json") for name in had)
            self.counts.finished += finished
            code = self._settle(searches[0], kind)
            took = time.monotonic() - killed
            self.counts.longest = max(self.counts.longest, took)
            had = self._compare(had, kept(study), number)
            if cluster is not None and code != 0:
                cluster.add(cpus=1)  # somebody turns the machine on again
            while code != 0 and len(searches) <= ATTEMPTS:
                searches.append(Search(study, self.home, env, *more))
                code = self._settle(searches[-1], "")
                had = self._compare(had, kept(study), number)
            if code != 0 or not table(study).equals(self.table):
                self.counts.differ += 1
                self.say(f"round {number}: the final table (exit code {code}) is not the uninterrupted run's")
            left = leftovers(searches, study)
            self.counts.leftovers += len(left)
            for line in left:
                self.say(f"round {number}: left {line}")
            self.say(
                f"round {number}: {kind} after {after:.1f} s, ended {took:.1f} s later; "
                f"{finished} had finished, {len(searches) - 1} more runs"
            )
            if self.counts.bad == before:
                shutil.rmtree(study.parent)
                for search in searches:
                    search.log.unlink()
        finally:
            if cluster is not None:
                cluster.close()

    def _strike(self, search: Search, kind: str, cluster: Cluster | None, other: subprocess.Popen[str] | None) -> float:
        """Kill at a random moment, as the search starts or while trials run. Returns how old it was, in seconds."""
        if kind == "worker" or self.random.random() < 0.6:
            self._wait(search, lambda: any(search.study.glob("trials/*/metrics.csv")))
            time.sleep(self.random.uniform(0.0, self.trials))
        elif kind in ("driver", "node"):
            time.sleep(self.random.uniform(0.2, self.seconds - self.trials))
        else:
            self._wait(search, lambda: victims(search, kind))
            time.sleep(self.random.uniform(0.0, (self.seconds - self.trials) / 2))
        age = time.monotonic() - search.began
        there = [] if kind in ("driver", "node") else victims(search, kind)
        if search.process.poll() is not None or (kind not in ("driver", "node") and not there):
            self.say(f"no {kind} was left to kill: it came too late")
            return age
        if kind == "driver":
            search.process.kill()
        elif cluster is not None and other is not None:
            cluster.kill(other)
        else:
            self.random.choice(there).kill()
        self.counts.kills[kind] += 1
        return age

    def _wait(self, search: Search, condition: Callable[[], object]) -> None:
        while not condition() and search.process.poll() is None and time.monotonic() - search.began < DEADLINE:
            time.sleep(0.05)

    def _settle(self, search: Search, kind: str) -> int | None:
        """Wait for the end of a command; one that ends badly must have said why in one line."""
        code = search.end(DEADLINE)
        said = search.log.read_text()
        if code is None:
            self.counts.hangs += 1
            self.say(f"{search.log}: hung")
        elif kind == "node" and code == 2 and len(said.splitlines()) == 1 and "at most 1 do" in said:
            pass  # it went before the search began, which then has too little room
        elif "Traceback" in said or (code not in (0, 1) and not (kind == "driver" and code == -signal.SIGKILL)):
            self.counts.refused += 1
            self.say(f"{search.log}: exit code {code}: {said[-1000:]}")
        elif code == 1 and sum(line.startswith("run_hyperopt: ") for line in said.splitlines()) != 1:
            self.counts.refused += 1
            self.say(f"{search.log}: exit code {code} without one line that says why: {said[-1000:]}")
        return code

    def _compare(self, had: dict[str, str], has: dict[str, str], number: int) -> dict[str, str]:
        lost = sorted(name for name, content in had.items() if has.get(name) != content)
        self.counts.lost += len(lost)
        for name in lost:
            self.say(f"round {number}: {name} was {had[name]} and is {has.get(name)}")
        return has


def play(rounds: int, seed: int, home: Path, kinds: tuple[str, ...], say: Callable[[str], None]) -> Counts:
    """Play that many rounds below `home`; every kind comes before one comes again."""
    game = Rounds(home, seed, say)
    say(f"the uninterrupted run took {game.seconds:.1f} s")
    bag: list[str] = []
    number = 0
    while game.counts.kills.total() < rounds and number < 3 * rounds:
        if not bag:
            bag = game.random.sample(kinds, len(kinds))
        number += 1
        landed = game.counts.kills.total()
        game.play(number, bag[-1])
        if game.counts.kills.total() > landed:  # else that kind comes once more
            bag.pop()
    return game.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which kinds, with commas (default: all)")
    parser.add_argument("--keep", action="store_true", help="keep what went wrong for a look")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="concert-kills-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends, too
    try:
        counts = play(
            arguments.rounds,
            arguments.seed,
            home,
            tuple(arguments.kinds.split(",")),
            lambda line: print(line, flush=True),
        )
    finally:
        if arguments.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    print(counts, flush=True)
    return int(counts.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
