"""Cores that nobody uses just now, for work that somebody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
T = TypeVar("T")


def no_core() -> int:
    """What is idle where as many images are worked on at once as there are cores."""
    return 0


class IdleCores:
    """May be used from several threads. For what runs outside of Python's lock: networks, OpenCV, decoders."""

    def __init__(self, count: Callable[[], int] = no_core, most: int = 1) -> None:
        """`count`: cores that are idle but for what is done here; never more than `most` are used."""
        self._count, self._most = count, most
        self._guard = threading.Lock()
        self._used = 0
        self._threads = ThreadPoolExecutor(max(1, most), thread_name_prefix="idle")

    def start(self, work: Callable[[], T]) -> Future[T] | None:
        """The work, begun on an idle core; None, and nothing done, if there is none."""
        with self._guard:
            if self._used >= min(self._most, self._count()):
                return None
            self._used += 1

        def run() -> T:
            try:
                return work()
            finally:
                self._end()

        return self._threads.submit(run)

    def each(self, work: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """What `work` makes of every item, in their order, on as many cores as are idle by and by.

        Raises for the first of the items that cannot be done.
        """
        if len(items) < 2:
            return [work(item) for item in items]
        middle = (len(items) + 1) // 2
        first, second = items[:middle], items[middle:]
        later = self.start(lambda: self.each(work, second))
        done = self.each(work, first)
        return done + (self.each(work, second) if later is None else later.result())

    def close(self) -> None:
        """Once nobody starts anything any more."""
        self._threads.shutdown()

    def _end(self) -> None:
        with self._guard:
            self._used -= 1
