"""Real HTTP servers on loopback: a Zenodo API with its files, a small DANDI API; both can misbehave on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILE = "ae-nlb-2021-model-checkpoints.zip"


class Site:
    """What a server serves, and how it fails."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.documents: dict[str, Any] = {}
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.refusals = 0  # how many requests get a 503
        self.ranges = True
        self.pause = 0.0  # seconds between chunks
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site = self.site
        path = self.path.split("?")[0]
        site.requests.append((path, self.headers.get("Range")))
        if site.refusals > 0:
            site.refusals -= 1
            self._send(503, b"busy", "text/plain")
            return
        plain = path.rstrip("/")
        if plain in site.documents:
            self._send(200, json.dumps(site.documents[plain]).encode(), "application/json")
        elif path in site.files or plain in site.files:
            self._file(site.files.get(path, site.files.get(plain, b"")))
        else:
            self._send(404, b"{}", "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, body: bytes) -> None:
        site, start = self.site, 0
        wanted = self.headers.get("Range")
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                self._send(416, b"", "text/plain")
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = body[start:]
        if site.cuts:
            part = part[: site.cuts.pop(0)]
            self.close_connection = True
        for at in range(0, len(part), 1 << 16):
            self.wfile.write(part[at : at + (1 << 16)])
            time.sleep(site.pause)


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def zenodo(site: Site, archive: bytes) -> str:
    """Serve an archive as record 5875246; the API's address."""
    site.files[f"/files/{FILE}"] = archive
    site.documents["/api/records/5875246"] = {
        "files": [
            {
                "key": FILE,
                "size": len(archive),
                "checksum": f"md5:{hashlib.md5(archive).hexdigest()}",
                "links": {"self": f"{site.url}/files/{FILE}"},
            }
        ]
    }
    return f"{site.url}/api/records/5875246"


def dandi(site: Site, dandiset: str, files: dict[str, bytes], version: str = "0.220113.0408") -> str:
    """Serve files as a published dandiset; the API's address."""
    api = f"{site.url}/api"
    info = {
        "$schema": "x",
        "version": "1.0",
        "services": {"api": {"url": api}, "webui": {"url": site.url}, "jupyterhub": {"url": site.url}},
        "cli-minimal-version": "0.0.1",
        "cli-bad-versions": [],
    }
    site.documents["/api/info"] = site.documents["/server-info"] = info
    stamp = "2022-01-13T04:08:19.000000Z"
    about = {
        "version": version,
        "name": "generated",
        "asset_count": len(files),
        "size": sum(map(len, files.values())),
        "status": "Valid",
        "created": stamp,
        "modified": stamp,
    }
    base = f"/api/dandisets/{dandiset}"
    site.documents[base] = {
        "identifier": dandiset,
        "created": stamp,
        "modified": stamp,
        "contact_person": "x",
        "embargo_status": "OPEN",
        "draft_version": {**about, "version": "draft"},
        "most_recent_published_version": about,
    }
    site.documents[f"{base}/versions"] = {"count": 1, "next": None, "previous": None, "results": [about]}
    assets = []
    for number, (path, content) in enumerate(files.items()):
        identifier = f"0000000{number}-0000-0000-0000-000000000000"
        digest = hashlib.sha256(content).hexdigest()
        etag = hashlib.md5(hashlib.md5(content).digest()).hexdigest() + "-1"  # of a file of one part
        asset = {
            "asset_id": identifier,
            "blob": identifier,
            "zarr": None,
            "path": path,
            "size": len(content),
            "created": stamp,
            "modified": stamp,
        }
        assets.append(asset)
        link = f"{api}/assets/{identifier}/download/"
        metadata = {
            "path": path,
            "contentSize": len(content),
            "digest": {"dandi:sha2-256": digest, "dandi:dandi-etag": etag},
            "encodingFormat": "application/x-nwb",
            "contentUrl": [link],
            "blobDateModified": stamp,
            "dateModified": stamp,
        }
        site.documents[f"/api/assets/{identifier}"] = metadata
        site.documents[f"{base}/versions/{version}/assets/{identifier}"] = metadata
        site.documents[f"{base}/versions/{version}/assets/{identifier}/info"] = {**asset, "metadata": metadata}
        site.files[f"/api/assets/{identifier}/download"] = content
        site.files[f"{base}/versions/{version}/assets/{identifier}/download"] = content
    for kind in (version, "draft"):
        site.documents[f"{base}/versions/{kind}/assets"] = {
            "count": len(assets),
            "next": None,
            "previous": None,
            "results": assets,
        }
        site.documents[f"{base}/versions/{kind}/info"] = {**about, "version": kind, "metadata": {}}
        site.documents[f"{base}/versions/{kind}"] = {
            "identifier": f"DANDI:{dandiset}",
            "name": "generated",
            "version": kind,
            "schemaVersion": "0.6.0",
            "id": f"DANDI:{dandiset}/{kind}",
        }
    return api
