"""The options by which the verbs find a project's files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.cellprofiler.project import Project


def add_project(parser: argparse.ArgumentParser) -> None:
    """ROOT, --config and --metadata."""
    parser.add_argument("root", type=Path, help="the project's folder")
    parser.add_argument("--config", metavar="FILE", help="in inputs/config (default: the only JSON there)")
    parser.add_argument(
        "--metadata", default="index.csv", metavar="FILE", help="in inputs/metadata (default: index.csv)"
    )


def opened(given: argparse.Namespace) -> Project:
    """The project that they name; raises what `Project.open` does."""
    return Project.open(given.root, given.config, given.metadata)


def stderr(text: str) -> None:
    """What a person may want to know on the way."""
    print(text, file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
