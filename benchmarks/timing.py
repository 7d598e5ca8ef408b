"""Latencies of calls, one after another or from many threads at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Rows = Sequence[int]
Work = Callable[[int], Rows]
"""Answers the probe of that number with the numbers of the nearest rows."""

WARM = 50
BLOCK = 100
BUDGET_S = 30.0
LEAST = 100
CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; `per_second` calls were answered, of `calls` that were measured."""

    p50: float
    p99: float | None
    per_second: float
    calls: int


@dataclass(frozen=True, slots=True)
class Timed:
    """The latencies, and what was answered, by number of the probe from 0 on."""

    latency: Latency
    answers: list[Rows]


def latency(seconds: Sequence[float], elapsed: float) -> Latency:
    milliseconds = 1000 * np.asarray(seconds)
    return Latency(
        p50=float(np.percentile(milliseconds, 50)),
        p99=float(np.percentile(milliseconds, 99)),
        per_second=len(seconds) / elapsed,
        calls=len(seconds),
    )


@dataclass(slots=True)
class _Series:
    times: list[float] = field(default_factory=list)
    answers: list[Rows] = field(default_factory=list)


def alternately(
    works: Mapping[str, Work], probes: int, budget_s: float = BUDGET_S
) -> dict[str, Timed]:
    """Each in turn for a block of probes, so that the machine's moods meet all of them.

    Stops after the budget, when all have been asked a hundred times.
    """
    series = {name: _Series() for name in works}
    for work in works.values():
        for probe in range(min(WARM, probes)):
            work(probe)
    began = time.perf_counter()
    for first in range(0, probes, BLOCK):
        if first >= LEAST and time.perf_counter() - began > budget_s * len(works):
            break
        for name, work in works.items():
            for probe in range(first, min(first + BLOCK, probes)):
                started = time.perf_counter()
                answer = work(probe)
                series[name].times.append(time.perf_counter() - started)
                series[name].answers.append(answer)
    return {n: Timed(latency(s.times, sum(s.times)), s.answers) for n, s in series.items()}


def one(work: Work, probes: int, budget_s: float = BUDGET_S) -> Timed:
    """One client that asks again as soon as it is answered."""
    return alternately({"": work}, probes, budget_s)[""]


def many(work: Work, probes: int, budget_s: float = BUDGET_S, clients: int = CLIENTS) -> Latency:
    """So many threads, each of which asks again as soon as it is answered; every probe once."""
    numbers = itertools.count()
    start = threading.Barrier(clients + 1)
    times: list[list[float]] = [[] for _ in range(clients)]
    failures: list[BaseException] = []

    def client(mine: list[float]) -> None:
        start.wait()
        try:
            while (probe := next(numbers)) < probes and time.perf_counter() < end:
                started = time.perf_counter()
                work(probe)
                mine.append(time.perf_counter() - started)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    end = time.perf_counter() + budget_s
    began = time.perf_counter()
    start.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return latency([t for mine in times for t in mine], time.perf_counter() - began)
