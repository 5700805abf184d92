"""Zip archives from outside, measured by their directory before anything of them is unpacked."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ground.documents import regular
from ground.errors import BadInput

MOST_FILES = 100_000
LARGEST = 500 * 2**30
LARGEST_RATIO = 200  # trained weights hardly compress; a thousandfold is a bomb
SLACK = 2**20
"""Bytes that may come out whatever the archive's size."""
_LARGEST_DIRECTORY = 16 * 2**20
DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error, ValueError, RuntimeError)


@contextlib.contextmanager
def opened_zip(
    path: Path, ratio: float = LARGEST_RATIO, slack: int = SLACK, what: str = "zip archive"
) -> Iterator[zipfile.ZipFile]:
    """A zip archive, open for reading.

    Args:
        ratio, slack: as `refuse_bomb` takes them.
        what: it is to be, for the message.

    Raises:
        BadInput: no file, no whole zip, or one that swells; also if it turns out damaged in the course of the block.
    """
    try:
        size = regular(path).st_size
        _refuse_directory(path)
        with zipfile.ZipFile(path) as archive:
            if any(not 0 <= entry.header_offset < size for entry in archive.infolist()):
                raise zipfile.BadZipFile("its directory leads elsewhere")
            refuse_bomb(archive, path.name, size, ratio, slack)
            yield archive
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except BadInput:
        raise
    except DAMAGE as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise BadInput(f"{path}: not a whole {what} ({line})") from None


def refuse_bomb(archive: zipfile.ZipFile, name: str, size: int, ratio: float, slack: int) -> int:
    """The unpacked size in bytes.

    Args:
        size: bytes of the archive itself: what its directory says of packed sizes is not believed.
        ratio: how many times that may come out, `slack` bytes aside.

    Raises:
        BadInput: too many files, or sizes that are absurd.
    """
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise BadInput(f"{name}: refused, {len(entries)} files; {MOST_FILES} are the most")
    total = sum(entry.file_size for entry in entries)
    packed = min(size, sum(entry.compress_size for entry in entries))
    if total > LARGEST or total > ratio * max(packed, 1) + slack:
        raise BadInput(f"{name}: refused, {total / 2**30:.1f} GiB unpacked from {packed / 2**20:.1f} MiB")
    for entry in entries:
        if entry.file_size > ratio * max(entry.compress_size, 1) + slack:
            raise BadInput(
                f"{name}: refused, {entry.filename[:80]!r} is {entry.file_size / 2**30:.1f} GiB unpacked from "
                f"{entry.compress_size / 2**20:.1f} MiB"
            )
    return total


def _refuse_directory(path: Path) -> None:
    """A directory of millions of entries takes gigabytes before the first can be looked at."""
    with open(path, "rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("File is not a zip file")
    if end[5] > _LARGEST_DIRECTORY:
        raise BadInput(f"{path.name}: refused, a directory of {end[5] / 2**20:.0f} MiB")
