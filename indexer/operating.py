"""Operating points: which threshold gives which rate of false alarms in a gallery of this size.

A stranger is taken for somebody when the nearest of all people of the gallery is within the
threshold, so the more people, the stricter it has to be. The distribution of that nearest distance
is measured on the gallery itself: a sample of its people, each with one face, is searched among all
others. docs/operating-points.md has the method, its check and its limits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.cache.ask import Ask, search
from indexer.cache.follower import SearchCache
from indexer.cache.rows import Hits
from indexer.cache.view import View
from indexer.errors import Conflict
from indexer.search import FRESH_TIMEOUT_S, Target
from indexer.store import search as store
from indexer.store import spaces, vectors
from indexer.store.engine import Database
from indexer.store.search import Scoring
from recognition.evaluation import wilson
from recognition.types import Embeddings, Metric

SAMPLE = 2000
"""People who are searched for among the others."""
SAMPLE_IN_SQL = 200
LEAST_PEOPLE = 50
TOGETHER = 256
COUNTED = 10
"""A rate is read off the sample if so many of it are below the threshold; below, the tail is fitted."""
TAIL_SHARE = 0.05
TAIL_LEAST = 20
FRESH_S = 60.0
KEPT = 256
SEED = 11


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its 95 % interval; `extrapolated`: the sample is too small to count it."""

    value: float
    low: float
    high: float
    extrapolated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Impostors:
    """Distances (ascending) of sampled people to the nearest of the others, in one metric."""

    distances: NDArray[np.float64]
    people: int
    version: int
    measured_at: float

    def rate(self, threshold: float) -> Rate:
        """The share of strangers that find somebody within the threshold."""
        size = len(self.distances)
        below = int(np.searchsorted(self.distances, threshold, "right"))
        low, high = wilson(below, size)
        if below >= COUNTED:
            return Rate(below / size, low, high, extrapolated=False)
        edge, scale, share = self._tail()
        value = min(share * math.exp(min(0.0, (threshold - edge) / scale)), high)
        return Rate(value, 0.0, high, extrapolated=True)

    def threshold(self, rate: float) -> float:
        """The largest threshold with at most that rate of false alarms."""
        size = len(self.distances)
        count = math.floor(rate * size)
        if count >= COUNTED:
            # Just below the first that would be one too many.
            above = self.distances[count] if count < size else math.inf
            return float(np.nextafter(above, 0.0)) if count < size else float(self.distances[-1])
        edge, scale, share = self._tail()
        return max(0.0, edge + scale * math.log(rate / share)) if rate < share else edge

    def _tail(self) -> tuple[float, float, float]:
        """Where the low tail begins, its mean depth, and its share: an exponential below the edge."""
        size = len(self.distances)
        count = min(size - 1, max(TAIL_LEAST, math.ceil(TAIL_SHARE * size)))
        edge = float(self.distances[count])
        depth = float(np.mean(edge - self.distances[:count]))
        return edge, max(depth, 1e-12), count / size


@dataclass(frozen=True, slots=True)
class _Key:
    gallery_id: int
    space_id: int
    metric: Metric
    scoring: Scoring


class OperatingPoints:
    """Measured when first asked for, and anew in the background when the gallery has changed."""

    def __init__(self, database: Database, cache: SearchCache | None) -> None:
        self._database = database
        self._cache = cache
        self._lock = threading.Lock()
        self._known: dict[_Key, Impostors] = {}
        self._measuring: set[_Key] = set()
        self._background = ThreadPoolExecutor(1, "operating-points")

    def close(self) -> None:
        self._background.shutdown(wait=False, cancel_futures=True)

    def impostors(self, target: Target, metric: Metric, scoring: Scoring) -> Impostors:
        """Raises Conflict when the gallery has too few people for an estimate."""
        key = _Key(target.gallery_id, target.space.id, metric, scoring)
        known = self._known.get(key)
        if known is None:
            with self._lock:  # measured once, however many ask
                known = self._known.get(key) or self._measure(target, key)
        elif self._stale(known, target):
            self._refresh(target, key)
        return known

    def _stale(self, known: Impostors, target: Target) -> bool:
        if time.monotonic() - known.measured_at < FRESH_S or self._cache is None:
            return time.monotonic() - known.measured_at > 10 * FRESH_S
        index = self._cache.index(target.space.id, 0, 0)
        small = len(known.distances) <= SAMPLE_IN_SQL < known.people
        return index is not None and (small or index.version != known.version)

    def _refresh(self, target: Target, key: _Key) -> None:
        if key in self._measuring:
            return
        self._measuring.add(key)

        def work() -> None:
            try:
                self._measure(target, key)
            except Conflict:
                self._known.pop(key, None)
            finally:
                self._measuring.discard(key)

        self._background.submit(work)

    def _measure(self, target: Target, key: _Key) -> Impostors:
        index = None
        if self._cache is not None:
            index = self._cache.index(key.space_id, 0, FRESH_TIMEOUT_S)
        view = index.view(key.gallery_id) if index is not None else None
        if index is not None and view is not None:
            measured = estimate(view, key.metric, key.scoring, index.version)
        else:
            measured = self._in_sql(target, key)
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[key] = measured
        return measured

    def _in_sql(self, target: Target, key: _Key) -> Impostors:
        """From a smaller sample: every one of its searches goes through the database."""
        with self._database.read() as connection:
            space = spaces.get(connection, target.space.id)
            scope = store.Scope(space, target.gallery_id)
            sample, people = vectors.sample(connection, space, target.gallery_id, SAMPLE_IN_SQL)
            _check(people)
            distances = []
            for person, probe in sample:
                ranked = store.nearest_people(connection, scope, probe, key.metric, 2, key.scoring)
                distances += [c.distance for c in ranked.candidates if c.identity_id != person][:1]
        return _impostors(distances, people, space.version)


def estimate(view: View, metric: Metric, scoring: Scoring, version: int) -> Impostors:
    """From the faces of a view, which are those of `version`. Raises Conflict."""
    _check(view.people)
    people, probes = _sample(view)
    distances: list[float] = []
    ask = Ask(metric=metric, limit=2, by="person", scoring=scoring)
    for start in range(0, len(people), TOGETHER):
        part = slice(start, start + TOGETHER)
        answer = search(view, probes[part], ask)
        for own, hits in zip(people[part].tolist(), answer.hits, strict=True):
            distances += _nearest_other(hits, own)
    return _impostors(distances, view.people, version)


def _sample(view: View) -> tuple[NDArray[np.int64], Embeddings]:
    """One face of each of some people: their ids, and raw embeddings."""
    random = np.random.default_rng(SEED)
    living = [(part.rows, part.living()) for part in view.parts]
    people = np.concatenate([rows.people[which] for rows, which in living])
    at = random.permutation(len(people))
    _, first = np.unique(people[at], return_index=True)
    chosen = np.sort(random.permutation(at[first])[:SAMPLE])
    ends = np.cumsum([len(which) for _, which in living])
    taken = [
        rows.taken(
            which[chosen[(chosen >= end - len(which)) & (chosen < end)] - (end - len(which))]
        )
        for (rows, which), end in zip(living, ends.tolist(), strict=True)
    ]
    return (
        np.concatenate([rows.people for rows in taken]),
        np.concatenate([rows.unit * rows.norms[:, None] for rows in taken]),
    )


def _nearest_other(hits: Hits, own: int) -> Sequence[float]:
    others = hits.distances[hits.people != own]
    return [float(distance) for distance in others[:1]]


def _check(people: int) -> None:
    if people < LEAST_PEOPLE:
        raise Conflict(
            f"target_fpir needs at least {LEAST_PEOPLE} people in the gallery to be estimated; "
            f"there are {people}. Give a threshold instead"
        )


def _impostors(distances: Sequence[float], people: int, version: int) -> Impostors:
    return Impostors(np.sort(np.asarray(distances, np.float64)), people, version, time.monotonic())
