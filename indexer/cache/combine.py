"""Calls that come at the same time are answered together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Call(Generic[T, R]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.woken = threading.Event()
        self.leads = False
        self.result: R | None = None
        self.error: BaseException | None = None


class Combiner(Generic[T, R]):
    """Whoever finds nobody at work does the work, for all who wait by then.

    Nothing is delayed to wait for others: one caller alone is answered at once, and while it is,
    others gather. `work` gets the items of one key and returns as many results.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], most: int) -> None:
        self._work = work
        self._most = most
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[_Call[T, R]]] = {}

    def ask(self, key: Hashable, item: T) -> R:
        """The result for the item; raises what `work` raised."""
        call = _Call[T, R](item)
        with self._lock:
            queue = self._waiting.get(key)
            if queue is None:
                self._waiting[key] = [call]
                call.leads = True
            else:
                queue.append(call)
        if not call.leads:
            call.woken.wait()
        if call.leads:
            self._lead(key)
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value] # set by whoever led

    def _lead(self, key: Hashable) -> None:
        """Answer the first of those who wait, the caller among them; hand the lead to the next."""
        with self._lock:
            batch = self._waiting[key][: self._most]
        try:
            results = self._work([call.item for call in batch])
            for call, result in zip(batch, results, strict=True):
                call.result = result
        except BaseException as error:
            for call in batch:
                call.error = error
        with self._lock:
            left = self._waiting[key][len(batch) :]
            if left:
                self._waiting[key] = left
                left[0].leads = True
                left[0].woken.set()
            else:
                del self._waiting[key]
        for call in batch[1:]:
            call.woken.set()
