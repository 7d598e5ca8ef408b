"""A server that publishes files over HTTP on this machine, well or badly."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT_AT = 300_000


@dataclass
class Publisher:
    """`files` by path. What it was asked for is in `asked`: path and Range."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    etags: bool = True
    cuts: int = 0
    """How many answers break off after 300,000 bytes."""
    refusals: list[int] = field(default_factory=list)
    """Statuses that the next answers have."""
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        publisher, path = self.publisher, self.path.lstrip("/")
        publisher.asked.append((path, self.headers.get("Range", "")))
        if path in publisher.redirects:
            self.send_response(302)
            self.send_header("Location", publisher.redirects[path])
            self.end_headers()
            return
        if publisher.refusals or path not in publisher.files:
            self.send_error(publisher.refusals.pop(0) if publisher.refusals else 404)
            return
        self._send(publisher.files[path])

    def _send(self, data: bytes) -> None:
        publisher = self.publisher
        etag = f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324 - a name, no guard
        start = 0
        asked = self.headers.get("Range", "")
        if publisher.ranges and asked and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if publisher.lengths:
            self.send_header("Content-Length", str(len(data) - start))
        if publisher.etags:
            self.send_header("ETag", etag)
        self.end_headers()
        cut = publisher.cuts > 0
        publisher.cuts -= cut
        self.wfile.write(data[start : start + CUT_AT] if cut else data[start:])


@contextmanager
def publishing(**options: object) -> Iterator[Publisher]:
    publisher = Publisher(**options)  # type: ignore[arg-type]
    handler = type("Handler", (_Handler,), {"publisher": publisher})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        publisher.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield publisher
        finally:
            server.shutdown()
            thread.join()
