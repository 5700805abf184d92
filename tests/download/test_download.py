from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from download import http
from download.__main__ import main
from download.http import DownloadFailed
from download.sources import chosen
from download.unpack import unpack
from download.zenodo import archive as bring
from ground.errors import BadInput
from models.ndt.folders import folder
from tests.conftest import ROOT
from tests.download.servers import FILE, Site, dandi, serve, zenodo

PAUSE = 0.01


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


def archive(entries: dict[str, bytes] | None = None) -> bytes:
    rng = random.Random(0)
    entries = entries or {
        f"ae-nlb-2021-model-checkpoints/mc_maze/{i}.lve.pth": rng.randbytes(200_000) for i in range(5)
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return out.getvalue()


def get(url: str, **more: object) -> Path:
    ((source, root),) = chosen("checkpoints", (), None).items()
    return bring(source, root, url, quiet=True, say=lambda _: None, pause=PAUSE, **more)  # type: ignore[arg-type]


def test_three_cuts_are_resumed_by_range(site: Site) -> None:
    content = archive()
    url = zenodo(site, content)
    site.cuts = [300_000, 200_000, 100_000]
    root = get(url)
    assert (root / "mc_maze/0.lve.pth").stat().st_size == 200_000  # the top folder moved up
    assert not list(root.glob("*.zip*"))
    ranges = [r for path, r in site.requests if path.startswith("/files")]
    assert len(ranges) == 4
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges if r]
    assert starts == sorted(starts)
    assert 0 < starts[0] <= 300_000
    before = len(site.requests)
    get(url)  # complete: only the record is asked for
    assert [path for path, _ in site.requests[before:]] == ["/api/records/5875246"]


def test_a_lost_file_is_brought_back(site: Site) -> None:
    url = zenodo(site, archive())
    root = get(url)
    (root / "mc_maze/3.lve.pth").unlink()
    get(url)
    assert (root / "mc_maze/3.lve.pth").exists()


def test_a_server_without_ranges(site: Site) -> None:
    url = zenodo(site, archive())
    site.ranges = False
    site.cuts = [500_000]
    assert (get(url) / "mc_maze/4.lve.pth").exists()


def test_busy_servers_are_asked_again(site: Site) -> None:
    url = zenodo(site, archive())
    site.refusals = 3
    assert (get(url) / "mc_maze/4.lve.pth").exists()


def test_wrong_checksum_is_thrown_away(site: Site) -> None:
    url = zenodo(site, archive())
    site.documents["/api/records/5875246"]["files"][0]["checksum"] = "md5:" + "0" * 32
    with pytest.raises(DownloadFailed, match="checksum differs"):
        get(url)
    root = folder("SUBMISSION_VALIDATION_ROOT")
    assert not list(root.rglob("*.pth"))
    assert not list(root.glob("*.part"))


def kinds(content: bytes) -> dict[str, str]:
    return {kind: f"{kind}:{hashlib.new(kind, content).hexdigest()}" for kind in ("md5", "sha256")}


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_the_users_checksum_is_proven(site: Site, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = archive()
    command = ["checkpoints", "--url", zenodo(site, content), "--quiet", "--checksum"]
    right, wrong = kinds(content)[kind], kinds(b"another archive")[kind]
    root = folder("SUBMISSION_VALIDATION_ROOT")
    assert main([*command, wrong]) == 1
    error = capsys.readouterr().err
    assert wrong in error and len(error.strip().splitlines()) == 1
    assert not root.exists()  # nothing is left, not even the folder
    assert main([*command, right.upper().replace(kind.upper(), kind)]) == 0
    assert (root / "mc_maze/4.lve.pth").exists()
    before = len(site.requests)
    assert main([*command, right]) == 0  # was proven before
    assert [path for path, _ in site.requests[before:]] == ["/api/records/5875246"]
    assert main([*command, wrong]) == 1
    assert (root / "mc_maze/4.lve.pth").exists()


def test_a_server_that_lies_about_what_it_hands_over(site: Site) -> None:
    """The record's own checksum fits the file; the user knows another."""
    url = zenodo(site, archive({"top/evil": b"something else"}))
    with pytest.raises(DownloadFailed, match="as --checksum says"):
        get(url, checksum=kinds(archive())["sha256"])
    assert not folder("SUBMISSION_VALIDATION_ROOT").exists()


def test_what_was_not_proven_is_brought_again(site: Site) -> None:
    content = archive()
    url = zenodo(site, content)
    get(url)
    get(url, checksum=kinds(content)["sha256"])  # only the server's md5 was known so far
    assert len([path for path, _ in site.requests if path.startswith("/files")]) == 2


def test_a_copy_is_proven_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, root = tmp_path / "a.zip", tmp_path / "root"
    path.write_bytes(archive())
    command = ["checkpoints", "--from-file", str(path), "--root", str(root), "--quiet", "--checksum"]
    assert main([*command, kinds(b"")["md5"]]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert path.exists() and not root.exists()
    assert main([*command, kinds(path.read_bytes())["sha256"]]) == 0
    assert (root / "mc_maze/0.lve.pth").exists()


@pytest.mark.parametrize(
    "checksum", ["", "md5", "md5:", "sha1:" + "0" * 40, "md5:" + "0" * 31, "sha256:" + "0" * 32, "md5:" + "g" * 32,
                 "md5:" + "٣" * 32, "0" * 32]
)  # fmt: skip
def test_what_is_no_checksum_is_refused(site: Site, checksum: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "--url", zenodo(site, archive()), "--checksum", checksum]) == 2
    error = capsys.readouterr().err
    assert "--checksum" in error and len(error.strip().splitlines()) == 1
    assert not site.requests
    assert main(["data", "mc_rtt", "--checksum", "md5:" + "0" * 32]) == 2


def test_a_server_that_never_hands_it_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ATTEMPTS", 3)
    url = zenodo(site, archive())
    site.cuts = [0] * 50
    with pytest.raises(DownloadFailed, match="gave up"):
        get(url)


def test_slow_servers_time_out_and_go_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", (1, 0.2))
    url = zenodo(site, archive())
    site.pause = 0.25  # each chunk comes too late, but bytes do come
    assert (get(url) / "mc_maze/0.lve.pth").exists()


@pytest.mark.parametrize(
    ("record", "words"),
    [({}, "names no usable"), ({"files": [{"key": FILE}]}, "names no usable"), ([1], "names no usable")],
)
def test_odd_records(site: Site, record: object, words: str) -> None:
    site.documents["/api/records/5875246"] = record
    with pytest.raises(DownloadFailed, match=words):
        get(f"{site.url}/api/records/5875246")


def test_commands_tell_in_one_line(site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["checkpoints", "--url", f"{site.url}/api/nowhere", "--quiet"]) == 1
    assert "HTTP 404" in capsys.readouterr().err
    assert main(["checkpoints", "--from-file", str(tmp_path / "none.zip")]) == 2
    assert main(["data", "mc_mace"]) == 2
    assert "unknown data 'mc_mace'; did you mean mc_maze?" in capsys.readouterr().err


def test_no_room_is_told_before_the_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    url = zenodo(site, archive())
    site.documents["/api/records/5875246"]["files"][0]["size"] = 10**18
    with pytest.raises(BadInput, match=r"only .* free"):
        get(url)
    assert not [path for path, _ in site.requests if path.startswith("/files")]


def test_killed_and_run_again(site: Site) -> None:
    content = archive({f"top/{i}.lve.pth": random.Random(i).randbytes(1_000_000) for i in range(4)})
    url = zenodo(site, content)
    site.pause = 0.02
    command = [sys.executable, "-m", "download", "checkpoints", "--url", url, "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
    part = folder("SUBMISSION_VALIDATION_ROOT") / f"{FILE}.part"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    site.pause = 0.0
    assert part.stat().st_size < len(content)
    assert subprocess.run(command, cwd=ROOT, env=os.environ).returncode == 0
    asked = [r for path, r in site.requests if path.startswith("/files")]
    assert asked[-1] is not None  # it went on instead of starting over
    assert len(list(folder("SUBMISSION_VALIDATION_ROOT").glob("*.pth"))) == 4


def link_entry() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        info = zipfile.ZipInfo("top/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("top/zeros", b"\0" * 50_000_000)
    return out.getvalue()


def twice() -> bytes:
    import warnings

    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
        warnings.simplefilter("ignore")
        file.writestr("a", b"1")
        file.writestr("a", b"2")
    return out.getvalue()


EVIL = {
    "absolute": (archive({"/etc/cron.d/x": b"1"}), "absolute path"),
    "drive": (archive({"C:/x": b"1"}), "absolute path"),
    "parent": (archive({"top/../../x": b"1"}), "leads out"),
    "backslash parent": (archive({"top\\..\\..\\x": b"1"}), "leads out"),
    "link": (link_entry(), "link"),
    "bomb": (bomb(), "refused"),
    "twice": (twice(), "twice"),
    "truncated": (archive()[:500_000], "not a whole zip"),
    "no zip": (b"hello", "not a whole zip"),
    "nothing": (b"", "not a whole zip"),
    "flipped": (archive()[:1000] + b"xxxx" + archive()[1004:], "not a whole zip"),
    "empty": (archive({"top/": b""})[:0] + b"PK\x05\x06" + b"\0" * 18, "empty"),
}


@pytest.mark.parametrize("case", EVIL)
def test_evil_archives(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = EVIL[case]
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert main(["checkpoints", "--from-file", str(path), "--root", str(tmp_path / "deep" / "root")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "deep" / "x").exists()


def test_unpacking_again_keeps_what_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive())
    files = unpack(tmp_path / "a.zip", tmp_path / "out")
    stamps = {f: f.stat().st_mtime_ns for f in files}
    files[0].write_bytes(b"damaged")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert files[0].stat().st_size == 200_000
    assert all(f.stat().st_mtime_ns == stamps[f] for f in files[1:])


def test_dandisets_come_through_dandis_own_client(site: Site) -> None:
    from download.dandi import recordings

    files = {
        "sub-Jenkins/a_desc-train.nwb": random.Random(1).randbytes(300_000),
        "sub-Jenkins/a_desc-test.nwb": random.Random(2).randbytes(100_000),
    }
    api = dandi(site, "000140", files)
    said: list[str] = []
    (place,) = recordings(chosen("data", ["mc_maze_small"], None), api, quiet=True, say=said.append)
    for name, content in files.items():
        assert (place / name).read_bytes() == content
    assert any("needed" in line and "free" in line for line in said)
    before = len([p for p, _ in site.requests if "download" in p])
    recordings(chosen("data", ["mc_maze_small"], None), api, quiet=True, say=said.append)
    assert len([p for p, _ in site.requests if "download" in p]) == before
    (place / "sub-Jenkins/a_desc-test.nwb").unlink()
    recordings(chosen("data", ["mc_maze_small"], None), api, quiet=True, say=said.append)
    assert (place / "sub-Jenkins/a_desc-test.nwb").exists()


def test_a_dandi_that_does_not_answer(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mc_maze_small", "--url", f"{site.url}/api"]) == 1
    error = capsys.readouterr().err
    assert "DANDI does not answer" in error
    assert len(error.strip().splitlines()) == 1


def test_list_names_every_source_and_survives_a_broken_family(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "families" / "broken").mkdir(parents=True)
    (tmp_path / "families" / "broken" / "__init__.py").write_text("import no_such_package_at_all\n")
    monkeypatch.setenv("CONCERT_FAMILIES", str(tmp_path / "families"))
    assert main(["list"]) == 0
    out, error = capsys.readouterr()
    assert out.count("dandi 0001") == 7
    assert f"zenodo https://zenodo.org/api/records/5875246  ->  {home / 'submission-validation'}" in out
    assert "'broken' cannot be imported (ModuleNotFoundError" in error
    assert len(error.strip().splitlines()) == 1
    assert main(["data", "--family", "broken"]) == 2


TWO = """
from models.base import Source
from tests.families import mean


class Other(mean.MeanFamily):
    name = "other"
    folders = {"OTHER_RAW": "other-raw"}
    sources = (
        Source("mc_maze", "dandi", "000999", "OTHER_RAW"),
        Source("voltages", "zenodo", "http://127.0.0.1:9/records/1", "OTHER_RAW", "v.zip"),
    )


FAMILY = Other()
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "families" / "other").mkdir(parents=True)
    (tmp_path / "families" / "other" / "__init__.py").write_text(TWO)
    monkeypatch.setenv("CONCERT_FAMILIES", str(tmp_path / "families"))


def test_sources_of_every_family_are_found(other: None, home: Path) -> None:
    (source,) = chosen("data", ["voltages"], None)
    assert chosen("data", ["voltages"], None) == {source: home / "other-raw"}
    with pytest.raises(BadInput, match=r"mc_maze is of families ndt, other; say which with --family"):
        chosen("data", ["mc_maze"], None)
    (own,) = chosen("data", ["mc_maze"], "other")
    assert own.identifier == "000999"
    with pytest.raises(BadInput, match="names checkpoints"):
        chosen("checkpoints", (), "other")


def test_one_address_is_not_for_two_archives(other: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mc_rtt", "voltages", "--url", "http://127.0.0.1:9"]) == 2
    assert "--url" in capsys.readouterr().err
    assert main(["data", "mc_rtt", "--from-file", "x.zip"]) == 2
    assert "--from-file" in capsys.readouterr().err


def test_data_may_be_an_archive(other: None, site: Site, home: Path) -> None:
    content = archive({"top/trace.h5": b"voltages"})
    url = zenodo(site, content)
    record = site.documents["/api/records/5875246"]["files"][0]
    record["key"] = "v.zip"
    assert main(["data", "voltages", "--url", url, "--quiet"]) == 0
    assert (home / "other-raw" / "trace.h5").read_bytes() == b"voltages"
