"""The search in SQL: exact scans of small selections, the HNSW index for large ones, people in either.

Distances are always computed from the full vectors, in the metric that is asked for: cosine,
euclidean on the raw vectors, euclidean_l2 = sqrt(2 cosine), angular = acos(1 - cosine) / pi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sqlalchemy import text

from indexer.store import ann
from indexer.store.engine import ReadConnection, vault_of
from indexer.store.spaces import Space
from recognition.types import Embeddings, Metric

EXACT_ROWS = 20_000
"""Up to so many rows, of a gallery or of the people selected, a scan costs less than it could lose."""
FIRST_LOOK = 64
FURTHER = 8
SHORTLIST = 4
"""Rows taken from an index for each one asked for, before they are ranked exactly."""
LEAST_SHORTLIST = {"vector": 100, "halfvec": 100, "bit": 400}
LONGEST_SHORTLIST = 10_000
MAX_EF = 1000
MAX_TUPLES = 200_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored face near a probe; for people the nearest of their faces, with their score."""

    face_id: int
    identity_id: int
    distance: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """Nearest first; `exact`: nothing nearer can have been missed."""

    candidates: list[Candidate]
    exact: bool


@dataclass(frozen=True, slots=True)
class Scoring:
    """A person's distance: the best face's, the mean of the best `faces`, or the mean embedding's.

    The mean embedding is that of the unit vectors; for euclidean that of the raw ones.
    """

    kind: Literal["best", "mean", "centroid"] = "best"
    faces: int = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """The faces that a search looks at: a gallery's in a space, of some identities or of all."""

    space: Space
    gallery_id: int
    identity_ids: Sequence[int] | None = None


def nearest(
    connection: ReadConnection, scope: Scope, probe: Embeddings, metric: Metric, limit: int
) -> Ranked:
    """The nearest faces, at most `limit`. Raises KeyMissing.

    The indexes know the order of cosines; that of raw lengths is another, so euclidean is scanned.
    """
    return _nearest(connection, scope, _hidden(connection, scope, probe), metric, limit)


def _hidden(connection: ReadConnection, scope: Scope, probe: Embeddings) -> Embeddings:
    """The probe as the space's embeddings are stored."""
    return vault_of(connection).hide(scope.space.seal, np.asarray(probe, np.float32))


def _nearest(
    connection: ReadConnection, scope: Scope, probe: Embeddings, metric: Metric, limit: int
) -> Ranked:
    indexed = metric != "euclidean" and ann.is_built(connection, scope.space)
    if indexed and _is_large(connection, scope):
        found = _by_index(connection, scope, probe, metric, limit)
        if found is not None:
            return Ranked(found, exact=False)
    return Ranked(_by_scan(connection, scope, probe, metric, limit), exact=True)


def nearest_people(
    connection: ReadConnection,
    scope: Scope,
    probe: Embeddings,
    metric: Metric,
    limit: int,
    scoring: Scoring,
) -> Ranked:
    """The nearest people, at most `limit`, each by the nearest face. Raises KeyMissing."""
    probe = _hidden(connection, scope, probe)
    if scoring.kind == "best":
        return _best_people(connection, scope, probe, metric, limit)
    statement = _MEAN if scoring.kind == "mean" else _CENTROID
    if scoring.kind == "centroid" and metric == "euclidean":
        statement = _RAW_CENTROID
    values = _values(scope, probe, limit) | {"faces": scoring.faces}
    return Ranked(_run(connection, scope, metric, statement, values), exact=True)


def count_faces(connection: ReadConnection, scope: Scope) -> int:
    """How many faces a search of the scope looks at."""
    query = _COUNT_ALL if scope.identity_ids is None else _COUNT
    counted = connection.scalar(text(_told(scope, "cosine", query)), _values(scope, None, 0))
    return int(counted or 0)


def _best_people(
    connection: ReadConnection, scope: Scope, probe: Embeddings, metric: Metric, limit: int
) -> Ranked:
    """Looks further until there are enough people or all rows were seen."""
    faces = max(FIRST_LOOK, 4 * limit)
    while True:
        ranked = _nearest(connection, scope, probe, metric, faces)
        people: dict[int, Candidate] = {}
        for candidate in ranked.candidates:
            people.setdefault(candidate.identity_id, candidate)
        if len(people) >= limit or len(ranked.candidates) < faces:
            return Ranked(list(people.values())[:limit], ranked.exact)
        faces *= FURTHER


def _is_large(connection: ReadConnection, scope: Scope) -> bool:
    """Whether a scan would be long; counts no further than it must, people by their images."""
    query = _COUNT_FIRST if scope.identity_ids is None else _COUNT_IMAGES
    values = _values(scope, None, EXACT_ROWS + 1)
    counted = connection.scalar(text(_told(scope, "cosine", query)), values)
    return int(counted or 0) > EXACT_ROWS


def _by_scan(
    connection: ReadConnection, scope: Scope, probe: Embeddings, metric: Metric, limit: int
) -> list[Candidate]:
    # Without the cast to a dimension no HNSW index fits the expression, and none may.
    statement = _SCAN_ALL if scope.identity_ids is None else _SCAN
    return _run(connection, scope, metric, statement, _values(scope, probe, limit))


def _by_index(
    connection: ReadConnection, scope: Scope, probe: Embeddings, metric: Metric, limit: int
) -> list[Candidate] | None:
    """A shortlist in the index's order, which is that of cosines, ranked exactly.

    None if the index gave up before the shortlist was full: a filter left too few of what it saw.
    """
    form = ann.form(scope.space.dimension)
    shortlist = min(max(LEAST_SHORTLIST[form], SHORTLIST * limit), LONGEST_SHORTLIST)
    values = _values(scope, probe, limit) | {"shortlist": shortlist}
    connection.execute(_BY_INDEX, {"ef": str(min(MAX_EF, shortlist)), "tuples": str(MAX_TUPLES)})
    rows = connection.execute(text(indexed_query(scope, metric)), values).all()
    connection.execute(_AS_EVER)
    if limit > shortlist or not rows or rows[0].seen < shortlist:
        return None
    return [Candidate(row[0], row[1], float(row[2])) for row in rows]


def indexed_query(scope: Scope, metric: Metric = "cosine") -> str:
    """The statement that uses the index, for EXPLAIN."""
    return _told(scope, metric, _INDEXED)


def _run(
    connection: ReadConnection, scope: Scope, metric: Metric, query: str, values: dict[str, Any]
) -> list[Candidate]:
    rows = connection.execute(text(_told(scope, metric, query)), values)
    return [Candidate(row[0], row[1], float(row[2])) for row in rows]


def _told(scope: Scope, metric: Metric, query: str) -> str:
    """The query for this scope. The space is a literal, so that the planner sees the partition."""
    filtered = scope.identity_ids is not None
    within = "e.space_id = {space} AND e.gallery_id = :gallery"
    parts = {
        "faces": _FACES,
        "within": within + (" AND i.identity_id = {people}" if filtered else ""),
        "distance": _DISTANCES[metric],
        "score": _CONVERTED[metric],
        "order": ann.order(scope.space.dimension, ":probe"),
    }
    known = {"space": str(int(scope.space.id)), "people": _PEOPLE}
    return query.format(**parts, **known).format(**known)


def _values(scope: Scope, probe: Embeddings | None, limit: int) -> dict[str, Any]:
    values: dict[str, Any] = {"gallery": scope.gallery_id, "limit": limit}
    if probe is not None:
        values["probe"] = "[" + ",".join(map(str, np.asarray(probe, np.float32).tolist())) + "]"
    if scope.identity_ids is not None:
        values["people"] = "{" + ",".join(map(str, map(int, scope.identity_ids))) + "}"
    return values


_FACES = "embedding e JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id"
_COSINE = "(e.vec <=> CAST(:probe AS vector))"
_DISTANCES: dict[Metric, str] = {
    "cosine": _COSINE,
    "euclidean": "(e.vec <-> CAST(:probe AS vector))",
    "euclidean_l2": f"sqrt(2 * greatest({_COSINE}, 0))",
    "angular": f"(acos(least(greatest(1 - {_COSINE}, -1), 1)) / pi())",
}
_CONVERTED: dict[Metric, str] = {
    "cosine": "c",
    "euclidean": "c",
    "euclidean_l2": "sqrt(2 * greatest(c, 0))",
    "angular": "(acos(least(greatest(1 - c, -1), 1)) / pi())",
}
_PEOPLE = "ANY(CAST(:people AS bigint[]))"
"""Of the column's own type, or each row is compared with all of the array in place of hashed."""
# An iterative scan goes on when a filter leaves too little. In the relaxed order it also gives what
# it finds out of turn; the strict one drops that, and much of a filtered answer with it.
_BY_INDEX = text(
    "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),"
    " set_config('hnsw.ef_search', :ef, true), set_config('hnsw.max_scan_tuples', :tuples, true),"
    " set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),"
    " set_config('jit', 'off', true)"
)
_AS_EVER = text(
    "SELECT set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true)"
)
"""For what comes after in the same transaction."""
_COUNT = "SELECT count(*) FROM {faces} WHERE {within}"
_COUNT_ALL = "SELECT count(*) FROM embedding e WHERE {within}"
_COUNT_FIRST = (
    "SELECT count(*) FROM (SELECT 1 FROM embedding e WHERE {within} LIMIT :limit) AS counted"
)
_COUNT_IMAGES = (
    "SELECT count(*) FROM"
    " (SELECT 1 FROM image i WHERE i.identity_id = {people} LIMIT :limit) AS counted"
)
_SCAN_ALL = """
WITH near AS MATERIALIZED (
    SELECT e.face_id, {distance} AS distance FROM embedding e WHERE {within}
    ORDER BY distance, e.face_id LIMIT :limit
)
SELECT e.face_id, i.identity_id, e.distance
FROM near e JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id
ORDER BY e.distance, e.face_id
"""
_SCAN = """
SELECT e.face_id, i.identity_id, {distance} AS distance
FROM {faces} WHERE {within} ORDER BY distance, e.face_id LIMIT :limit
"""
_INDEXED = """
WITH near AS MATERIALIZED (
    SELECT e.face_id, i.identity_id, e.vec FROM {faces} WHERE {within}
    ORDER BY {order} LIMIT :shortlist
)
SELECT e.face_id, e.identity_id, {distance} AS distance, (SELECT count(*) FROM near) AS seen
FROM near e
ORDER BY distance, e.face_id LIMIT :limit
"""
_MEAN = """
WITH each AS (
    SELECT e.face_id, i.identity_id, {distance} AS distance FROM {faces} WHERE {within}
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY identity_id ORDER BY distance, face_id) AS rank
    FROM each
)
SELECT min(face_id) FILTER (WHERE rank = 1), identity_id, avg(distance) AS score
FROM ranked WHERE rank <= :faces GROUP BY identity_id ORDER BY score, identity_id LIMIT :limit
"""
_CENTROIDS = """
WITH people AS (
    SELECT i.identity_id, %s AS c FROM {faces} WHERE {within} GROUP BY i.identity_id
), best AS (
    SELECT identity_id, {score} AS score FROM people ORDER BY score, identity_id LIMIT :limit
)
SELECT near.face_id, best.identity_id, best.score FROM best CROSS JOIN LATERAL (
    SELECT e.face_id FROM {faces} WHERE {within} AND i.identity_id = best.identity_id
    ORDER BY {distance}, e.face_id LIMIT 1
) AS near ORDER BY best.score, best.identity_id
"""
_CENTROID = _CENTROIDS % "(avg(l2_normalize(e.vec)) <=> CAST(:probe AS vector))"
_RAW_CENTROID = _CENTROIDS % "(avg(e.vec) <-> CAST(:probe AS vector))"
