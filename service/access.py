"""Who may do what: API keys, the scope that each route needs, the galleries that a key is bound to.

`Authentication` finds out who asks before anything of the body is read; `authorised`, a dependency of every route,
holds that against `NEEDS` and the gallery in the path, and `permitted` the gallery in a body.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from fastapi import Depends
from pydantic import SecretStr
from sqlalchemy.exc import ProgrammingError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer import keys
from indexer.errors import DatabaseUnavailable, InvalidName
from indexer.store import keys as store
from indexer.store.engine import Database
from indexer.store.galleries import clean_name
from indexer.store.keys import Key
from service.errors import Forbidden, NotReady, ServiceError, TooManyRequests, Unauthorized
from service.problems import response_for
from service.threads import DatabaseThreads

OPEN = frozenset({"/healthz", "/readyz"})
"""What nobody needs a key for."""
DEFAULT_GALLERY = "default"
FRESH_S = 2.0
"""A key that was revoked lets somebody in for so long at most."""
STALE_S = 60.0
"""And where the database cannot be reached, for so long."""
IN_PROCESS = "testserver"
"""What Starlette's client, which calls the application without a network, says instead of an address."""
BUCKETS = 4096
"""Keys that are counted at once."""

NEEDS: Mapping[tuple[str, str], keys.Scope] = MappingProxyType(
    {
        ("POST", "/verify"): "read",
        ("POST", "/represent"): "read",
        ("POST", "/analyze"): "read",
        ("POST", "/extract"): "read",
        ("POST", "/find"): "read",
        ("GET", "/models"): "read",
        ("GET", "/metrics"): "read",
        ("GET", "/galleries"): "read",
        ("GET", "/galleries/{gallery}"): "read",
        ("PUT", "/galleries/{gallery}"): "admin",
        ("DELETE", "/galleries/{gallery}"): "admin",
        ("GET", "/galleries/{gallery}/identities"): "read",
        ("GET", "/galleries/{gallery}/identities/{identity}"): "read",
        ("PATCH", "/galleries/{gallery}/identities/{identity}"): "enrol",
        ("DELETE", "/galleries/{gallery}/identities/{identity}"): "enrol",
        ("PUT", "/galleries/{gallery}/identities/{identity}/consent"): "enrol",
        ("POST", "/galleries/{gallery}/identities/{identity}/images"): "enrol",
        ("DELETE", "/galleries/{gallery}/images/{image_id}"): "enrol",
        ("GET", "/erasures/{erasure_id}"): "enrol",
        ("POST", "/admin/reindex"): "admin",
        ("GET", "/jobs"): "admin",
        ("GET", "/jobs/{job_id}"): "admin",
        ("DELETE", "/jobs/{job_id}"): "admin",
        ("GET", "/jobs/{job_id}/events"): "admin",
    }
)
"""By method and route. A route that is not here is nobody's."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a request may do. `key`: the prefix of its key, `settings` for one of FACESEARCH_API_KEYS, empty without."""

    key: str
    scope: str
    galleries: frozenset[str] | None

    def require(self, needed: keys.Scope) -> None:
        """Raises Forbidden; DatabaseUnavailable where nobody can tell."""
        if not keys.allows(self.scope, needed):
            if not self.key:
                raise DatabaseUnavailable("whether there are API keys cannot be told")
            raise Forbidden(f"the API key has the scope {self.scope}; this needs {needed}")

    def may_see(self, gallery: str) -> bool:
        if self.galleries is None:
            return True
        try:
            return clean_name(gallery, "a gallery") in self.galleries
        except InvalidName:
            return False

    def require_gallery(self, gallery: str) -> None:
        """Raises Forbidden, whether there is such a gallery or not."""
        if not self.may_see(gallery):
            raise Forbidden("the API key is not for this gallery")


ANYBODY = Access("", "admin", None)
"""Whoever asks from this machine while there are no keys."""
STATELESS = Access("", "read", None)
"""The same while the database cannot be reached: what needs none is answered, and there is nobody to be seen."""
OF_SETTINGS = Access("settings", "admin", None)


class KeyRing:
    """The keys as they are in the database and in the settings, at most some seconds old."""

    def __init__(
        self, database: Database, threads: DatabaseThreads, static: Sequence[SecretStr]
    ) -> None:
        self._database = database
        self._threads = threads
        self._static = {
            f"static{n}": keys.hashed(key.get_secret_value()) for n, key in enumerate(static)
        }
        self._known: Mapping[str, Key] = {}
        self._read_at = -math.inf
        self._lock = asyncio.Lock()

    async def access(self, token: str, local: bool) -> Access:
        """`local`: whether the request came in on a loopback address. Raises Unauthorized, DatabaseUnavailable."""
        if token and self._is_static(token):
            return OF_SETTINGS
        try:
            known = await self._fresh()
        except DatabaseUnavailable:
            if self._known or self._static or not local:
                raise
            return STATELESS
        key = keys.matching(token, known)
        if key is not None:
            bound = None if key.galleries is None else frozenset(key.galleries)
            return Access(key.prefix, key.scope, bound)
        if not known and not self._static and local:
            return ANYBODY
        raise Unauthorized("send an API key as X-API-Key, or as Authorization: Bearer")

    def _is_static(self, token: str) -> bool:
        sent = keys.hashed(token)
        return any([hmac.compare_digest(sent, key) for key in self._static.values()])  # noqa: C419 - all are compared

    async def _fresh(self) -> Mapping[str, Key]:
        if time.monotonic() - self._read_at < FRESH_S:
            return self._known
        async with self._lock:
            age = time.monotonic() - self._read_at
            if age >= FRESH_S:
                try:
                    self._known = await self._threads.run(self._read)
                    self._read_at = time.monotonic()
                except DatabaseUnavailable:
                    if age >= STALE_S:
                        raise
        return self._known

    def _read(self) -> Mapping[str, Key]:
        try:
            with self._database.glance() as connection:
                return {key.prefix: key for key in store.valid(connection)}
        except ProgrammingError as error:
            raise DatabaseUnavailable("the schema is not there yet") from error


@dataclass(slots=True)
class _Bucket:
    """Of one key: what it may still ask at once, and what it has under way."""

    left: float
    filled_at: float
    running: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may take of this process, so that the others get their share."""

    rate: float
    """Requests a second, with a burst of twice as many; 0: any number."""
    at_once: int
    """Requests that are worked on or wait."""
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, _Bucket] = field(default_factory=dict)

    @contextmanager
    def taken(self, key: str, *, work: bool) -> Iterator[None]:
        """`work`: whether it is one of those of which only so many may be under way. Raises TooManyRequests."""
        bucket = self._bucket(key)
        if self.rate:
            self._fill(bucket)
            if bucket.left < 1:
                wait = math.ceil((1 - bucket.left) / self.rate)
                raise TooManyRequests(f"this API key may ask {self.rate:g} times a second", wait)
            bucket.left -= 1
        if not work:
            yield
            return
        if bucket.running >= self.at_once:
            raise TooManyRequests(f"this API key has {self.at_once} requests under way", 1)
        bucket.running += 1
        try:
            yield
        finally:
            bucket.running -= 1

    def _bucket(self, key: str) -> _Bucket:
        if key not in self._buckets:
            if len(self._buckets) >= BUCKETS:
                for idle in [k for k, b in self._buckets.items() if not b.running]:
                    del self._buckets[idle]
            self._buckets[key] = _Bucket(2 * self.rate, self.clock())
        return self._buckets[key]

    def _fill(self, bucket: _Bucket) -> None:
        now = self.clock()
        bucket.left = min(2 * self.rate + 1, bucket.left + (now - bucket.filled_at) * self.rate)
        bucket.filled_at = now


class Authentication:
    """Lets in who has a key, on all but the open routes, and holds each key to its limits."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            access = await self._access(scope)
            with self._share(access, scope):
                scope["state"]["access"] = access
                await self._app(scope, receive, send)
        except (ServiceError, DatabaseUnavailable) as error:
            if "access" in scope["state"]:
                raise
            await response_for(error, scope)(scope, receive, send)

    def _share(self, access: Access, scope: Scope) -> AbstractContextManager[None]:
        if not access.key:
            return nullcontext()
        return self._limits.taken(access.key, work=scope["method"] == "POST")

    async def _access(self, scope: Scope) -> Access:
        services = scope["state"].get("services")
        if services is None:
            raise NotReady("the service is starting", {})
        ring: KeyRing = services.keys
        return await ring.access(token_of(Headers(scope=scope)), came_in_here(scope))


def token_of(headers: Headers) -> str:
    """The key that was sent; empty without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-api-key") or bearer


def came_in_here(scope: Scope) -> bool:
    """Whether the connection's end in this process is a loopback address or a Unix socket."""
    server = scope.get("server")
    if server is None:
        return False
    host, port = server
    if port is None or host == IN_PROCESS:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


async def authorised(request: Request) -> None:
    """A dependency of the whole application. Raises Forbidden."""
    template: str = request.scope["route"].path
    if template in OPEN:
        return
    access: Access = request.state.access
    needed = NEEDS.get((request.method, template))
    if needed is None:
        raise Forbidden("nobody may do this")
    access.require(needed)
    gallery = request.path_params.get("gallery")
    if gallery is not None:
        access.require_gallery(gallery)


def permitted(request: Request, asked: object) -> None:
    """Of a body that names a gallery, or a person of the default one. Raises Forbidden."""
    gallery = getattr(asked, "gallery", None)
    if gallery is None and getattr(asked, "identity", None) is not None:
        gallery = DEFAULT_GALLERY
    if gallery is not None:
        request.state.access.require_gallery(gallery)


async def _access_of(request: Request) -> Access:
    found: Access = request.state.access
    return found


Granted = Annotated[Access, Depends(_access_of)]
