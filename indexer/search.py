"""Who is it: probes against a gallery, answered from the cache or, when that is behind, in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import faiss
import numpy as np

from indexer.assignment import each_once
from indexer.cache.ask import Answer, Ask, GroupBy, search
from indexer.cache.combine import Combiner
from indexer.cache.follower import SearchCache
from indexer.cache.recall import RecallSampler
from indexer.cache.rows import Hits, Ids
from indexer.cache.space import SpaceIndex
from indexer.cache.view import View
from indexer.errors import Conflict, EmptyGallery, VersionAhead
from indexer.store import galleries, identities, matches, spaces
from indexer.store import search as store
from indexer.store.engine import Database, ReadConnection
from indexer.store.matches import Confirmed, FaceDetails
from indexer.store.search import Scoring
from indexer.store.spaces import Space
from recognition.types import Embeddings, Metric

Decision = Literal["match", "unknown", "ambiguous"]

FRESH_TIMEOUT_S = 0.5
RETRIES = 3
MOST_TOGETHER = 64
MANY_PROBES = 8
KNOWN_TARGETS = 4096
AMBIGUOUS_SHARE = 0.1
"""Two people are told apart if their distances differ by at least this share of the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`threshold` is the largest distance answered; identities and metadata narrow the gallery.

    `once`: over all probes nobody is found twice.
    """

    gallery: str
    metric: Metric = "cosine"
    k: int = 5
    threshold: float
    group_by: GroupBy = "person"
    scoring: Scoring = field(default_factory=Scoring)
    once: bool = False
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
    """Which engine answered, from which version; `exact`: nothing nearer can have been missed."""

    name: str
    exact: bool
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """One list of matches per probe, nearest first, and what to make of it."""

    matches: tuple[tuple[Match, ...], ...]
    decisions: tuple[Decision, ...]
    engine: Engine


@dataclass(frozen=True, slots=True)
class Target:
    """A gallery and the space it is searched in."""

    gallery_id: int
    gallery: str
    space: Space


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Probes of one request, and what it asks of a view."""

    view: View
    probes: Embeddings
    ask: Ask


class Searcher:
    """`threads`: for a search with many probes; one probe alone is not faster with more than one."""

    def __init__(
        self, database: Database, cache: SearchCache | None, *, threads: int = 1, recall: float = 0
    ) -> None:
        self._database = database
        self._cache = cache
        self._threads = threads
        self._targets: dict[str, Target] = {}
        self._combiner = Combiner[_Look, Answer](self._together, MOST_TOGETHER)
        self.recall = RecallSampler(recall)

    def target(self, gallery: str, model: str | None = None) -> Target:
        """Raises NotFound for the gallery, Conflict if it has no such model's embeddings."""
        with self._database.read() as connection:
            target = _target(connection, gallery)
        held = target.space.recipe.model
        if model is not None and model != held:
            raise Conflict(
                f"gallery {gallery!r} holds embeddings of {held}, not of {model}; "
                f"reindex it with {model}, or leave the model out"
            )
        self._remember(target)
        return target

    def known(self, gallery: str, model: str | None = None) -> Target | None:
        """The target as it was last seen, without asking the database; `find` notices a change."""
        target = self._targets.get(gallery)
        if target is not None and model not in (None, target.space.recipe.model):
            return None
        return target

    def find(self, target: Target, probes: Embeddings, query: Query) -> Found:
        """`probes` is (n, dimension) float32.

        Raises NotFound, Conflict, VersionAhead, InvalidFilter, KeyMissing.
        """
        people = self._people(target, query)
        version = query.min_version
        for _ in range(RETRIES):
            index = None
            if self._cache is not None:
                index = self._cache.index(target.space.id, version, FRESH_TIMEOUT_S)
            if index is None:
                break
            hidden = self._database.vault.hide(target.space.seal, probes)
            engine, hits = self._in_cache(index, target, hidden, _ask(query, len(probes), people))
            hits = _chosen(hits, query)
            with self._database.glance() as connection:
                confirmed = matches.confirm(
                    connection, target.gallery_id, target.space.id, _faces(hits)
                )
            if confirmed is None:
                target = self._retargeted(target)
            elif _agree(hits, confirmed):
                return _found(hits, confirmed, engine, query)
            else:
                version = max(version, confirmed.version)
        return self._in_sql(target, probes, query, people)

    def _people(self, target: Target, query: Query) -> Ids | None:
        if query.identities is None and not query.metadata:
            return None
        names = query.identities
        if names is not None:
            names = tuple(galleries.clean_name(name, "an identity") for name in names)
        with self._database.read() as connection:
            found = identities.select_ids(connection, target.gallery_id, names, query.metadata)
        return np.sort(np.asarray(found, np.int64))

    def _in_cache(
        self, index: SpaceIndex, target: Target, probes: Embeddings, ask: Ask
    ) -> tuple[Engine, list[Hits]]:
        version = index.version  # before the view, which may be newer
        view = index.view(target.gallery_id)
        if view is None:
            none = np.empty(0, np.int64)
            return Engine("faiss-flat", True, version, 0), [
                Hits(none, none, np.empty(0)) for _ in probes
            ]
        look = _Look(view, probes, ask)
        if ask.people is None:
            key = (id(view), ask.metric, ask.by, ask.scoring, ask.limit, ask.within)
            answer = self._combiner.ask(key, look)
        else:
            (answer,) = self._together([look])
        name = "faiss-flat" if answer.exact else "faiss-pq4"
        return Engine(name, answer.exact, version, view.size), list(answer.hits)

    def _together(self, looks: Sequence[_Look]) -> list[Answer]:
        """Looks that ask the same of the same view, as one search."""
        view, ask = looks[0].view, looks[0].ask
        probes = np.concatenate([look.probes for look in looks])
        faiss.omp_set_num_threads(self._threads if len(probes) >= MANY_PROBES else 1)
        answer = search(view, probes, ask)
        self.recall.offer(view, probes, ask, answer)
        ends = np.cumsum([len(look.probes) for look in looks]).tolist()
        return [
            Answer(answer.hits[end - len(look.probes) : end], answer.exact)
            for look, end in zip(looks, ends, strict=True)
        ]

    def _remember(self, target: Target) -> None:
        if len(self._targets) >= KNOWN_TARGETS:
            self._targets.clear()
        self._targets[target.gallery] = target

    def _retargeted(self, target: Target) -> Target:
        """Where to look now that the gallery has moved. Raises NotFound, Conflict."""
        self._targets.pop(target.gallery, None)
        return _comparable(target, self.target(target.gallery))

    def _in_sql(
        self, target: Target, probes: Embeddings, query: Query, people: Ids | None
    ) -> Found:
        """All in one snapshot of the database."""
        ask = _ask(query, len(probes), people)
        self._targets.pop(target.gallery, None)
        with self._database.read() as connection:
            target = _comparable(target, _target(connection, target.gallery))
            self._remember(target)
            space = target.space
            if space.version < query.min_version:
                raise VersionAhead(target.gallery, query.min_version, space.version)
            ids = None if people is None else people.tolist()
            scope = store.Scope(space, target.gallery_id, ids)
            ranked = [
                store.nearest(connection, scope, probe, ask.metric, ask.limit)
                if ask.by == "face"
                else store.nearest_people(
                    connection, scope, probe, ask.metric, ask.limit, ask.scoring
                )
                for probe in probes
            ]
            hits = _chosen([_hits(r.candidates, ask.within) for r in ranked], query)
            confirmed = matches.confirm(connection, target.gallery_id, space.id, _faces(hits))
            size = store.count_faces(connection, store.Scope(space, target.gallery_id))
        exact = all(r.exact for r in ranked)
        engine = Engine("pgvector", exact, space.version, size)
        return _found(hits, confirmed or Confirmed(space.version, {}), engine, query)


def _target(connection: ReadConnection, gallery: str) -> Target:
    """Raises NotFound, EmptyGallery."""
    found = galleries.get(connection, gallery)
    if found.active_space_id is None:
        raise EmptyGallery(f"gallery {gallery!r} is empty; index a folder or enrol somebody")
    return Target(found.id, found.name, spaces.get(connection, found.active_space_id))


def _comparable(target: Target, fresh: Target) -> Target:
    """`fresh`, if probes made for `target` mean anything there: only the detector may differ. Raises Conflict."""
    was, now = target.space, fresh.space
    made, wanted = (replace(space.recipe, detector="") for space in (was, now))
    if was.dimension != now.dimension or made != wanted:
        raise Conflict(f"gallery {target.gallery!r} has just moved to another model; try again")
    return fresh


def _ask(query: Query, probes: int, people: Ids | None) -> Ask:
    """One more than is wanted, to see how near the next person is."""
    limit = max(query.k, probes) if query.once else query.k
    return Ask(
        metric=query.metric,
        limit=limit + 1,
        by=query.group_by,
        scoring=query.scoring,
        within=query.threshold,
        people=people,
    )


def _chosen(hits: list[Hits], query: Query) -> list[Hits]:
    return each_once(hits, query.threshold) if query.once else hits


def _hits(candidates: Sequence[store.Candidate], within: float) -> Hits:
    near = [c for c in candidates if c.distance <= within]
    return Hits(
        np.asarray([c.face_id for c in near], np.int64),
        np.asarray([c.identity_id for c in near], np.int64),
        np.asarray([c.distance for c in near], np.float64),
    )


def _faces(hits: Sequence[Hits]) -> list[int]:
    return sorted({face for each in hits for face in each.faces.tolist()})


def _agree(hits: Sequence[Hits], confirmed: Confirmed) -> bool:
    """Whether every face is still there and still the same person's."""
    return all(
        (known := confirmed.faces.get(face)) is not None and known.identity_id == person
        for each in hits
        for face, person in zip(each.faces.tolist(), each.people.tolist(), strict=True)
    )


def _found(hits: Sequence[Hits], confirmed: Confirmed, engine: Engine, query: Query) -> Found:
    rows = [
        tuple(
            _match(face, distance, confirmed.faces[face])
            for face, distance in zip(
                each.faces[: query.k].tolist(), each.distances[: query.k].tolist(), strict=True
            )
        )
        for each in hits
    ]
    return Found(tuple(rows), tuple(decide(each, query.threshold) for each in hits), engine)


def decide(hits: Hits, threshold: float) -> Decision:
    """`ambiguous`: a second person is within the threshold and hardly further than the first."""
    if not len(hits):
        return "unknown"
    others = hits.distances[hits.people != hits.people[0]]
    if len(others) and others[0] - hits.distances[0] < AMBIGUOUS_SHARE * threshold:
        return "ambiguous"
    return "match"


def _match(face_id: int, distance: float, face: FaceDetails) -> Match:
    return Match(
        identity=face.identity,
        identity_id=face.identity_id,
        face_id=face_id,
        image_id=face.image_id,
        image=face.image,
        distance=distance,
        metadata=face.metadata,
    )
