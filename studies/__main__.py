"""The studies that are there: list them, look at one, free the space of one."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ground.errors import BadInput
from ground.exits import run_command
from models import registry
from studies import ledger, places
from studies.study import Study, open_study, remove

EXAMPLES = """
examples:
  python -m studies list                    every study, of any family: trials, best score, size, whether it runs
  python -m studies list --family xtcav
  python -m studies show lorenz             one study: settings, trials by status, the best checkpoints
  python -m studies clean lorenz            free space: TensorBoard logs and what killed runs left behind
  python -m studies clean lorenz --all      delete the study

STUDY is a name, or the path of a study. A study that is in use is never touched.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, words in (("list", "every study"), ("show", "one study"), ("clean", "free the space of one")):
        verb = verbs.add_parser(name, help=words)
        if name == "list":
            verb.add_argument("--family", help="only of this model family")
        else:
            verb.add_argument("study")
        if name == "clean":
            verb.add_argument("--all", action="store_true", help="the whole study, checkpoints and ensemble included")
            verb.add_argument("--yes", action="store_true", help="do not ask before deleting a study")
        else:
            verb.add_argument("--json", action="store_true", help="as JSON")
    return parser.parse_args(argv)


def _list(given: argparse.Namespace) -> int:
    if given.family:
        registry.get(given.family)
    found, broken = [], []
    for home in places.homes():
        for path in sorted(file.parent for file in home.glob("*/study.json")):
            try:
                study = open_study(path)
                found.append(summary(study, ledger.table(study)))
            except BadInput as error:
                broken.append(str(error))
    found = [one for one in found if given.family in (None, one["family"])]
    if given.json:
        print(json.dumps(found, indent=1))
    elif not found:
        print("no studies in", ", ".join(map(str, places.homes())) or "any folder yet")
    else:
        import rich
        from rich.table import Table

        table = Table("study", "family", "trials", "best", "ensemble", "size", "state")
        for one in found:
            best = "" if one["best"] is None else f"{one['metric']} {one['best']:.4f}"
            trials = ", ".join(f"{count} {status}" for status, count in one["trials"].items())
            state = "running" if one["in_use"] else ""
            built = "yes" if one["ensemble"] else ""
            table.add_row(one["study"], one["family"], trials, best, built, _bytes(one["bytes"]), state)
        rich.print(table)
    for line in broken:
        print(f"studies: {line}; it is left out", file=sys.stderr)
    return 0


def _show(given: argparse.Namespace) -> int:
    study = open_study(places.find(given.study))
    frame = ledger.table(study)
    about = summary(study, frame)
    if given.json:
        print(json.dumps({**about, "config": study.config}, indent=1))
        return 0
    print(f"{study.name} ({study.family.name}) in {study.path}, {_bytes(about['bytes'])}")
    print("trials:", ", ".join(f"{count} {status}" for status, count in about["trials"].items()) or "none")
    for name in ("seed", "objective", "holdout", "ranks"):
        if study.config.get(name) is not None:
            print(f"{name}: {study.config[name]}")
    print("data:", json.dumps(study.config["data"]))
    print("fixed:", json.dumps(study.config["fixed"]))
    print("searched:", ", ".join(study.config["space"]))
    best = ledger.usable(study, frame).head(5)
    if len(best):
        columns = ["trial_id", "val_ckpt", study.family.metric.name, *study.config["space"]]
        print(best[[c for c in columns if c in best]].to_string(index=False))
    return 0


def _clean(given: argparse.Namespace) -> int:
    path = places.find(given.study)
    study = open_study(path)
    before = _size(path)
    with study.lock():
        if given.all:
            if not given.yes and not _agreed(f"delete {path} with its checkpoints ({_bytes(before)})?"):
                print("nothing was deleted")
                return 0
            remove(path)
        else:
            for leftover in (*study.trials.glob("*/tb"), *path.glob(".predictions-*"), *path.glob(".ray")):
                shutil.rmtree(leftover)
            for leftover in path.rglob(".tmp-*"):
                leftover.unlink()
    if given.all:  # the lock is the last to go
        (path / ".lock").unlink(missing_ok=True)
        path.rmdir()
    print(f"{study.name}: {_bytes(before - (0 if given.all else _size(path)))} freed")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise BadInput("nobody is there to agree; give --yes")
    return input(f"{question} [y/N] ").strip().lower() == "y"


def summary(study: Study, frame: pd.DataFrame) -> dict[str, Any]:
    """A study in numbers, for people and programs; `frame` is its `ledger.table`."""
    metric = study.family.metric
    usable = ledger.usable(study, frame)
    status = frame.drop_duplicates("trial_id")["status"].value_counts()
    return {
        "study": study.name,
        "path": str(study.path),
        "family": study.config["family"],
        "trials": {str(name): int(count) for name, count in status.items()},
        "metric": metric.name,
        "best": float(usable[metric.name].iloc[0]) if len(usable) else None,
        "ensemble": (study.path / "ensemble/ensemble.json").is_file(),
        "bytes": _size(study.path),
        "in_use": _in_use(study.path),
    }


def _in_use(path: Path) -> bool:
    if not (path / ".lock").exists():
        return False
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _bytes(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.1f} GB"


_VERBS = {"list": _list, "show": _show, "clean": _clean}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_command("studies", lambda: _VERBS[arguments.verb](arguments))


if __name__ == "__main__":
    sys.exit(main())
