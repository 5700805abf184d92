"""Recordings from DANDI, through DANDI's own client."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from download.http import DownloadFailed, gib, need_space
from ground.paths import made
from models.base import Source

os.environ.setdefault("DANDI_NO_ET", "1")  # no telemetry


def recordings(
    wanted: Mapping[Source, Path],
    url: str | None = None,
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Download each dandiset into a folder of its number below the folder that it is to go to.

    Files that are there and up to date stay (the client's `existing=refresh`); partial ones go on.

    Args:
        wanted: what -> the folder.
        url: the API of another DANDI instance, e.g. a mirror's http://host/api.

    Raises:
        BadInput: not enough disk.
        DownloadFailed: the archive does not answer or files did not arrive whole.
    """
    from dandi.dandiapi import DandiAPIClient

    expected: dict[Source, list[tuple[Path, int]]] = {}
    try:
        with DandiAPIClient(url) if url else DandiAPIClient() as client:
            for source, root in wanted.items():
                dandiset = client.get_dandiset(source.identifier, lazy=False)
                place = root / source.identifier
                expected[source] = [(place / asset.path, int(asset.size)) for asset in dandiset.get_assets()]
    except Exception as error:  # requests', the client's own and pydantic's: to a user all one thing
        raise DownloadFailed(f"DANDI does not answer as it should ({_line(error)})") from None
    for root in dict.fromkeys(wanted.values()):
        here = [source for source in wanted if wanted[source] == root]
        needed = sum(size for source in here for path, size in expected[source] if not _there(path, size))
        need_space(made(root), needed, say, f"{len(here)} dataset{'s' if len(here) > 1 else ''}")
    for source, root in wanted.items():
        place = root / source.identifier
        if not all(_there(path, size) for path, size in expected[source]):
            total = sum(size for _, size in expected[source])
            say(f"{source.name}: dandiset {source.identifier}, {gib(total)}")
            _download(source.identifier, url, root, quiet)
            broken = [path for path, size in expected[source] if not _there(path, size)]
            if broken:
                raise DownloadFailed(f"{source.name}: {broken[0].name} did not arrive whole; the same command goes on")
        say(f"{source.name}: complete in {place}")
    return [root / source.identifier for source, root in wanted.items()]


def _there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _download(dandiset: str, url: str | None, root: Path, quiet: bool) -> None:
    from dandi.download import DownloadExisting, DownloadFormat, download

    address = f"{url.rstrip('/')}/dandisets/{dandiset}" if url else f"DANDI:{dandiset}"
    shape = DownloadFormat.PYOUT if sys.stdout.isatty() and not quiet else DownloadFormat.DEBUG
    try:
        with open(os.devnull, "w") as nowhere:
            if shape is DownloadFormat.DEBUG:
                out, sys.stdout = sys.stdout, nowhere
            try:
                download([address], root, existing=DownloadExisting.REFRESH, format=shape, jobs=2)
            finally:
                if shape is DownloadFormat.DEBUG:
                    sys.stdout = out
    except Exception as error:
        raise DownloadFailed(f"dandiset {dandiset}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
