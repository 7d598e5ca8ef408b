"""One address into one file: streamed, resumed where it broke off, within bounds of size and time.

Ranges and their conditions: RFC 9110, sections 13.1.5 and 14.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.files import MOST_BYTES
from recognition.publication import check_address, is_local

if TYPE_CHECKING:
    import httpx

Report = Callable[[int, int | None], None]
"""Told how many bytes are there, and of how many."""

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadFailed(Exception):
    """The file cannot be had from that address; the message says why."""


class _Interrupted(Exception):
    """It broke off, and may go on at another attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an address is waited for. `attempts` counts those in a row that bring nothing new."""

    connect_s: float = 15.0
    silence_s: float = 60.0
    total_s: float = 4 * 3600.0
    attempts: int = 3
    pause_s: float = 1.0
    """Before the second attempt; doubled before each further one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`size` is exact. `verified`: a hash will tell whether the whole is right."""

    size: int | None = None
    most: int = MOST_BYTES
    verified: bool = False


@dataclass(frozen=True, slots=True)
class _Begun:
    """What lies in the part file: how much, and which version of the file it is of."""

    bytes: int
    validator: str


class Transfer:
    """The part file may be left from an earlier process; nobody else may write to it meanwhile."""

    def __init__(
        self, url: str, part: Path, bounds: Bounds, patience: Patience, report: Report
    ) -> None:
        self._url, self._part, self._bounds = url, part, bounds
        self._patience, self._report = patience, report
        self._note = part.with_name(part.name + ".json")

    def run(self) -> None:
        """Until the part file is whole. Raises DownloadFailed, OSError."""
        import httpx  # noqa: PLC0415 - slow to import, and weights are fetched once

        ends = time.monotonic() + self._patience.total_s
        fruitless = 0
        with _client(self._url, self._patience) as client:
            while True:
                before = self._begun().bytes
                try:
                    self._attempt(client, ends)
                    return
                except (_Interrupted, httpx.TransportError) as error:
                    fruitless = 0 if self._begun().bytes > before else fruitless + 1
                    if fruitless >= self._patience.attempts or time.monotonic() > ends:
                        raise DownloadFailed(_reason(error)) from error
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    raise DownloadFailed(_reason(error)) from error
                time.sleep(self._patience.pause_s * 2 ** max(0, fruitless - 1))

    def discard(self) -> None:
        for path in (self._part, self._note):
            with suppress(FileNotFoundError):
                path.unlink()

    def _attempt(self, client: httpx.Client, ends: float) -> None:
        begun = self._begun()
        headers = {"Accept-Encoding": "identity"}
        if begun.bytes:
            headers["Range"] = f"bytes={begun.bytes}-"
            if begun.validator:
                headers["If-Range"] = begun.validator
        with client.stream("GET", self._url, headers=headers) as response:
            start = self._start(response, begun)
            if start is not None:
                self._receive(response, start, ends)

    def _start(self, response: httpx.Response, begun: _Begun) -> int | None:
        """At which byte of the file the answer begins; None: the part was whole already."""
        status = response.status_code
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begun.bytes:
            if response.headers.get("content-range") == f"bytes */{begun.bytes}":
                return None
            self.discard()
            raise _Interrupted("it cannot be resumed")
        if status in TRY_AGAIN:
            raise _Interrupted(f"status {status}")
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise DownloadFailed(f"status {status}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadFailed("it is sent in an encoding that was not asked for")
        if status == HTTPStatus.OK:
            return 0
        if not response.headers.get("content-range", "").startswith(f"bytes {begun.bytes}-"):
            self.discard()
            raise _Interrupted("another range was sent than was asked for")
        return begun.bytes

    def _receive(self, response: httpx.Response, start: int, ends: float) -> None:
        total = self._total(response, start)
        if start == 0:
            self.discard()
            note = {"url": self._url, "validator": _validator(response)}
            self._note.write_text(json.dumps(note))
        done = start
        self._report(done, total)
        with self._part.open("ab") as file:
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > (self._bounds.size or self._bounds.most):
                    raise self._too_large()
                if time.monotonic() > ends:
                    raise DownloadFailed(f"it took more than {self._patience.total_s:g} s")
                file.write(chunk)
                self._report(done, total)
        if total is not None and done != total:
            raise _Interrupted(f"{done} of {total} bytes came")

    def _total(self, response: httpx.Response, start: int) -> int | None:
        """Bytes of the whole file. Raises DownloadFailed if they cannot be the right ones."""
        length = response.headers.get("content-length", "")
        total = start + int(length) if length.isdecimal() else None
        if total is None:
            if not self._bounds.verified:
                raise DownloadFailed("neither its hash nor its length is known")
            return self._bounds.size
        if total > (self._bounds.size or self._bounds.most):
            raise self._too_large()
        if self._bounds.size is not None and total != self._bounds.size:
            raise DownloadFailed(f"it has {total} bytes in place of {self._bounds.size}")
        return total

    def _too_large(self) -> DownloadFailed:
        self.discard()
        return DownloadFailed(f"it has more than {self._bounds.size or self._bounds.most} bytes")

    def _begun(self) -> _Begun:
        """Nothing, if the part is of another address, or cannot be told from another version of the file."""
        try:
            note = json.loads(self._note.read_text())
            found = _Begun(self._part.stat().st_size, str(note["validator"]))
            known = note["url"] == self._url and (found.validator or self._bounds.verified)
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        return found if known else _Begun(0, "")


def _client(url: str, patience: Patience) -> httpx.Client:
    """Follows redirects, but never from https to anything else. Proxies are the environment's."""
    import httpx  # noqa: PLC0415

    local = is_local(url)

    def vet(request: httpx.Request) -> None:
        try:
            check_address(str(request.url))
        except ValueError as error:
            raise DownloadFailed(f"redirected: {error}") from error
        if is_local(str(request.url)) != local:
            raise DownloadFailed(f"redirected to {request.url}, which is refused")

    return httpx.Client(
        follow_redirects=True,
        max_redirects=5,
        trust_env=not local,
        timeout=httpx.Timeout(patience.silence_s, connect=patience.connect_s),
        event_hooks={"request": [vet]},
    )


def _validator(response: httpx.Response) -> str:
    """What If-Range takes: a strong ETag, or else the date of the last change."""
    etag: str = response.headers.get("etag", "")
    if etag.startswith('"'):
        return etag
    changed: str = response.headers.get("last-modified", "")
    return changed


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
