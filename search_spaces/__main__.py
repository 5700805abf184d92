"""List the search spaces, or write them in the form of the program that their family comes from."""

from __future__ import annotations

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m search_spaces", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="what can be searched by name")
    write = commands.add_parser(
        "generate", help="write them in their original program's form (of the NDT: YAML + JSON)"
    )
    write.add_argument("--into", help="folder (default: CONFIG_DIR)")
    write.add_argument("--family", help="of this model family only (default: of all that have such a form)")
    write.add_argument("--overwrite", action="store_true", help="replace files that are there")
    arguments = parser.parse_args(argv)
    from ground.exits import run_command

    return run_command("search_spaces", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    import search_spaces
    from ground.errors import BadInput
    from ground.paths import expanded
    from search_spaces.generate import generate

    if arguments.command == "list":
        for name in search_spaces.names():
            space = search_spaces.load(name)
            print(f"{name:16} {space.family:6} {len(space.space):2} dimensions   {space.description}")
    else:
        if arguments.into is not None and not arguments.into.strip():
            raise BadInput("--into is empty; it takes a folder")
        into = None if arguments.into is None else expanded(arguments.into)
        if into is not None and into.exists() and not into.is_dir():
            raise BadInput(f"--into {into}: is no folder")
        generate(into, arguments.overwrite, family=arguments.family)
    return 0


if __name__ == "__main__":
    sys.exit(main())
