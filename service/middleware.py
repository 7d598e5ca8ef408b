"""What surrounds every request: its id, log line and metrics, headers, limits on its body."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooSlow, Overloaded, RequestTooLarge
from service.metrics import Metrics
from service.problems import CLIENT_CLOSED, request_id, response_for

log = logging.getLogger(__name__)

DRAIN_S = 2.0
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
)
"""Of every answer that does not say otherwise: none is to be kept, framed, or taken for something else."""
CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGES = ("/docs", "/redoc")
"""What needs scripts of its own."""
_SANE_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Gives each request an id, and each answer a line in the log and a place in the metrics."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identifier = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = identifier
        started, status = time.perf_counter(), 0

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = identifier
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith(PAGES):
                    headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except Exception as error:  # what no handler knows is a bug
            if status:
                raise
            await response_for(error, scope)(scope, receive, identified)
        finally:
            self._done(scope, status or CLIENT_CLOSED, time.perf_counter() - started)

    def _done(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request(method, route, status, seconds)
        level = logging.INFO if status < HTTPStatus.INTERNAL_SERVER_ERROR else logging.WARNING
        log.log(
            level,
            "request",
            extra={
                "request_id": request_id(scope),
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
            },
        )


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """Bytes of one body, bytes of all bodies at once, seconds that a client may take."""

    each: int
    together: int
    seconds: float


class BodyLimits:
    """Refuses bodies that are too large, too slow, or too many at once."""

    def __init__(self, app: ASGIApp, bounds: BodyBounds) -> None:
        self._app = app
        self._bounds = bounds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._bounds.each:
            if "100-continue" not in headers.get("expect", "").lower():
                await _drain(receive)
            await response_for(self._too_large(), scope)(scope, receive, send)
            return
        counted = _CountedBody(self, receive)
        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= counted.bytes

    def take(self, body: _CountedBody, size: int) -> None:
        """Count bytes that arrived. Raises RequestTooLarge, Overloaded."""
        body.bytes += size
        self._held += size
        if body.bytes > self._bounds.each:
            raise self._too_large()
        if self._held > self._bounds.together:
            raise Overloaded("too many uploads at once; try again soon")

    @property
    def seconds(self) -> float:
        return self._bounds.seconds

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"a request may have at most {self._bounds.each} bytes")


class _CountedBody:
    """`receive` of one request."""

    def __init__(self, limits: BodyLimits, receive: Receive) -> None:
        self._limits = limits
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._complete = False
        self.bytes = 0

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(f"the body took longer than {self._limits.seconds:g} s") from error
        self._complete = not message.get("more_body", False)
        try:
            self._limits.take(self, len(message.get("body", b"")))
        except RequestTooLarge:
            await _drain(self._receive)
            raise
        return message


async def _drain(receive: Receive) -> None:
    """Read on for a moment: a client that is still sending would not see the answer."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
