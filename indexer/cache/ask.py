"""What a search asks of a gallery, and how people are ranked by the distances of their faces."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from indexer.cache.rows import Hits, Ids, Rows, distances_to
from indexer.cache.view import Near, View, centroids
from indexer.store.search import Scoring
from recognition.types import Embeddings, Metric

GroupBy = Literal["person", "face"]
FIRST_LOOK = 32
FURTHER = 8
CENTROID_PEOPLE = 256
"""People whose means are compared where a gallery is too large to compare all of them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ask:
    """`limit` faces or people within the distance `within`; of `people` (ids, ascending) only."""

    metric: Metric = "cosine"
    limit: int = 10
    by: GroupBy = "face"
    scoring: Scoring = field(default_factory=Scoring)
    within: float = math.inf
    people: Ids | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One `Hits` per probe: for people, their nearest face and their score. Distances are exact;
    `exact` says whether nothing nearer can have been missed."""

    hits: tuple[Hits, ...]
    exact: bool


def search(view: View, probes: Embeddings, ask: Ask) -> Answer:
    """`probes` is (n, d) float32, raw."""
    if ask.by == "face":
        near = view.nearest(probes, ask.metric, ask.limit, ask.people)
    elif ask.scoring.kind == "best":
        near = _best(view, probes, ask)
    else:
        ranked = _mean if ask.scoring.kind == "mean" else _centroid
        each = [ranked(view, probe, ask) for probe in probes]
        near = Near([n.hits[0] for n in each], all(n.exact for n in each))
    return Answer(tuple(_within(hits, ask) for hits in near.hits), near.exact)


def _within(hits: Hits, ask: Ask) -> Hits:
    near = int(np.searchsorted(hits.distances, ask.within, "right"))
    return hits.first(min(near, ask.limit))


def _best(view: View, probes: Embeddings, ask: Ask) -> Near:
    """Everybody once, by the nearest face; looks further until there are enough people."""
    found: dict[int, Hits] = {}
    unfinished = np.arange(len(probes))
    limit, exact = max(FIRST_LOOK, 4 * ask.limit), True
    while len(unfinished):
        faces = view.nearest(probes[unfinished], ask.metric, limit, ask.people)
        exact = exact and faces.exact
        left = []
        for n, near in zip(unfinished.tolist(), faces.hits, strict=True):
            found[n] = _each_once(near)
            if len(found[n]) < ask.limit and not _seen_all(near, limit, ask):
                left.append(n)
        unfinished = np.asarray(left, np.int64)
        limit *= FURTHER
    return Near([found[n] for n in range(len(probes))], exact)


def _seen_all(near: Hits, limit: int, ask: Ask) -> bool:
    """Whether there is nobody else within the distance that was asked for."""
    return len(near) < limit or bool(near.distances[-1] > ask.within)


def _each_once(hits: Hits) -> Hits:
    _, first = np.unique(hits.people, return_index=True)
    return hits.chosen(np.sort(first))


def _mean(view: View, probe: Embeddings, ask: Ask) -> Near:
    """By the mean of the nearest faces, which is never below the nearest one's distance."""
    limit = max(FIRST_LOOK, 4 * ask.limit)
    while True:
        best = _best(view, probe[None, :], replace(ask, limit=limit))
        near = best.hits[0].first(limit)
        scored = _means(view.taken(np.sort(near.people)), probe, ask)
        enough = len(scored) >= ask.limit and (
            scored.distances[ask.limit - 1] <= near.distances[-1]
        )
        if enough or _seen_all(near, limit, ask):
            return Near([scored], best.exact)
        limit *= FURTHER


def _means(rows: Rows, probe: Embeddings, ask: Ask) -> Hits:
    """Everybody of the rows by the mean distance of their nearest `scoring.faces` faces."""
    distances = distances_to(rows, slice(None), probe, ask.metric)
    order = np.lexsort((rows.faces, distances, rows.people))
    people, sorted_ = rows.people[order], distances[order]
    first = np.concatenate([[True], people[1:] != people[:-1]])[: len(people)]
    starts, person = np.flatnonzero(first), np.cumsum(first) - 1
    counted = np.arange(len(people)) - starts[person] < ask.scoring.faces
    sums = np.bincount(person[counted], sorted_[counted], minlength=len(starts))
    counts = np.bincount(person[counted], minlength=len(starts))
    means = sums / np.maximum(counts, 1)
    return Hits.merged([Hits(rows.faces[order[starts]], people[starts], means)])


def _centroid(view: View, probe: Embeddings, ask: Ask) -> Near:
    """By the distance to the mean of a person's embeddings (unit vectors, raw for euclidean)."""
    raw = ask.metric == "euclidean"
    if view.coded:
        wide = replace(ask, limit=max(CENTROID_PEOPLE, 16 * ask.limit), within=math.inf)
        near = _best(view, probe[None, :], wide).hits[0]
        means = centroids(view.taken(np.sort(near.people)), raw=raw)
    elif ask.people is not None:
        means = centroids(view.taken(ask.people), raw=raw)
    else:
        means = view.centroids(raw=raw)
    distances = distances_to(means, slice(None), probe, ask.metric)
    ranked = Hits.merged([Hits(means.faces, means.people, distances)]).first(ask.limit)
    return Near([_with_nearest_faces(view, probe, ranked, ask)], not view.coded)


def _with_nearest_faces(view: View, probe: Embeddings, ranked: Hits, ask: Ask) -> Hits:
    """The same people with the id of the face that is nearest to the probe."""
    rows = view.taken(np.sort(ranked.people))
    order = np.argsort(distances_to(rows, slice(None), probe, ask.metric), kind="stable")
    people, first = np.unique(rows.people[order], return_index=True)
    at = np.searchsorted(people, ranked.people)
    return Hits(rows.faces[order[first[at]]], ranked.people, ranked.distances)
