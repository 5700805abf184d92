"""The published checkpoints of AESMTE3: Zenodo record 5875246, downloaded, verified, unpacked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from download.http import DownloadFailed, fetch, get_json, need_space, shown_progress
from download.unpack import unpack
from ground.errors import BadInput
from ground.files import write_json
from ground.paths import folder

RECORD = "https://zenodo.org/api/records/5875246"
FILE = "ae-nlb-2021-model-checkpoints.zip"
_DONE = ".complete.json"


def checkpoints(
    url: str = RECORD,
    from_file: Path | None = None,
    root: Path | None = None,
    keep_archive: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = print,
    pause: float = 1.0,
) -> Path:
    """Bring the checkpoints to SUBMISSION_VALIDATION_ROOT; what is complete is not fetched again.

    Args:
        url: a Zenodo record's API address, or a mirror's that answers alike.
        from_file: a copy of the zip, in place of a download.
        root: where they go.

    Raises:
        BadInput: not enough disk, a refused or damaged archive.
        DownloadFailed: the server does not hand it over.
    """
    root = root or folder("SUBMISSION_VALIDATION_ROOT")
    if from_file is not None:
        if not from_file.is_file():
            raise BadInput(f"{from_file}: no such file")
        return _unpack(from_file, root, say, quiet, {"from": from_file.name})
    record = get_json(url, pause)
    size, checksum, link = _entry(record, url)
    if _is_complete(root, checksum):
        say(f"{root}: the checkpoints are complete")
        return root
    archive = root / FILE
    there = archive.stat().st_size if archive.exists() else 0
    part = archive.with_name(archive.name + ".part")
    there = max(there, part.stat().st_size if part.exists() else 0)
    # trained weights hardly compress: unpacked they take about as much again
    need_space(root, max(0, size - there) + round(1.1 * size), say, "the archive and its content")
    with shown_progress(FILE, size, quiet) as progress:
        fetch(link, archive, size, checksum, progress, pause)
    _unpack(archive, root, say, quiet, {"checksum": checksum})
    if not keep_archive:
        archive.unlink()
    return root


def _entry(record: object, url: str) -> tuple[int, str, str]:
    files = record.get("files") if isinstance(record, dict) else None
    for entry in files if isinstance(files, list) else []:
        if isinstance(entry, dict) and entry.get("key", entry.get("filename")) == FILE:
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
    raise DownloadFailed(f"{url}: the record names no usable {FILE}")


def _is_complete(root: Path, checksum: str) -> bool:
    try:
        done = json.loads((root / _DONE).read_text(encoding="utf-8"))
        files = done["files"]
        return done.get("checksum") == checksum and all(
            (root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _unpack(archive: Path, root: Path, say: Callable[[str], None], quiet: bool, source: dict[str, str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with shown_progress("unpacking", archive.stat().st_size, quiet) as progress:
        size = archive.stat().st_size
        files = unpack(archive, root, progress=lambda done, total: progress(round(size * done / max(total, 1))))
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in files}
    write_json(root / _DONE, {**source, "files": sizes})
    say(f"{root}: {len(files)} files")
    return root
