"""Files over HTTP that survive cuts: resumed by range, checked by size and checksum, whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ground.errors import BadInput, CommandFailed

TIMEOUT = (15, 60)  # to connect; between two bytes
ATTEMPTS = 8
CHECKSUMS = {"md5": 32, "sha256": 64}
"""What a user may name a checksum by, and its hexadecimal digits."""
_CHUNK = 1 << 16  # a cut loses at most this much


class DownloadFailed(CommandFailed):
    """The other side could not be brought to hand over the file; what came is kept for the next try."""


class _Cut(Exception):
    """Worth another try."""


def _retrying(pause: float) -> Retrying:
    return Retrying(
        retry=retry_if_exception_type(_Cut),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=pause, max=60 * pause),
    )


def get_json(url: str, pause: float = 1.0) -> Any:
    """Raises: DownloadFailed: no answer, or no JSON."""
    try:
        for attempt in _retrying(pause):
            with attempt:
                try:
                    answer = requests.get(url, timeout=TIMEOUT)
                except requests.RequestException as error:
                    raise _Cut(_reason(error)) from None
                if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                    raise _Cut(f"HTTP {answer.status_code}")
                if answer.status_code != 200:
                    raise DownloadFailed(f"{url}: HTTP {answer.status_code}")
                try:
                    return answer.json()
                except ValueError:
                    raise DownloadFailed(f"{url}: the answer is no JSON") from None
    except RetryError as error:
        raise DownloadFailed(f"{url}: {error.last_attempt.exception()}") from None
    raise AssertionError("unreachable")


def fetch(
    url: str,
    to: Path,
    size: int,
    checksum: str,
    progress: Callable[[int], None] = lambda done: None,
    pause: float = 1.0,
    asked: str | None = None,
) -> Path:
    """Download `url` to `to`, going on from `to`.part if an earlier try left one.

    Args:
        size: bytes that it must have.
        checksum: "md5:..." or "sha256:..." that it must have, as the server says.
        progress: told the bytes that are there.
        pause: seconds before the first retry; they double.
        asked: a checksum that it must have by the user's word, whatever the server says.

    Raises:
        DownloadFailed: the server refuses, keeps cutting, or hands over something else.
    """
    algorithm, _, wanted = checksum.partition(":")
    if algorithm not in hashlib.algorithms_available or not wanted:
        raise DownloadFailed(f"{url}: unknown checksum {checksum!r}")
    if to.is_file() and to.stat().st_size == size and _digest(to, algorithm) == wanted:
        if asked is not None:
            require(to, asked)
        progress(size)
        return to
    part = to.with_name(to.name + ".part")
    to.parent.mkdir(parents=True, exist_ok=True)
    for again in (True, False):
        _complete(url, part, size, progress, pause)
        if _digest(part, algorithm) == wanted:
            if asked is not None:
                try:
                    require(part, asked, url)
                except DownloadFailed:
                    part.unlink()
                    raise
            os.replace(part, to)
            return to
        part.unlink()
        if not again:
            raise DownloadFailed(f"{url}: the checksum differs from {checksum}; the file was thrown away")
    raise AssertionError("unreachable")


def _complete(url: str, part: Path, size: int, progress: Callable[[int], None], pause: float) -> None:
    """Bring `part` to its size; as long as bytes come, a cut does not count as a failed try."""
    misses = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before > size:
            part.unlink()
            before = 0
        if before == size:
            return
        try:
            _stream(url, part, before, size, progress)
        except _Cut as cut:
            gained = (part.stat().st_size if part.exists() else 0) > before
            misses = 0 if gained else misses + 1
            if misses >= ATTEMPTS:
                raise DownloadFailed(f"{url}: gave up after {misses} tries without a byte ({cut})") from None
            time.sleep(min(pause * 2**misses, 60 * pause))


def _stream(url: str, part: Path, start: int, size: int, progress: Callable[[int], None]) -> None:
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                raise _Cut(f"HTTP {answer.status_code}")
            if answer.status_code == 416:
                part.unlink()
                raise _Cut("the server holds fewer bytes than are here")
            if answer.status_code not in (200, 206):
                raise DownloadFailed(f"{url}: HTTP {answer.status_code}")
            went_on = answer.status_code == 206
            if went_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise DownloadFailed(f"{url}: the server answers with another range than was asked for")
            done = start if went_on else 0
            with open(part, "ab" if went_on else "wb") as out:
                for chunk in answer.iter_content(_CHUNK):
                    done += len(chunk)
                    if done > size:
                        raise DownloadFailed(f"{url}: the server sends more than the announced {size} bytes")
                    out.write(chunk)
                    progress(done)
            if done < size:
                raise _Cut("the connection ended early")
    except requests.RequestException as error:
        raise _Cut(_reason(error)) from None


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.ConnectionError):
        return "connection refused or broken"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def read_checksum(text: str) -> str:
    """A checksum that a user names, in the one form that is compared.

    Raises:
        BadInput: it is none.
    """
    algorithm, _, digits = text.strip().lower().partition(":")
    if len(digits) != CHECKSUMS.get(algorithm) or set(digits) - set("0123456789abcdef"):
        raise BadInput(f"--checksum {text[:80]}: expected md5: and 32 hexadecimal digits, or sha256: and 64")
    return f"{algorithm}:{digits}"


def require(path: Path, checksum: str, name: str | None = None) -> None:
    """Whether a file has the checksum that the user named.

    Args:
        name: what the file is called in words (default: its path).

    Raises:
        DownloadFailed: it has not.
    """
    algorithm, _, wanted = checksum.partition(":")
    found = _digest(path, algorithm)
    if found != wanted:
        raise DownloadFailed(f"{name or path}: is {algorithm}:{found}, not {checksum} as --checksum says; not used")


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def need_space(folder: Path, needed: int, say: Callable[[str], None], what: str) -> None:
    """Say how much disk is needed and free.

    Raises:
        BadInput: it is not enough.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    say(f"{what}: {gib(needed)} needed, {gib(free)} free in {folder}")
    if needed > free:
        raise BadInput(f"{folder}: {gib(needed)} needed for {what}, only {gib(free)} free")


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


@contextlib.contextmanager
def shown_progress(title: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line each tenth elsewhere."""
    if quiet:
        yield lambda done: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        last = -1

        def line(done: int) -> None:
            nonlocal last
            tenth = 10 * done // max(total, 1)
            if tenth > last:
                last = tenth
                print(f"{title}: {gib(done)} of {gib(total)} ({10 * tenth} %)", file=sys.stderr, flush=True)

        yield line
