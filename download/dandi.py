"""The raw recordings: DANDI's dandisets, through DANDI's own client."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from download.http import DownloadFailed, gib, need_space
from ground.paths import folder
from models.ndt.prepare import DATASETS, known

os.environ.setdefault("DANDI_NO_ET", "1")  # no telemetry


def recordings(
    datasets: Sequence[str] = (),
    url: str | None = None,
    root: Path | None = None,
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Download datasets (default: all seven) to NLB_DATA_RAW/<dandiset>.

    Files that are there and up to date stay (the client's `existing=refresh`); partial ones go on.

    Args:
        url: the API of another DANDI instance, e.g. a mirror's http://host/api.

    Raises:
        BadInput: an unknown dataset, not enough disk.
        DownloadFailed: the archive does not answer or files did not arrive whole.
    """
    wanted = {name: known(name) for name in (datasets or DATASETS)}
    root = root or folder("NLB_DATA_RAW")
    root.mkdir(parents=True, exist_ok=True)
    from dandi.dandiapi import DandiAPIClient

    missing: dict[str, list[tuple[Path, int]]] = {}
    try:
        with DandiAPIClient(url) if url else DandiAPIClient() as client:
            for name, source in wanted.items():
                dandiset = client.get_dandiset(source.dandiset, lazy=False)
                missing[name] = [
                    (root / source.dandiset / asset.path, int(asset.size)) for asset in dandiset.get_assets()
                ]
    except Exception as error:  # requests', the client's own and pydantic's: to a user all one thing
        raise DownloadFailed(f"DANDI does not answer as it should ({_line(error)})") from None
    needed = sum(size for files in missing.values() for path, size in files if not _there(path, size))
    need_space(root, needed, say, f"{len(wanted)} dataset{'s' if len(wanted) > 1 else ''}")
    for name, source in wanted.items():
        if all(_there(path, size) for path, size in missing[name]):
            say(f"{name}: complete in {root / source.dandiset}")
            continue
        say(f"{name}: dandiset {source.dandiset}, {gib(sum(size for _, size in missing[name]))}")
        _download(source.dandiset, url, root, quiet)
        broken = [path for path, size in missing[name] if not _there(path, size)]
        if broken:
            raise DownloadFailed(f"{name}: {broken[0].name} did not arrive whole; the same command goes on")
        say(f"{name}: complete in {root / source.dandiset}")
    return [root / source.dandiset for source in wanted.values()]


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
