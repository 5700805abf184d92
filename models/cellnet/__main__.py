"""What comes before training: wire readout into voxels, TPCs joined, what files hold, generated events."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ground.errors import BadInput
from ground.exits import run_command
from ground.settings import assignments

EXAMPLES = """
examples, in the order of the work:
  python -m models.cellnet generate --set files=2               simulated events, parsed and tiled, without any data
  python -m models.cellnet tile PARSED XY --tpc 1               parsed files of TPC 1 to xy files; what is there stays
  python -m models.cellnet tile PARSED XY --tpc 1 --y none      ... of the detector, where there is no truth
  python -m models.cellnet join XY --tpcs 1,5,9                 three TPCs as one
  python -m models.cellnet train ghost3d.yaml --resume          a configuration of the original program
  python -m models.cellnet describe XY/reco_Mu_000_xy-TPC1.npz  is this file right, and what is in it?
  python run_hyperopt.py lartpc_demo                            search and ensemble on generated events

Another detector is a YAML file (--detector); models/cellnet/detectors/protodune.yaml says what its keys mean.
Folder: CELLNET_DATA (generated events).
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m models.cellnet",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    generate = verbs.add_parser("generate", help="simulate and tile events; prints their folder")
    generate.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="may be repeated")
    generate.add_argument("--threads", type=int, help="default: one a core")
    tile = verbs.add_parser("tile", help="parsed files to xy files; what is there stays")
    tile.add_argument("parsed", type=Path, help="the folder of parsed npz files")
    tile.add_argument("xy", type=Path, help="the folder of xy files")
    tile.add_argument("--tpc", type=int, required=True)
    tile.add_argument("--downsample", default="8,4,4", metavar="X,Y,Z", help="voxels that become one (default 8,4,4)")
    tile.add_argument("--batch-size", type=int, help="events an xy file (default: as many as the parsed file has)")
    tile.add_argument("--x", default="wire", help="wire (default) or hit")
    tile.add_argument(
        "--y",
        default="energy,depo,depoElectron",
        help="truth: the first of these that there is, or none (default energy,depo,depoElectron)",
    )
    tile.add_argument("--save-pix", action="store_true", help="also the active squares of every tick, beside PARSED")
    tile.add_argument("--threads", type=int, help="default: one a core")
    tile.add_argument("--detector", default="protodune", help="protodune (default), mini, or a YAML file")
    join = verbs.add_parser("join", help="xy files of several TPCs to one that holds all")
    join.add_argument("xy", type=Path, help="the folder of xy files")
    join.add_argument("--tpcs", required=True, metavar="1,5,9", help="the first one's coordinates are kept")
    join.add_argument("--detector", default="protodune", help="protodune (default), mini, or a YAML file")
    train = verbs.add_parser("train", help="run a configuration of the original program as it is")
    train.add_argument("config", type=Path, help="its YAML file")
    train.add_argument(
        "--resume",
        type=int,
        nargs="?",
        const=-1,
        metavar="EPOCH",
        help="go on after this epoch (default: the last one)",
    )
    train.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    train.add_argument(
        "-d", "--distributed", choices=("gloo", "nccl"), help="one of several ranks, by torchrun or srun"
    )
    describe = verbs.add_parser("describe", help="check an xy file and say what it holds")
    describe.add_argument("file", type=Path)
    return parser.parse_args(argv)


def _generate(arguments: argparse.Namespace) -> int:
    from models.cellnet.generate import demo

    print(demo(assignments(arguments.set), _threads(arguments.threads)))
    return 0


def _tile(arguments: argparse.Namespace) -> int:
    from models.cellnet.generate import downsample
    from models.cellnet.geometry import load
    from models.cellnet.process import Settings, process

    settings = Settings(
        detector=load(arguments.detector),
        downsample=downsample(arguments.downsample),
        batch_size=arguments.batch_size,
        x=arguments.x,
        y=() if arguments.y == "none" else tuple(arguments.y.split(",")),
    )
    files = process(
        arguments.parsed, arguments.xy, arguments.tpc, settings, arguments.save_pix, _threads(arguments.threads)
    )
    print(f"{len(files)} xy files in {arguments.xy}")
    return 0


def _join(arguments: argparse.Namespace) -> int:
    from models.cellnet.geometry import load
    from models.cellnet.join import join

    try:
        tpcs = [int(part) for part in arguments.tpcs.split(",")]
    except ValueError:
        raise BadInput(f"--tpcs is {arguments.tpcs!r}; it takes numbers such as 1,5,9") from None
    files = join(arguments.xy, tpcs, load(arguments.detector), lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{len(files)} joined xy files in {arguments.xy}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from models.cellnet.run import leave, placed, train

    place = placed(arguments.device, arguments.distributed, arguments.config)
    say = (lambda text: print(text, flush=True)) if place.rank == 0 else (lambda _: None)
    try:
        train(arguments.config, arguments.resume, place, say)
    finally:
        leave(place)
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from models.cellnet.xy import describe

    for what, how_much in describe(arguments.file).items():
        print(f"{what:28} {how_much}")
    return 0


def _threads(given: int | None) -> int:
    from ground.machine import available_cpus

    if given is not None and given < 1:
        raise BadInput(f"--threads is {given}; it takes at least 1")
    return given or available_cpus()


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "generate": _generate,
    "tile": _tile,
    "join": _join,
    "train": _train,
    "describe": _describe,
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_command("models.cellnet", lambda: _VERBS[arguments.verb](arguments))


if __name__ == "__main__":
    sys.exit(main())
