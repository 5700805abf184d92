"""Archives from Zenodo: downloaded, verified, unpacked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from download.http import DownloadFailed, fetch, get_json, need_space, require, shown_progress
from download.unpack import unpack
from ground.errors import BadInput
from ground.files import write_json
from ground.paths import made_if_all_is_well
from models.base import Source

_DONE = ".{}.complete.json"  # beside what came out of an archive: of each its own


def archive(
    source: Source,
    root: Path,
    url: str | None = None,
    from_file: Path | None = None,
    keep_archive: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = print,
    pause: float = 1.0,
    checksum: str | None = None,
) -> Path:
    """Bring the content of a record's archive to a folder; what is complete is not fetched again.

    Args:
        source: which record, and which of its files.
        root: where its content goes.
        url: the record's API address on a mirror that answers alike.
        from_file: a copy of the archive, in place of a download.
        checksum: what the archive must be by the user's word (`http.read_checksum`), whatever the server says.

    Raises:
        BadInput: not enough disk, a refused or damaged archive.
        DownloadFailed: the server does not hand it over, or it is not what `checksum` says.
    """
    if from_file is not None:
        if not from_file.is_file():
            raise BadInput(f"{from_file}: no such file")
        if checksum is not None:
            require(from_file, checksum)
        return _unpack(from_file, root, source.file, say, quiet, {"from": from_file.name})
    url = url or source.identifier
    size, announced, link = _entry(get_json(url, pause), url, source.file)
    if checksum is not None and _kind(checksum) == _kind(announced) and checksum != announced:
        raise DownloadFailed(f"{url}: announces {announced}, not {checksum} as --checksum says; nothing was downloaded")
    if _is_complete(root, source.file, announced, checksum):
        say(f"{root}: {source.name} is complete")
        return root
    packed = root / source.file
    there = packed.stat().st_size if packed.exists() else 0
    part = packed.with_name(packed.name + ".part")
    there = max(there, part.stat().st_size if part.exists() else 0)
    # trained weights hardly compress: unpacked they take about as much again
    need_space(root, max(0, size - there) + round(1.1 * size), say, "the archive and its content")
    new = not root.exists()
    try:
        with shown_progress(source.file, size, quiet) as progress:
            fetch(link, packed, size, announced, progress, pause, checksum)
    except DownloadFailed:
        if new:
            with contextlib.suppress(OSError):  # what came is kept; an empty folder is not
                root.rmdir()
        raise
    proven = {"checksum": announced, **({} if checksum is None else {"asked": checksum})}
    _unpack(packed, root, source.file, say, quiet, proven)
    if not keep_archive:
        packed.unlink()
    return root


def _entry(record: object, url: str, file: str) -> tuple[int, str, str]:
    files = record.get("files") if isinstance(record, dict) else None
    for entry in files if isinstance(files, list) else []:
        if isinstance(entry, dict) and entry.get("key", entry.get("filename")) == file:
            try:
                links = entry["links"]
                link = links.get("self") or links.get("content") or links["download"]
                checksum = str(entry["checksum"])
                return (
                    int(entry["size"] if "size" in entry else entry["filesize"]),
                    checksum if ":" in checksum else f"md5:{checksum}",
                    link,
                )
            except (KeyError, TypeError, ValueError, AttributeError):
                break
    raise DownloadFailed(f"{url}: the record names no usable {file}")


def _kind(checksum: str) -> str:
    return checksum.partition(":")[0]


def _is_complete(root: Path, file: str, checksum: str, asked: str | None) -> bool:
    """Whether the archive of that checksum lies here unpacked, and was proven to be what the user asks for."""
    try:
        done = json.loads((root / _DONE.format(Path(file).stem)).read_text(encoding="utf-8"))
        files = done["files"]
        proven = {done.get("checksum"), done.get("asked")}
        return (
            done.get("checksum") == checksum
            and (asked is None or asked in proven)
            and all((root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items())
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _unpack(
    archive: Path, root: Path, file: str, say: Callable[[str], None], quiet: bool, source: dict[str, str]
) -> Path:
    with made_if_all_is_well(root), shown_progress("unpacking", archive.stat().st_size, quiet) as progress:
        size = archive.stat().st_size
        files = unpack(archive, root, progress=lambda done, total: progress(round(size * done / max(total, 1))))
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files}
    write_json(root / _DONE.format(Path(file).stem), {**source, "files": sizes})
    say(f"{root}: {len(files)} files")
    return root
