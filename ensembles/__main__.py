"""Build, show and use ensembles."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ground.errors import BadInput
from ground.exits import run_command
from ground.files import refuse_over
from ground.listing import listed
from ground.paths import expanded
from ground.typed import command

EXAMPLES = """
examples:
  python -m ensembles show lorenz
  python -m ensembles build mc_maze_small --rule topn --size 7      parity with the published ensemble
  python -m ensembles predict lorenz new_trials.h5 -o rates.h5
  python -m ensembles import ae-nlb-2021-model-checkpoints.zip      the published checkpoints as studies
  python -m ensembles score mc_maze_small                           co-bps, vel R2, psth R2, fp-bps on validation

STUDY is a name in RAY_TUNE_HOME, or the path of a study or of a copied ensemble folder.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ensembles",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="rebuild a study's ensemble, by another rule perhaps")
    build.add_argument("study")
    build.add_argument("--rule", default="greedy", help="greedy (bagged, default) or topn")
    build.add_argument("--size", type=int, help="with topn: exactly this many members")
    _where(build)
    show = commands.add_parser("show", help="members, weights and scores")
    show.add_argument("study")
    show.add_argument("--json", action="store_true", help="as JSON")
    predict = commands.add_parser("predict", help="use an ensemble on new data")
    predict.add_argument("study")
    predict.add_argument("data", type=Path, help="a file in the family's format")
    predict.add_argument("-o", "--output", type=Path, required=True, help="HDF5 file to write")
    predict.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    _where(predict)
    bring = commands.add_parser("import", help="turn a published archive of checkpoints into studies")
    bring.add_argument("archive", type=Path, help="the zip, or the folder it was unpacked to")
    bring.add_argument("--family", help="whose checkpoints they are (default: told by the metric that ranks them)")
    bring.add_argument("--suffix", default="-imported", help="added to each dataset's name (default -imported)")
    bring.add_argument("--overwrite", action="store_true", help="replace studies that are there already")
    words = "score by the field's own evaluation: of the NLB by nlb_tools, of other families on their test part"
    score = commands.add_parser("score", help=words)
    score.add_argument("study", help="a study, an ensemble folder, or a submission's HDF5 file")
    score.add_argument(
        "--target", type=Path, help="the truth (of the NLB: EvalAI's target file): the FINAL TEST, never for selection"
    )
    score.add_argument("--family", help="whose submission a file is (default: the only family that scores any)")
    score.add_argument("--json", action="store_true", help="as JSON")
    _where(score)
    return parser.parse_args(argv)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--batch", type=int, help="samples a member predicts at a time (default: the family's own)")


def _build(arguments: argparse.Namespace) -> int:
    from ensembles import build, members, report, terminal
    from studies import places
    from studies.study import open_study

    place = members.place(arguments.device, arguments.batch)
    study = open_study(places.find(arguments.study))
    with study.lock():
        artifact = build.build(study, arguments.rule, arguments.size, place, say=print)
        terminal.leaderboard(study, artifact)
        print(f"report: {report.write(study)}")
        terminal.next_commands(artifact, study)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from ensembles import artifact, terminal
    from studies import places
    from studies.study import open_study

    found = artifact.read(places.find(arguments.study))
    found.verify()
    home = found.path.parent
    if arguments.json:
        print(json.dumps(found.meta, indent=1))
    else:
        terminal.show(found)
        terminal.next_commands(found, open_study(home) if (home / "study.json").is_file() else None)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from ensembles import artifact, members
    from studies import places

    place = members.place(arguments.device, arguments.batch)
    found = artifact.read(places.find(arguments.study))
    found.verify()
    refuse_over(arguments.output, [arguments.data, *listed(arguments.data), found.path])
    if arguments.output.exists() and not arguments.overwrite:
        raise BadInput(f"{arguments.output} exists; give --overwrite to replace it")
    data = found.family.open(arguments.data, "test")
    about = {"study": found.meta["study"], "members": len(found.meta["members"])}
    print(found.family.export(found.predict_parts(data, place), arguments.output, about))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from ensembles.archive import import_archive

    given = arguments
    studies = import_archive(given.archive, None, given.family, given.suffix, given.overwrite, say=print)
    for study in studies:
        build = command("-m", "ensembles", "build", study.name, "--rule", "topn")
        print(f"{study.path}: build its ensemble with: {build}")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from ensembles import members
    from ensembles.score import score
    from studies import places

    place = members.place(arguments.device, arguments.batch)
    given = expanded(arguments.study)
    path = given if given.is_file() else places.find(arguments.study)
    result = score(path, arguments.target, arguments.family, place)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return 0
    if result["phase"] == "test":
        print("FINAL TEST SCORE: report it, never choose by it")
    for dataset, values in result["scores"].items():
        print(dataset if result["phase"] == "test" else f"{dataset} (validation)")
        for name, value in values.items():
            print(f"  {name:12} {value:.4f}")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "build": _build,
    "show": _show,
    "predict": _predict,
    "import": _import,
    "score": _score,
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_command("ensembles", lambda: _COMMANDS[arguments.command](arguments))


if __name__ == "__main__":
    sys.exit(main())
