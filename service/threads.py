"""Blocking calls to the database off the event loop, a bounded number of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from service.errors import Overloaded

T = TypeVar("T")

THREADS = 12
"""Fewer than the connections of the pool, which the cache and the enrolments use as well."""
MAX_WAITING = 256


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """What `call` returns. For calls that may take minutes: the process can end without waiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # there is one without an error

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = call(), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, *outcome)

    threading.Thread(target=work, name="patient", daemon=True).start()
    return await future


class DatabaseThreads:
    def __init__(self) -> None:
        self._limiter = CapacityLimiter(THREADS)

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns, from a thread. Raises Overloaded."""
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise Overloaded("too many requests wait for the database; try again soon")
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)
