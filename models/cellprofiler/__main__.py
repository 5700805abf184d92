"""Cell Painting images to profiles of wells, in a DeepProfiler project. In the order of the work:

    python -m models.cellprofiler setup ROOT          the folders and an example configuration
    python -m models.cellprofiler check ROOT --project    what is wrong with images, locations, labels and split
    python -m models.cellprofiler prepare ROOT        correct the illumination, compress the images
    python -m models.cellprofiler split ROOT --by plates  leave plates or wells out
    python -m models.cellprofiler sample ROOT         crops of cells into a store
    python -m models.cellprofiler check ROOT          missing, black and constant crops of a store
    python -m models.cellprofiler profile ROOT --model MODEL      features of every cell
    python -m models.cellprofiler predict ROOT --model MODEL -o wells.csv     class probabilities of every well
    python -m models.cellprofiler aggregate ROOT -o wells.parquet     cells into profiles of wells
    python -m models.cellprofiler evaluate wells.parquet --label Metadata_moa     how well profiles find their like
    python -m models.cellprofiler generate            plates to try it on; prints the project's folder

A model is searched for with run_hyperopt.py --family cellprofiler --data ROOT. VERB --help says more.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ground.exits import run_command

VERBS = {
    "setup": ("setup", "the folders of a project, with an example configuration"),
    "prepare": ("prepare", "correct the illumination of each plate and compress the images"),
    "sample": ("sample", "crops of cells into a store; a killed run goes on"),
    "check": ("check", "what is wrong with a project, or with the crops of a store"),
    "split": ("splits", "leave plates or wells out: a column of the index"),
    "profile": ("profile", "features of every cell of every site"),
    "predict": ("predict", "class probabilities of every well"),
    "aggregate": ("aggregate", "features of cells into profiles of wells"),
    "evaluate": ("evaluate", "how well profiles find their like, of any table"),
    "generate": ("generate", "plates of generated cells; prints the project's folder"),
}
"""Verb -> its module, and a line about it."""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser(next(iter(arguments), "")).parse_args(arguments)
    return run_command("python -m models.cellprofiler", lambda: int(given.call(given) or 0))


def _parser(asked: str) -> argparse.ArgumentParser:
    """The options of the verb that is asked for alone: knowing those of all imports much."""
    parser = argparse.ArgumentParser(
        prog="python -m models.cellprofiler", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (module, words) in VERBS.items():
        found = importlib.import_module(f"models.cellprofiler.{module}") if name == asked else None
        verb = verbs.add_parser(
            name,
            help=words,
            description=found.__doc__ if found else words,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if found:
            found.arguments(verb)
            verb.set_defaults(call=found.main)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
