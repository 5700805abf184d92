"""Download the benchmark's raw recordings and the published checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
examples:
  python -m download data mc_maze_small        DANDI dandiset 000140 into NLB_DATA_RAW (default ~/nlb_2021/raw)
  python -m download data                      all seven datasets
  python -m download checkpoints               Zenodo record 5875246 into SUBMISSION_VALIDATION_ROOT
  python -m download checkpoints --from-file ae-nlb-2021-model-checkpoints.zip

Both can be stopped and run again: what is complete is skipped, what is partial goes on.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m download",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = commands.add_parser("data", help="raw recordings from DANDI")
    data.add_argument("datasets", nargs="*", metavar="DATASET", help="default: all seven")
    data.add_argument("--url", help="the API of another DANDI instance or a mirror (default: DANDI's)")
    data.add_argument("--root", type=Path, help="where to (default: NLB_DATA_RAW)")
    data.add_argument("--quiet", action="store_true", help="no progress")
    points = commands.add_parser("checkpoints", help="the published checkpoints from Zenodo")
    points.add_argument("--url", help="API address of the record on a mirror (default: Zenodo's)")
    points.add_argument("--from-file", type=Path, metavar="ZIP", help="a copy of the archive instead of a download")
    points.add_argument("--root", type=Path, help="where to (default: SUBMISSION_VALIDATION_ROOT)")
    points.add_argument("--keep-archive", action="store_true", help="keep the zip after unpacking")
    points.add_argument("--quiet", action="store_true", help="no progress")
    arguments = parser.parse_args(argv)

    from ground.exits import run_command

    return run_command("download", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, flush=True)

    if arguments.command == "data":
        from download.dandi import recordings

        recordings(arguments.datasets, arguments.url, arguments.root, arguments.quiet, say)
    else:
        from download.zenodo import RECORD, checkpoints

        url = arguments.url or RECORD
        checkpoints(url, arguments.from_file, arguments.root, arguments.keep_archive, arguments.quiet, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
