#!/usr/bin/env python3
"""Search a model's hyperparameters, keep every good checkpoint, build the ensemble that wins."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = """
examples, once the environment is active (. .venv/bin/activate):
  python run_hyperopt.py lorenz                           no data needed: generated spikes, a few minutes
  python run_hyperopt.py mc_maze_small --samples 120      a Neural Latents Benchmark dataset
  python run_hyperopt.py mc_maze_small --samples 200      the same study, larger: it goes on, nothing is lost
  python run_hyperopt.py --data my_spikes.h5              your own data in a family's format
  python run_hyperopt.py mc_maze --gpus-per-trial 0.5     two trials on each GPU
  python run_hyperopt.py lorenz --set TRAIN.NUM_UPDATES=200 --study lorenz-long

  python run_hyperopt.py lorenz --holdout 0.2 --study held
                                                          a clean number: a fifth of the validation trials is unseen
  python run_hyperopt.py lorenz --set INIT=other/1a2b3c4d.best --study warm
                                                          every trial starts from another study's checkpoint
  python run_hyperopt.py --again lorenz/1a2b3c4d          one setting again, five times by other seeds

A study lives in RAY_TUNE_HOME/<study> (default ~/nlb_2021/ray_results/<family>; the NDT's is the original
program's neural-data-transformer). The same command resumes it after Ctrl-C, a crash or a power cut.
Exit codes: 0 done, 1 the search failed, 2 bad input, 130 interrupted.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("what to search").add_argument
    add("dataset", nargs="?", help="a search space by name (see search_spaces/), or a YAML file")
    add("--data", metavar="FILE", help="your own data, in the format of --family")
    add("--family", help="model family of --data (default: ndt)")
    add("--again", metavar="STUDY/TRIAL", help="train the setting of that trial again, --samples times (default 5) by "
        "other seeds, in a study of its own")  # fmt: skip
    add("--space", metavar="FILE", help="hyperparameter ranges from a published JSON space, in place of the YAML's")
    add("--config", metavar="FILE", help="fixed settings from a published nested YAML template")
    add("--set", action="append", default=[], metavar="NAME=VALUE",
        help="fix one setting, or with data.KEY=VALUE a key of the data block; repeatable")  # fmt: skip
    add("--study", metavar="NAME", help="name (or path) of the study (default: the dataset's name)")
    add("--holdout", type=float, metavar="SHARE", help="keep this share of the validation groups from all choices "
        "(snapshots, search, ensemble) and score the ensemble on it once, at the end")  # fmt: skip
    add("--seed", type=int, default=1, help="fixes proposals, initial weights, masks and dropout (default 1)")
    add("--objective", help="what the searcher optimises (default: the family's metric; or e.g. best_masked_loss)")
    add = parser.add_argument_group("how to search").add_argument
    add("--samples", type=int, help="trials the study shall have in the end (default: the search space's budget)")
    add("--searcher", default="skopt", help="skopt (Bayesian, default), random or optuna")
    add("--scheduler", default="none", help="none (default) or asha (stop the worse trials early)")
    add("--warm-start", metavar="CSV", type=Path, help="tell the searcher of an earlier study's models.csv")
    add("--keep", type=int, help="checkpoints kept on disk (default: the search space's budget)")
    add("--checkpoint-seconds", type=float, default=30.0, metavar="S",
        help="how often a running trial writes what it can go on from (default 30)")  # fmt: skip
    add("--overwrite", action="store_true", help="delete the study of this name and start over")
    add = parser.add_argument_group("on what").add_argument
    add("--workers", type=int, help="trials side by side (default: as many as fit)")
    add("--cpus-per-trial", type=float, default=1.0, help="cores of a trial (default 1: one thread each packs best)")
    add("--gpus-per-trial", type=float, default=0.0, help="GPUs of a trial, e.g. 0.5 for two on each (default 0)")
    add("--ranks", type=int, default=1, help="train each model by this many processes together, each with the CPUs and "
        "GPUs above (default 1; for families that can)")  # fmt: skip
    add("--address", help="a running Ray cluster: auto, or HOST:PORT as its nodes know it (default: this machine)")
    add = parser.add_argument_group("the ensemble").add_argument
    add("--rule", default="greedy", help="greedy (bagged, default) or topn (mean of the best N)")
    add("--device", help="where it predicts: cpu or cuda (default: cuda where trials had a GPU that is here)")
    add("--batch", type=int, help="samples a member predicts at a time (default: the family's own)")
    add("--no-ensemble", action="store_true", help="search only")
    add = parser.add_argument_group("what is shown").add_argument
    add("--quiet", action="store_true", help="errors only")
    add("--json", action="store_true", help="one JSON object a line, for programs")
    add("--verbose", action="store_true", help="Ray's own messages too")
    given = parser.parse_args(argv)
    given.command = list(sys.argv[1:] if argv is None else argv)  # kept in study.json
    return given


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    from ground.exits import run_command

    return run_command("run_hyperopt", lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    with _first_words(arguments):  # torch alone takes its time to import
        from ensembles import members
        from ensembles.select import RULES
        from ground.errors import BadInput, CommandFailed
        from tuner import setup
        from tuner.progress import Progress

        if arguments.rule not in RULES:
            raise BadInput(f"--rule {arguments.rule}: unknown; there are {', '.join(RULES)}")
        place = members.place(arguments.device or _device(arguments.gpus_per_trial), arguments.batch)
        request = setup.resolve(arguments)  # all that can be wrong with a command is found here, nothing is written
        study, resumed = setup.open_or_begin(request, arguments.overwrite)
    from studies.ledger import ended_trials

    def progress(total: int, done: int) -> Progress:
        mode = "quiet" if arguments.quiet else "json" if arguments.json else "plain"
        if mode == "plain" and sys.stdout.isatty() and not arguments.verbose:
            mode = "live"
        return Progress(mode, study.family.metric, total, done, study.name)

    def say(text: str) -> None:
        progress(0, 0).say(text)

    with study.lock():
        ended = ended_trials(study)
        if resumed:
            say(
                f"resuming study {study.name}: {len(ended)} of {request.options.samples} trials have ended "
                f"({study.path})"
            )
        else:
            say(f"study {study.name}: {request.options.samples} trials ({study.path})")
        if len(ended) < request.options.samples:
            if request.options.address is None:
                say("starting Ray ...")
            from tuner.search import search  # takes a second or two: the lines above come first

            ending = search(study, request.options, progress)
            if ending == "disk full":
                raise CommandFailed("the disk is full; free some space and run the same command again")
            if ending == "gone":
                raise CommandFailed(f"{study.path} was deleted while it was searched")
            if ending == "interrupted":
                say("interrupted; the same command goes on from here")
                return 130
            ended = ended_trials(study)
        if not any(r["status"] in ("finished", "stopped") for r in ended.values()):
            reasons = sorted({r["reason"] for r in ended.values() if r["reason"]})
            detail = f" ({reasons[0]})" if reasons else ""
            raise CommandFailed(f"not one trial succeeded{detail}; see {study.path / 'models.csv'}")
        if arguments.no_ensemble:
            return 0
        from ensembles import build, report, terminal

        try:
            artifact = build.ensure(study, arguments.rule, place=place, say=say)
        except BadInput as error:  # the input was good when the search began
            raise CommandFailed(str(error)) from None
        path = report.ensure(study)
        if arguments.json:
            print(json.dumps({"event": "done", "ensemble": artifact.summary(), "report": str(path)}))
        elif not arguments.quiet:
            terminal.leaderboard(study, artifact)
            print(f"report: {path}")
            terminal.next_commands(artifact, study)
    return 0


@contextmanager
def _first_words(arguments: argparse.Namespace) -> Iterator[None]:
    """Say at once to who watches what is being done; gone again when the first line proper comes."""
    if not sys.stdout.isatty() or arguments.quiet or arguments.json:
        yield
        return
    joined = f", joining Ray at {arguments.address}" if arguments.address else ""
    print(f"reading {(arguments.dataset or arguments.data or '')[:60]}{joined} ...", end="\r", flush=True)
    try:
        yield
    finally:
        print("\x1b[K", end="", flush=True)


def _device(gpus_per_trial: float) -> str:
    if not gpus_per_trial:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
