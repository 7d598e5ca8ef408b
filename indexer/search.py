"""Who is it: probes against a gallery, answered from the cache or, when that is behind, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexer.cache import SearchCache, SpaceIndex
from indexer.errors import Conflict
from indexer.store import galleries, identities, spaces
from indexer.store import search as store
from indexer.store.engine import Database, ReadConnection
from indexer.store.search import Candidate
from indexer.store.spaces import Space
from recognition.metrics import from_cosine
from recognition.types import Metric

GroupBy = Literal["person", "face"]
FRESH_TIMEOUT_S = 0.5
FIRST_LOOK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`threshold` is the largest distance answered; identities and metadata narrow the gallery."""

    gallery: str
    metric: Metric = "cosine"
    k: int = 5
    threshold: float
    group_by: GroupBy = "person"
    identities: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] | None = None
    min_version: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    identity: str
    identity_id: int
    face_id: int
    image_id: int
    image: str | None
    distance: float
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Engine:
    """Which engine answered, from which version, having looked at how many faces."""

    name: str
    exact: bool
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """One list of matches per probe, nearest first."""

    matches: tuple[tuple[Match, ...], ...]
    engine: Engine


@dataclass(frozen=True, slots=True)
class Target:
    """A gallery and the space it is searched in."""

    gallery_id: int
    gallery: str
    space: Space


Look = Callable[[NDArray[np.float32], int], list[Candidate]]


class Searcher:
    def __init__(self, database: Database, cache: SearchCache | None) -> None:
        self._database = database
        self._cache = cache

    def target(self, gallery: str, model: str | None = None) -> Target:
        """Raises NotFound for the gallery, Conflict if it has no such model's embeddings."""
        with self._database.read() as connection:
            found = galleries.get(connection, gallery)
            if found.active_space_id is None:
                raise Conflict(f"gallery {gallery!r} is empty; index a folder or enrol somebody")
            space = spaces.get(connection, found.active_space_id)
        if model is not None and model != space.recipe.model:
            raise Conflict(
                f"gallery {gallery!r} holds embeddings of {space.recipe.model}, not of {model}; "
                f"reindex it with {model}, or leave the model out"
            )
        return Target(found.id, found.name, space)

    def find(self, target: Target, probes: NDArray[np.float32], query: Query) -> Found:
        """`probes` is (n, dimension) float32."""
        people = self._people(target, query)
        index = None
        if self._cache is not None:
            index = self._cache.index(target.space.id, query.min_version, FRESH_TIMEOUT_S)
        if index is not None:
            found = self._in_cache(index, target, probes, query, people)
            if found is not None:
                return found
        return self._in_sql(target, probes, query, people)

    def _people(self, target: Target, query: Query) -> list[int] | None:
        if query.identities is None and not query.metadata:
            return None
        names = query.identities
        if names is not None:
            names = tuple(galleries.clean_name(name, "an identity") for name in names)
        with self._database.read() as connection:
            return identities.select_ids(connection, target.gallery_id, names, query.metadata)

    def _in_cache(
        self,
        index: SpaceIndex,
        target: Target,
        probes: NDArray[np.float32],
        query: Query,
        people: Sequence[int] | None,
    ) -> Found | None:
        """None when a face was erased since: then the database must answer."""
        with index.lock.shared():
            version = index.version
            rows = index.gallery(target.gallery_id)
            size = rows.size if rows is not None else 0

            def look(probe: NDArray[np.float32], limit: int) -> list[Candidate]:
                return rows.search(probe, query.metric, limit, people) if rows is not None else []

            picked = [_pick(look, probe, query) for probe in probes]
        with self._database.read() as connection:
            matches = _detailed(connection, picked)
        if matches is None:
            return None
        return Found(matches, Engine("faiss-flat", True, version, size))

    def _in_sql(
        self,
        target: Target,
        probes: NDArray[np.float32],
        query: Query,
        people: Sequence[int] | None,
    ) -> Found:
        with self._database.read() as connection:
            space = spaces.get(connection, target.space.id)
            scope = store.Scope(space, target.gallery_id, people)

            def look(probe: NDArray[np.float32], limit: int) -> list[Candidate]:
                return store.nearest(connection, scope, probe, query.metric, limit)

            picked = [_pick(look, probe, query) for probe in probes]
            matches = _detailed(connection, picked)
            size = store.count_faces(connection, store.Scope(space, target.gallery_id))
        return Found(matches or (), Engine("pgvector", True, space.version, size))


def _pick(look: Look, probe: NDArray[np.float32], query: Query) -> list[Candidate]:
    """The k nearest faces or people within the threshold; looks further until there are k."""
    limit = query.k if query.group_by == "face" else max(FIRST_LOOK, 4 * query.k)
    while True:
        candidates = look(probe, limit)
        exhausted = len(candidates) < limit
        near = [
            c
            for c in (_converted(c, query.metric) for c in candidates)
            if c.distance <= query.threshold
        ]
        if query.group_by == "person":
            near_people: dict[int, Candidate] = {}
            for candidate in near:
                near_people.setdefault(candidate.identity_id, candidate)
            picked = list(near_people.values())
        else:
            picked = near
        if len(picked) >= query.k or exhausted or len(near) < len(candidates):
            return picked[: query.k]
        limit *= 4


def _converted(candidate: Candidate, metric: Metric) -> Candidate:
    if metric == "euclidean":
        return candidate
    distance = from_cosine(candidate.distance, metric)
    return Candidate(candidate.face_id, candidate.identity_id, distance)


def _detailed(
    connection: ReadConnection, picked: Sequence[Sequence[Candidate]]
) -> tuple[tuple[Match, ...], ...] | None:
    """None if one of the faces is gone."""
    ids = {c.face_id for row in picked for c in row}
    if not ids:
        return tuple(() for _ in picked)
    known = store.details(connection, sorted(ids))
    if len(known) < len(ids):
        return None
    return tuple(tuple(_match(c, known[c.face_id]) for c in row) for row in picked)


def _match(candidate: Candidate, face: store.FaceDetails) -> Match:
    return Match(
        identity=face.identity,
        identity_id=face.identity_id,
        face_id=candidate.face_id,
        image_id=face.image_id,
        image=face.image,
        distance=candidate.distance,
        metadata=face.metadata,
    )
