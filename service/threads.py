"""Blocking calls to the database off the event loop, a bounded number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from service.errors import Overloaded

T = TypeVar("T")

THREADS = 12
"""Fewer than the connections of the pool, which the cache and the enrolments use as well."""
MAX_WAITING = 256


class DatabaseThreads:
    def __init__(self) -> None:
        self._limiter = CapacityLimiter(THREADS)

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns, from a thread. Raises Overloaded."""
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise Overloaded("too many requests wait for the database; try again soon")
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)
