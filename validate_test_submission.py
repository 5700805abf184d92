#!/usr/bin/env python3
"""Recompute the test rates of a published ensemble from its checkpoints and compare a submission with them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
examples:
  python validate_test_submission.py mc_maze_small submission.h5
  python validate_test_submission.py mc_maze submission.h5 --n 8 --root ~/nlb_2021/submission-validation

Needs the checkpoints (python -m download checkpoints) and the dataset's test-phase file (prepared from the raw
NWB when missing). Exit codes: 0 every number agrees (rtol 1e-5), 1 some differ, 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dataset", help="of the NLB: mc_maze, mc_rtt, area2_bump, dmfc_rsg, mc_maze_{large,medium,small}"
    )
    parser.add_argument("submission", type=Path, help="the submission's HDF5 file")
    parser.add_argument("--n", type=int, help="ensemble size (default: the published one)")
    parser.add_argument("--root", type=Path, help="checkpoints (default: SUBMISSION_VALIDATION_ROOT)")
    parser.add_argument("--family", help="whose submission it is (default: the only family that validates any)")
    arguments = parser.parse_args(argv)
    from ground.exits import run_command

    return run_command("validate_test_submission", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from models.registry import choose

    family = choose("validate_submission", arguments.family)
    given = arguments
    found = family.validate_submission(given.dataset, given.submission, given.root, given.n, print)
    for difference in found:
        print(f"DIFFERS {difference}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
