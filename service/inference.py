"""CPU work off the event loop, bounded in both directions: so many at once, so many waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from starlette.requests import Request

from service.errors import ClientGone, Overloaded

T = TypeVar("T")


class InferencePool:
    """`concurrency` threads; at most `queue_limit` requests wait, none longer than `timeout_s`."""

    def __init__(self, concurrency: int, queue_limit: int, timeout_s: float) -> None:
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="inference")
        self._slots = asyncio.Semaphore(concurrency)
        self._queue_limit = queue_limit
        self._timeout_s = timeout_s
        self.waiting = 0
        self.running = 0

    def check(self) -> None:
        """Raise Overloaded if a request that came now would be refused; before its body is read."""
        if self._slots.locked() and self.waiting >= self._queue_limit:
            raise Overloaded(
                f"{self.running} requests are worked on and {self.waiting} wait; try again soon"
            )

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, from a thread. Raises Overloaded.

        Cancelling while it waits takes it out of the queue; once started it runs to its end, and
        keeps its place until then.
        """
        self.check()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Overloaded(f"no turn within {self._timeout_s:g} s; try again later") from error
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        except BaseException:
            self._release()
            raise
        future.add_done_callback(self._finished)
        return await asyncio.shield(future)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _finished(self, future: asyncio.Future[T]) -> None:
        self._release()
        if not future.cancelled():
            future.exception()  # so that nobody listening any more is not an error of its own

    def _release(self) -> None:
        self.running -= 1
        self._slots.release()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. Raises ClientGone.

    Only for requests whose body has been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection")
        return task.result()
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
