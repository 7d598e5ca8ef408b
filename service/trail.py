"""Searches go into the audit log a moment after they are answered, many in one transaction.

What changes something is written in the transaction that changes it, by `indexer.audit`. A process that is killed loses
the entries of its last searches, of `EVERY_S` at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from starlette.requests import Request

from indexer.audit import Actor
from indexer.errors import DatabaseUnavailable
from indexer.store import audit as store
from indexer.store.audit import Entry
from indexer.store.engine import Database
from service.access import Access
from service.errors import Overloaded
from service.problems import request_id
from service.threads import DatabaseThreads

log = logging.getLogger(__name__)

EVERY_S = 0.2
MOST = 10_000
"""Entries that wait to be written; then searches are refused."""
AT_ONCE = 1000
IDS = 100
"""Numbers of people that are told of one answer."""


def actor(request: Request) -> Actor:
    """Who a request is from."""
    access: Access = request.state.access
    return Actor(access.key or "local", request_id(request.scope))


class Trail:
    def __init__(self, database: Database, threads: DatabaseThreads, *, on: bool) -> None:
        self._database = database
        self._threads = threads
        self._on = on
        self._waiting: deque[Entry] = deque()

    def check(self) -> None:
        """Raises Overloaded where what is answered could not be written down."""
        if len(self._waiting) >= MOST:
            raise Overloaded("the audit log cannot be written at the moment; try again soon")

    def search(self, request: Request, action: str, gallery: str, people: list[list[int]]) -> None:
        """`people`: whose rows were told, for each face."""
        if not self._on:
            return
        told: list[list[int]] = []
        left = IDS
        for ids in people:
            told.append(ids[:left])
            left -= len(told[-1])
        self.take(actor(request).entry(action, gallery, results=told))

    def take(self, entry: Entry) -> None:
        """To be written soon."""
        self._waiting.append(entry)

    async def run(self) -> None:
        """For as long as the service runs; writes the rest when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                try:
                    await self._write()
                except Exception:  # it must not be the last time
                    log.exception("searches are not in the audit log yet")
        finally:
            await asyncio.shield(self._write())

    async def _write(self) -> None:
        while self._waiting:
            entries = [self._waiting[n] for n in range(min(AT_ONCE, len(self._waiting)))]
            try:
                await self._threads.run(lambda: self._append(entries))  # noqa: B023 - awaited here
            except (DatabaseUnavailable, Overloaded) as error:
                log.warning("the audit log waits for the database: %s", error)
                return
            for _ in entries:
                self._waiting.popleft()

    def _append(self, entries: list[Entry]) -> None:
        with self._database.write() as connection:
            store.append(connection, entries)
