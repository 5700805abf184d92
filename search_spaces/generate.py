"""Search spaces in the form of the program that a family comes from, for those who still use that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ground import paths
from ground.errors import BadInput
from ground.files import write_text
from ground.names import plain
from models.base import Family
from models.registry import choose, having
from search_spaces.schema import load, names

FOLDER = "CONFIG_DIR"
_HOOK = "original_space"


def generate(
    into: Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    family: str | None = None,
) -> list[Path]:
    """Write each search space whose family has such a form; what is there stays.

    Args:
        into: a folder (default: CONFIG_DIR).
        family: of this family only.

    Raises:
        BadInput: an unknown family or one without such a form.
    """
    families = {f.name: f for f in (having(_HOOK) if family is None else [choose(_HOOK, family)])}
    written: list[Path] = []
    for name in names():
        space = load(name)
        if space.family not in families:
            continue
        domains = {setting: domain.to_json() for setting, domain in space.space.items()}
        files = families[space.family].original_space(name, space.data, space.fixed, domains)
        for file, text in files.items():
            path = paths.made(into or _folder(families[space.family])) / plain(file, "a file")
            if path.exists() and not overwrite:
                say(f"{path}: is there, left alone (--overwrite replaces it)")
                continue
            write_text(path, text)
            written.append(path)
            say(str(path))
    return written


def _folder(family: Family) -> Path:
    if FOLDER not in family.folders:
        raise BadInput(f"family {family.name} has no {FOLDER}; name a folder with --into")
    return paths.folder(FOLDER, family.folders[FOLDER])
