"""What only the Neural Latents Benchmark and its published NDTs need beside search and ensembles."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ground.exits import run_command

EXAMPLES = """
examples, in the order of a benchmark's work:
  python -m download data mc_maze_small                           raw NWB from DANDI
  python -m models.ndt prepare mc_maze_small                      ... to spike counts, phases val and test
  python -m models.ndt describe my_spikes.h5                      is this file of mine right, and what is in it?
  python run_hyperopt.py mc_maze_small                            search, ensemble, submission.h5
  python -m ensembles score mc_maze_small                         the ensemble by nlb_tools, validation phase
  python -m models.ndt score submission.h5 --target truth.h5      a submission by nlb_tools: the final test

of the published models (python -m download checkpoints):
  python -m models.ndt checkpoint mc_maze_small/0f8a68b6.lve.pth  its sizes and settings, read without trusting it
  python -m models.ndt validate mc_maze_small submission.h5       recompute a published ensemble and compare
  python -m ensembles import ae-nlb-2021-model-checkpoints.zip    all of them as studies
  python -m search_spaces generate                                our search spaces in the original program's form

Folders: NLB_DATA_RAW, NLB_CACHE_DIR, NDT_CACHE_DIR, SUBMISSION_VALIDATION_ROOT (docs/studies.md).
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m models.ndt",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    prepare = verbs.add_parser("prepare", help="raw NWB to NDT files; what is there stays")
    prepare.add_argument("dataset")
    prepare.add_argument("--phase", choices=("val", "test", "both"), default="both", help="default both")
    prepare.add_argument("--bin-ms", type=int, default=5, help="5 (default) or 20")
    describe = verbs.add_parser("describe", help="check a file of spike counts and say what it holds")
    describe.add_argument("file", type=Path)
    describe.add_argument("--phase", choices=("val", "test"), default="val", help="as what it is read (default val)")
    score = verbs.add_parser("score", help="a submission by nlb_tools' own evaluation")
    score.add_argument("submission", type=Path)
    score.add_argument("--target", type=Path, required=True, help="EvalAI's target file: the FINAL TEST")
    score.add_argument("--json", action="store_true", help="as JSON")
    validate = verbs.add_parser("validate", help="recompute a published ensemble's test rates and compare")
    validate.add_argument("dataset")
    validate.add_argument("submission", type=Path)
    validate.add_argument("--n", type=int, help="ensemble size (default: the published one)")
    validate.add_argument("--root", type=Path, help="checkpoints (default: SUBMISSION_VALIDATION_ROOT)")
    checkpoint = verbs.add_parser("checkpoint", help="what a published checkpoint is")
    checkpoint.add_argument("file", type=Path)
    checkpoint.add_argument("--dataset", help="what it was trained on (default: its folder's name)")
    checkpoint.add_argument("--json", action="store_true", help="as JSON")
    return parser.parse_args(argv)


def _prepare(arguments: argparse.Namespace) -> int:
    from models.ndt import prepare

    for phase in ("val", "test") if arguments.phase == "both" else (arguments.phase,):
        print(f"{phase}: {prepare.ensure(arguments.dataset, phase, arguments.bin_ms)}")
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from models.ndt import FAMILY
    from models.ndt.data import load_h5

    for what, how_much in FAMILY.describe(load_h5(arguments.file, arguments.phase)).items():
        print(f"{what:8} {how_much}")
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from models.ndt.evaluation import evaluate

    scores = evaluate(arguments.submission, {}, arguments.target, "")
    if arguments.json:
        print(json.dumps(scores, indent=1))
        return 0
    print("FINAL TEST SCORE: report it, never choose by it")
    for dataset, values in scores.items():
        print(dataset, *(f"  {name:12} {value:.4f}" for name, value in values.items()), sep="\n")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from models.ndt import FAMILY

    found = FAMILY.validate_submission(arguments.dataset, arguments.submission, arguments.root, arguments.n, say=print)
    for difference in found:
        print(f"DIFFERS {difference}")
    return 1 if found else 0


def _checkpoint(arguments: argparse.Namespace) -> int:
    from models.ndt.original import convert

    config, weights = convert(arguments.file, arguments.dataset or arguments.file.resolve().parent.name)
    sizes = {name: value for name, value in weights.items() if name != "network"}
    if arguments.json:
        print(json.dumps({"sizes": sizes, "settings": config}, indent=1))
    else:
        for name, value in {**sizes, **config}.items():
            print(f"{name:28} {value}")
    return 0


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": _prepare,
    "describe": _describe,
    "score": _score,
    "validate": _validate,
    "checkpoint": _checkpoint,
}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return run_command("models.ndt", lambda: _VERBS[arguments.verb](arguments))


if __name__ == "__main__":
    sys.exit(main())
