"""Zip archives from elsewhere: nothing leaves the folder, nothing swells beyond what was announced."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ground.errors import BadInput
from ground.files import atomic_path
from ground.limits import shown
from ground.zips import opened_zip

_MOST_FOLDERS = 32
_CHUNK = 1 << 20


def check(archive: zipfile.ZipFile, name: str) -> int:
    """The unpacked size in bytes.

    Raises:
        BadInput: an entry is a link, has an absolute path or one that escapes, or the sizes are absurd.
    """
    seen: set[str] = set()
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or (path.parts and ":" in path.parts[0]):
            raise BadInput(f"{name}: refused, entry {entry.filename!r} has an absolute path")
        if ".." in path.parts:
            raise BadInput(f"{name}: refused, entry {entry.filename!r} leads out of the folder")
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadInput(f"{name}: refused, entry {entry.filename!r} is a link or a device")
        if entry.flag_bits & 0x1:
            raise BadInput(f"{name}: entry {entry.filename!r} is encrypted")
        if not entry.is_dir() and str(path) in seen:
            raise BadInput(f"{name}: refused, entry {entry.filename!r} is there twice")
        if any(len(part.encode("utf-8", "replace")) > 255 or not part.isprintable() for part in path.parts):
            raise BadInput(f"{name}: refused, entry {shown(entry.filename)} cannot be a file's name")
        if len(path.parts) > _MOST_FOLDERS:
            raise BadInput(f"{name}: refused, entry {shown(entry.filename)} lies {len(path.parts)} folders deep")
        seen.add(str(path))
    return sum(entry.file_size for entry in archive.infolist())


def unpack(
    path: Path, into: Path, strip_top: bool = True, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Unpack a zip into a folder, each file atomically; files that are there with the same size and CRC stay.

    Args:
        strip_top: move the content of a single top folder up.

    Returns:
        The files, new and old.

    Raises:
        BadInput: not a zip, damaged, or refused by `check`.
    """
    try:
        with opened_zip(path) as archive:
            total = check(archive, path.name)
            entries = [e for e in archive.infolist() if not e.is_dir()]
            if not entries:
                raise BadInput(f"{path}: the archive is empty")
            parts = [PurePosixPath(e.filename.replace("\\", "/")).parts for e in entries]
            tops = {p[0] for p in parts}
            strip = 1 if strip_top and len(tops) == 1 and all(len(p) > 1 for p in parts) else 0
            free = shutil.disk_usage(_existing(into)).free
            if total > free:
                raise BadInput(f"{into}: {total / 2**30:.2f} GiB needed to unpack, {free / 2**30:.2f} GiB free")
            done, files = 0, []
            for entry, names in zip(entries, parts, strict=True):
                target = into.joinpath(*names[strip:])
                if not target.resolve().is_relative_to(into.resolve()):
                    raise BadInput(f"{path}: refused, entry {entry.filename!r} leads out of the folder")
                if not _same(target, entry):
                    with archive.open(entry) as source, atomic_path(target) as new, open(new, "wb") as out:
                        shutil.copyfileobj(source, out, _CHUNK)
                done += entry.file_size
                progress(done, total)
                files.append(target)
            return files
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        raise BadInput(f"{path}: not a whole zip archive ({str(error)[:100]})") from None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _same(target: Path, entry: zipfile.ZipInfo) -> bool:
    if not target.is_file() or target.stat().st_size != entry.file_size:
        return False
    crc = 0
    with open(target, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == entry.CRC
