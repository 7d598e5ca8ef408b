"""Calls that come together are answered together, each with its own result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from indexer.cache.combine import Combiner


def test_each_gets_its_own_result() -> None:
    combiner = Combiner[int, int](lambda items: [item * item for item in items], 8)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: combiner.ask(n % 3, n), range(3000)))
    assert results == [n * n for n in range(3000)]


def test_those_who_wait_are_answered_in_one_call() -> None:
    batches: list[list[int]] = []
    started, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        started.set()
        assert go_on.wait(10)
        return list(items)

    combiner = Combiner[int, int](work, 4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(combiner.ask, "key", 0)
        assert started.wait(10)
        rest = [pool.submit(combiner.ask, "key", n) for n in range(1, 7)]
        while len(combiner._waiting["key"]) < 7:
            threading.Event().wait(0.01)
        other = pool.submit(combiner.ask, "other key", 9)
        go_on.set()
        assert [f.result(10) for f in (first, *rest, other)] == [0, 1, 2, 3, 4, 5, 6, 9]
    sizes = sorted(len(b) for b in batches if b != [9])
    assert sizes == [1, 2, 4]
    assert combiner._waiting == {}


def test_an_error_reaches_all_it_concerns_and_nobody_else() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return list(items)

    combiner = Combiner[int, int](work, 8)
    with pytest.raises(ValueError, match="negative"):
        combiner.ask("key", -1)
    assert combiner.ask("key", 1) == 1
