"""Download the public recordings and published checkpoints that the model families know of."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
examples:
  python -m download list                      what there is, and where it goes
  python -m download data mc_maze_small        DANDI dandiset 000140 into NLB_DATA_RAW (default ~/nlb_2021/raw)
  python -m download data --family ndt         all seven datasets of the NLB
  python -m download checkpoints               Zenodo record 5875246 into SUBMISSION_VALIDATION_ROOT
  python -m download checkpoints --from-file ae-nlb-2021-model-checkpoints.zip
  python -m download checkpoints --checksum md5:DIGITS
                                               only if the archive is that one, whatever the server says

All can be stopped and run again: what is complete is skipped, what is partial goes on.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m download",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="what there is, and where it goes")
    data = commands.add_parser("data", help="raw recordings, e.g. from DANDI")
    data.add_argument("names", nargs="*", metavar="DATASET", help="default: all that there are")
    data.add_argument("--url", help="the API of another DANDI instance, or of a Zenodo record's mirror")
    points = commands.add_parser("checkpoints", help="published checkpoints, e.g. from Zenodo")
    points.add_argument("names", nargs="*", metavar="ARCHIVE", help="default: all that there are")
    points.add_argument("--url", help="API address of the record on a mirror (default: Zenodo's)")
    for command in (data, points):
        command.add_argument("--from-file", type=Path, metavar="ZIP", help="a copy of the archive, no download")
        command.add_argument("--checksum", metavar="KIND:HEX", help="md5:... or sha256:... that the archive must have")
        command.add_argument("--root", type=Path, help="where to (default: see list)")
        command.add_argument("--keep-archive", action="store_true", help="keep a zip after unpacking")
        command.add_argument("--quiet", action="store_true", help="no progress")
    for command in (listing, data, points):
        command.add_argument("--family", help="what this model family knows of (default: any)")
    arguments = parser.parse_args(argv)

    from ground.exits import run_command

    return run_command("download", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from download.http import read_checksum
    from download.sources import available, chosen, folder_of
    from ground.errors import BadInput

    if arguments.command == "list":
        for family, source in available(family=arguments.family):
            where = f"{source.kind} {source.identifier}"
            print(f"{source.holds:12} {source.name:16} {family.name:12} {where}  ->  {folder_of(family, source)}")
        return 0

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, flush=True)

    wanted = chosen(arguments.command, arguments.names, arguments.family, arguments.root)
    archives = {source: root for source, root in wanted.items() if source.kind == "zenodo"}
    dandisets = {source: root for source, root in wanted.items() if source.kind == "dandi"}
    if arguments.from_file and (dandisets or len(archives) != 1):
        raise BadInput("--from-file: is a copy of one archive; name which")
    if arguments.url and archives and (dandisets or len(archives) > 1):
        raise BadInput("--url: is the address of one archive, or of one DANDI; name what to download from it")
    if arguments.checksum and (dandisets or len(archives) != 1):
        raise BadInput("--checksum: is of one archive; name which")
    checksum = None if arguments.checksum is None else read_checksum(arguments.checksum)
    if dandisets:
        from download.dandi import recordings

        recordings(dandisets, arguments.url, arguments.quiet, say)
    for source, root in archives.items():
        from download.zenodo import archive

        given = arguments
        archive(
            source, root, given.url, given.from_file, given.keep_archive, given.quiet, say, checksum=checksum
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
