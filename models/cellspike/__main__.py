"""Cells, packs and what trained networks say of them. In the order of the work:

    python -m models.cellspike generate --raw cells           simulated cells to try it on (or have your own)
    python -m models.cellspike calibrate cells -o set.conf.yaml
    python -m models.cellspike pack cells --conf set.conf.yaml
    python -m models.cellspike meta packs --witness demo0012 demo0022
    python -m models.cellspike aggregate packs -o practice3c_excite.cellSpike_4prB8kHz.data.h5 --name practice3c
    python -m models.cellspike describe FILE                  what is in a pack of any kind
    python -m models.cellspike report PREDICTION DATA -o DIR  a prediction against the truth
    python -m models.cellspike design FILE.hpar.yaml          a network layer by layer
    python -m models.cellspike winner STUDY/trials/TRIAL/config.json -o FILE.hpar.yaml

A network is searched for with python run_hyperopt.py --family cellspike --data PACKS.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ground.errors import BadInput
from ground.exits import run_command
from ground.settings import assignments

_CELLS = "folders of raw cells (meta.cellSpike.yaml and shards), or folders that hold such"


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser(next(iter(arguments), "")).parse_args(arguments)
    return run_command("python -m models.cellspike", lambda: int(given.call(given) or 0))


def _parser(asked: str) -> argparse.ArgumentParser:
    """The options of `report`, `design` and `winner` only where those are asked for: knowing them imports much."""
    parser = argparse.ArgumentParser(
        prog="python -m models.cellspike", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    generate = verbs.add_parser("generate", help="simulate cells and pack them; prints the folder")
    generate.add_argument("--set", action="append", default=[], metavar="OPTION=NUMBER", help="types, samples …")
    generate.add_argument("--raw", type=Path, metavar="FOLDER", help="raw cells only, into this folder")
    generate.add_argument("--processes", type=int)
    generate.set_defaults(call=_generate)

    calibrate = verbs.add_parser("calibrate", help="what u* means over cells, and which probes to look at: a conf")
    calibrate.add_argument("cells", nargs="+", type=Path, help=_CELLS)
    calibrate.add_argument("-o", "--out", type=Path, required=True, metavar="CONF.yaml")
    calibrate.add_argument("--packs", type=Path, default=Path("packs"), help="where packs are to go (default: packs)")
    calibrate.add_argument("--goals", nargs="+", metavar="GOAL", help="where to look, as in soma axon_150um")
    calibrate.add_argument("--probes", type=Path, metavar="YAML", help="cell: {probe: µm}, where meta files do not say")
    calibrate.add_argument("--kind", choices=("excite", "inhib"), default="excite", help="a word of the packs' names")
    calibrate.set_defaults(call=_calibrate)

    pack = verbs.add_parser("pack", help="raw cells become packs; a killed run goes on")
    pack.add_argument("cells", nargs="*", type=Path, help=f"{_CELLS} (default: the conf's)")
    pack.add_argument("--conf", type=Path, required=True)
    pack.add_argument("-o", "--out", type=Path, help="folder (default: the conf's outPath)")
    pack.add_argument("--mean", type=int, default=5, metavar="BINS", help="bins that become one (default: 5)")
    pack.set_defaults(call=_pack)

    meta = verbs.add_parser("meta", help="which packs are for practice, which cells are witnesses")
    meta.add_argument("packs", nargs="+", type=Path, help="packs, or their folder")
    meta.add_argument("--witness", nargs="*", default=[], metavar="CELL", help="never trained on")
    meta.add_argument("--name", default="", help="of the set")
    meta.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="default: the packs' folder")
    meta.set_defaults(call=_meta)

    aggregate = verbs.add_parser("aggregate", help="many packs in one shuffled file, equally many rows of each")
    aggregate.add_argument("packs", nargs="+", type=Path, help="packs, or their folder")
    aggregate.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.h5")
    aggregate.add_argument("--name", required=True, help="of the set, as in practice50c")
    aggregate.add_argument("--cells", nargs="+", metavar="CELL", help="only these")
    aggregate.add_argument("--samples", type=int, help="training rows of all cells together (default: all)")
    aggregate.add_argument("--seed", type=int, default=0)
    aggregate.add_argument("--dtype", choices=("f4", "f2"), default="f4", help="of the frames")
    aggregate.set_defaults(call=_aggregate)

    describe = verbs.add_parser("describe", help="what is in a pack of any kind")
    describe.add_argument("file", type=Path)
    describe.set_defaults(call=_describe)

    for name, module, words in (
        ("report", "report", "a prediction against the truth, conductance by conductance"),
        ("design", "design", "layers and parameters of settings, or of the original program's hpar.yaml"),
        ("winner", "design", "a trial's settings as the original program's hpar.yaml"),
    ):
        verb = verbs.add_parser(name, help=words)
        if name == asked:
            found = importlib.import_module(f"models.cellspike.{module}")
            getattr(found, f"{name}_arguments")(verb)
            verb.set_defaults(call=getattr(found, f"{name}_main"))
    return parser


def _generate(given: argparse.Namespace) -> None:
    from models.cellspike import generate

    options = assignments(given.set)
    if given.raw is None:
        print(generate.demo(options, given.processes))
        return
    for cell in generate.write_cells(options, given.raw, given.processes):
        print(cell.folder)


def _calibrate(given: argparse.Namespace) -> None:
    from models.cellspike.calibrate import GOALS, calibrate
    from models.cellspike.cells import find

    goals = given.goals or GOALS
    print("\n".join(calibrate(find(given.cells), given.out, given.packs, goals, given.probes, given.kind)))


def _pack(given: argparse.Namespace) -> None:
    from models.cellspike.calibrate import Conf
    from models.cellspike.cells import find
    from models.cellspike.pack import pack

    conf = Conf.of(given.conf)
    for cell in find(given.cells or [conf.inp / name for name in conf.probes]):
        print(pack(cell, conf, given.out, given.mean))


def _meta(given: argparse.Namespace) -> None:
    from models.cellspike.aggregate import packs_of, write_training_meta

    packs = packs_of(given.packs)
    print(write_training_meta(packs, given.out or packs[0].path.parent, given.witness, given.name))


def _aggregate(given: argparse.Namespace) -> None:
    from models.cellspike.aggregate import aggregate, packs_of

    packs = packs_of(given.packs)
    if given.cells:
        missing = sorted(set(given.cells) - {pack.cell for pack in packs})
        if missing:
            raise BadInput(f"--cells {missing[0]}: no pack of this cell")
        packs = [pack for pack in packs if pack.cell in given.cells]
    print("\n".join(aggregate(packs, given.out, given.name, given.samples, given.seed, given.dtype)))


def _describe(given: argparse.Namespace) -> None:
    from models.cellspike.worlds import open_pack

    pack = open_pack(given.file)
    facts = {
        "world": pack.world,
        "parameters": f"{len(pack.names)}: {', '.join(pack.names)}",
        "probes": ", ".join(map(str, pack.probes)),
        "stimuli": ", ".join(map(str, pack.stims)),
        "time": f"{pack.bins} bins of {pack.step_ms:g} ms",
        "cells": ", ".join(pack.cell_names),
        "rows": ", ".join(f"{split} {rows}" for split, rows in pack.sizes.items()),
    }
    for name, value in facts.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    raise SystemExit(main())
