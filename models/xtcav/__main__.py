"""`python -m models.xtcav plan|scan|generate`: what training would take, what files hold, a collection to try it on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ground.errors import BadInput, CommandFailed
from ground.exits import run_command
from ground.files import finite
from ground.limits import shown
from ground.settings import assignments

_LARGEST = 100_000
"""Pixels along a side, and classes."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    return run_command("python -m models.xtcav", lambda: int(given.call(given) or 0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.xtcav", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="shapes, bytes, variables and seconds of a training step")
    plan.add_argument("--config", type=Path, help="YAML: a search space or settings (default: the study's first net)")
    plan.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, may be repeated")
    plan.add_argument("--image", metavar="ROWSxCOLUMNS", help="size after preprocessing (default: the data's)")
    plan.add_argument("--classes", type=int, default=4)
    plan.add_argument("--threads", type=int, default=1, help="to measure with; 0: do not measure")
    plan.set_defaults(call=_plan)

    scan = verbs.add_parser("scan", help="what files hold, and what of it would be used")
    scan.add_argument("path", help="a file, a folder, a glob, or a text file that lists such")
    scan.add_argument("--data", action="append", default=[], metavar="KEY=VALUE", help="a key of the data block")
    scan.set_defaults(call=_scan)

    generate = verbs.add_parser("generate", help="write a collection like the experiment's; prints its folder")
    generate.add_argument("--set", action="append", default=[], metavar="OPTION=NUMBER")
    generate.add_argument("--processes", type=int)
    generate.set_defaults(call=_generate)
    return parser


def _plan(given: argparse.Namespace) -> int:
    from models.xtcav import plan

    if not 1 <= given.classes <= _LARGEST:
        raise BadInput(f"--classes {shown(given.classes)}: at least 1, and at most {_LARGEST}")
    lines, reason = plan.run(given.config, assignments(given.set), _size(given.image), given.classes, given.threads)
    print("\n".join(lines))
    if reason:
        raise CommandFailed(reason)
    return 0


def _scan(given: argparse.Namespace) -> None:
    from models.xtcav import FAMILY

    data = FAMILY.load(FAMILY.own_data(given.path, assignments(given.data)), "val")
    for name, value in FAMILY.describe(data).items():
        print(f"{name}: {value}")
    print(json.dumps(finite(data.report), indent=1))
    data.close()


def _generate(given: argparse.Namespace) -> None:
    from models.xtcav.generate import ensure

    print(ensure(assignments(given.set), given.processes))


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        rows, columns = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise BadInput(f"--image is {text[:80]!r}; it takes ROWSxCOLUMNS such as 726x568") from None
    if not (1 <= rows <= _LARGEST and 1 <= columns <= _LARGEST):
        raise BadInput(f"--image is {text[:80]!r}; both sides are at least 1, and at most {_LARGEST}")
    return rows, columns


if __name__ == "__main__":
    raise SystemExit(main())
