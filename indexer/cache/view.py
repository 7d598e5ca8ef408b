"""One gallery as a search sees it: blocks of faces that do not change; every change makes a new view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from indexer.cache.codes import Codes
from indexer.cache.rows import (
    Hits,
    Ids,
    Mask,
    Rows,
    distances_to,
    likeness_of,
    nearest,
    nearest_among,
)
from recognition.metrics import normalise
from recognition.types import Embeddings, Metric

PER_MATCH = 8
"""A shortlist is at least this many times longer than what is asked of it."""
LONGEST_SHORTLIST = 16_384
SCAN_SHARE = 8
"""A shortlist of more than a block's eighth costs more than looking at all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """Hits by probe; `exact`: every face was looked at."""

    hits: list[Hits]
    exact: bool


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A block of faces. `sorted`: people ascend, so that the faces of a person stand together."""

    rows: Rows
    alive: Mask
    codes: Codes | None = None
    sorted: bool = False

    def of_people(self, people: Ids) -> Ids:
        """Numbers of the living rows of those people, given in ascending order."""
        if self.sorted:
            starts = np.searchsorted(self.rows.people, people, "left")
            stops = np.searchsorted(self.rows.people, people, "right")
            rows = _ranges(starts, stops)
        else:
            rows = np.flatnonzero(np.isin(self.rows.people, people))
        return rows[self.alive[rows]]

    def living(self) -> Ids:
        return np.flatnonzero(self.alive)

    def nearest(self, probes: Embeddings, metric: Metric, limit: int, people: Ids | None) -> Near:
        """For each probe its nearest faces, at most `limit`; of those people only."""
        among = None if people is None else self.of_people(people)
        found = self._shortlisted(probes, metric, limit, among)
        exact = found is None
        if found is None and among is not None:
            found = nearest_among(self.rows, among, probes, metric, limit)
        elif found is None:
            found = nearest(self.rows, probes, metric, limit, self.alive)
        hits = [
            _hits(self.rows, which, probe, metric)
            for which, probe in zip(found, probes, strict=True)
        ]
        return Near(hits, exact)

    def _shortlisted(
        self, probes: Embeddings, metric: Metric, limit: int, among: Ids | None
    ) -> list[Ids] | None:
        """Row numbers by way of the codes; None where looking at all rows is better or needed."""
        if self.codes is None:
            return None
        wanted = len(self.rows) if among is None else len(among)
        shortest = self.codes.shortlists.of(metric)
        if not shortest or not wanted:
            return None
        count = max(shortest, PER_MATCH * limit) * len(self.rows) // wanted
        if count > min(LONGEST_SHORTLIST, len(self.rows) // SCAN_SHARE):
            return None
        usable = self.alive
        if among is not None:
            usable = np.zeros(len(self.rows), np.bool_)
            usable[among] = True
        least = min(limit, wanted) if among is not None else limit
        found = []
        for probe, likely in zip(probes, self.codes.candidates(probes, count), strict=True):
            near = likely[likely >= 0]
            near = near[usable[near]]
            if len(near) < least:
                return None
            found.append(_refined(self.rows, near, probe, metric, limit))
        return found


@dataclass(frozen=True, eq=False)
class View:
    """The living faces of a gallery, in one or two parts."""

    parts: tuple[Part, ...]
    size: int
    _kept: dict[bool, Rows] = field(default_factory=dict)

    @property
    def coded(self) -> bool:
        return any(part.codes is not None for part in self.parts)

    @cached_property
    def people(self) -> int:
        """How many people there are."""
        known = [p.rows.people[p.alive] for p in self.parts]
        return len(np.unique(np.concatenate(known))) if known else 0

    def nearest(
        self, probes: Embeddings, metric: Metric, limit: int, people: Ids | None = None
    ) -> Near:
        """For each probe its nearest faces, at most `limit`."""
        found = [part.nearest(probes, metric, limit, people) for part in self.parts]
        if len(found) == 1:
            return found[0]
        hits = [
            Hits.merged(list(of_probe)).first(limit)
            for of_probe in zip(*(near.hits for near in found), strict=True)
        ]
        return Near(hits, all(near.exact for near in found))

    def plain(self) -> View:
        """The same faces without codes: every search looks at all of them."""
        return View(tuple(Part(p.rows, p.alive, None, p.sorted) for p in self.parts), self.size)

    def taken(self, people: Ids | None) -> Rows:
        """A copy of the living faces of those people (ascending), or of all."""
        parts = [
            p.rows.taken(p.living() if people is None else p.of_people(people)) for p in self.parts
        ]
        return joined(parts)

    def centroids(self, *, raw: bool) -> Rows:
        """Each person's mean, kept for the next search; `raw` is that of the raw embeddings."""
        if raw not in self._kept:
            self._kept[raw] = centroids(self.taken(None), raw=raw)
        return self._kept[raw]


def joined(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return Rows(
        np.concatenate([p.faces for p in parts]),
        np.concatenate([p.people for p in parts]),
        np.concatenate([p.unit for p in parts]),
        np.concatenate([p.norms for p in parts]),
    )


def centroids(rows: Rows, *, raw: bool) -> Rows:
    """One row per person: the mean of the unit vectors, or of the raw ones. Faces are the first's."""
    if len(rows) == 0:
        return rows
    order = np.argsort(rows.people, kind="stable")
    people = rows.people[order]
    starts = np.flatnonzero(np.concatenate([[True], people[1:] != people[:-1]]))
    vectors = rows.unit[order]
    if raw:
        vectors *= rows.norms[order, None]
    sums = np.add.reduceat(vectors, starts, axis=0)
    means = sums / np.diff(np.append(starts, len(people)))[:, None].astype(np.float32)
    norms = np.linalg.norm(means, axis=1).astype(np.float32)
    return Rows(rows.faces[order[starts]], people[starts], normalise(means), norms)


def _refined(rows: Rows, near: Ids, probe: Embeddings, metric: Metric, limit: int) -> Ids:
    """The nearest of a shortlist, by float32; their distances are computed anew afterwards."""
    if len(near) <= limit:
        return near
    values = likeness_of(rows, near, probe, metric)
    return near[np.argpartition(values, -limit)[-limit:]]


def _hits(rows: Rows, which: Ids, probe: Embeddings, metric: Metric) -> Hits:
    found = Hits(rows.faces[which], rows.people[which], distances_to(rows, which, probe, metric))
    return Hits.merged([found])


def _ranges(starts: Ids, stops: Ids) -> Ids:
    """All whole numbers of the half-open ranges, one after another."""
    lengths = stops - starts
    offsets = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return offsets + np.arange(len(offsets))
