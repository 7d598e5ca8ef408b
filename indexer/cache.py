"""The search cache: every space's embeddings in memory, following the database.

One thread per process listens for hints, reads what changed since its version in one snapshot, and
applies it. Losing a hint costs at most a second; losing the database costs nothing but freshness.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.store import search, spaces
from indexer.store.engine import Database, Listener
from indexer.store.search import Candidate, Vectors
from indexer.store.spaces import Space
from recognition.metrics import normalise
from recognition.types import Metric

log = logging.getLogger(__name__)

S = TypeVar("S", bound=np.generic)

POLL_S = 1.0
RETRY_S = 0.5
FIRST_CAPACITY = 1024


class SharedLock:
    """Many readers or one writer; a waiting writer keeps new readers out."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._writing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            self._condition.wait_for(lambda: not self._writing and not self._readers)
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


class GalleryIndex:
    """The faces of one gallery in one space: unit vectors in one block, searched exhaustively.

    A removed row is overwritten by the last one, so there are no dead entries.
    """

    def __init__(self, dimension: int) -> None:
        self.size = 0
        self._unit = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._norms = np.empty(FIRST_CAPACITY, np.float32)
        self._faces = np.empty(FIRST_CAPACITY, np.int64)
        self._people = np.empty(FIRST_CAPACITY, np.int64)
        self._rows: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return self._unit.nbytes + self._norms.nbytes + self._faces.nbytes + self._people.nbytes

    def put(
        self, face_ids: NDArray[np.int64], people: NDArray[np.int64], raw: NDArray[np.float32]
    ) -> None:
        """Add faces, or replace those that are there."""
        for face in face_ids.tolist():
            self.drop(face)
        start, end = self.size, self.size + len(face_ids)
        self._reserve(end)
        norms = np.linalg.norm(raw, axis=1)
        self._unit[start:end] = normalise(raw)
        self._norms[start:end] = norms
        self._faces[start:end] = face_ids
        self._people[start:end] = people
        self._rows.update(zip(face_ids.tolist(), range(start, end), strict=True))
        self.size = end

    def drop(self, face_id: int) -> bool:
        row = self._rows.pop(face_id, None)
        if row is None:
            return False
        last = self.size - 1
        if row != last:
            for array in (self._unit, self._norms, self._faces, self._people):
                array[row] = array[last]
            self._rows[int(self._faces[row])] = row
        self.size = last
        return True

    def search(
        self, probe: NDArray[np.float32], metric: Metric, limit: int, people: Sequence[int] | None
    ) -> list[Candidate]:
        """The nearest faces of those people, or of all; distances as `search.nearest` gives them."""
        rows = None
        if people is not None:
            rows = np.flatnonzero(np.isin(self._people[: self.size], np.asarray(people, np.int64)))
        count = self.size if rows is None else len(rows)
        limit = min(limit, count)
        if limit == 0:
            return []
        if metric == "euclidean":
            found, distances = self._euclidean(probe, limit, rows)
        else:
            found, distances = self._cosine(probe, limit, rows)
        return [
            Candidate(int(self._faces[row]), int(self._people[row]), float(distance))
            for row, distance in zip(found, distances, strict=True)
        ]

    def _cosine(
        self, probe: NDArray[np.float32], limit: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        base = self._unit[: self.size] if rows is None else self._unit[rows]
        query = normalise(probe[None, :])
        _, near = faiss.knn(query, base, limit, metric=faiss.METRIC_INNER_PRODUCT)
        found = near[0] if rows is None else rows[near[0]]
        exact = self._unit[found].astype(np.float64) @ query[0].astype(np.float64)
        return _ordered(found, np.clip(1.0 - exact, 0.0, 2.0))

    def _euclidean(
        self, probe: NDArray[np.float32], limit: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        chosen = np.arange(self.size) if rows is None else rows
        norms = self._norms[chosen]
        products = norms * (self._unit[chosen] @ probe)
        squares = norms * norms - 2.0 * products
        near = np.argpartition(squares, limit - 1)[:limit]
        found = chosen[near]
        raw = self._unit[found].astype(np.float64) * self._norms[found, None]
        return _ordered(found, np.linalg.norm(raw - probe.astype(np.float64), axis=1))

    def _reserve(self, size: int) -> None:
        capacity = len(self._faces)
        if size <= capacity:
            return
        capacity = max(size, capacity * 3 // 2)
        self._unit = _grown(self._unit, capacity)
        self._norms = _grown(self._norms, capacity)
        self._faces = _grown(self._faces, capacity)
        self._people = _grown(self._people, capacity)


@dataclass(frozen=True, slots=True)
class CacheState:
    """What a process holds of one space; `lag` is how many versions it is behind."""

    space_id: int
    version: int
    lag: int
    faces: int
    bytes: int


class SpaceIndex:
    """All galleries of one space at one version."""

    def __init__(self, space: Space, version: int) -> None:
        self.space = space
        self.version = version
        self.lock = SharedLock()
        self._galleries: dict[int, GalleryIndex] = {}
        self._home: dict[int, int] = {}

    @property
    def faces(self) -> int:
        return len(self._home)

    @property
    def bytes(self) -> int:
        return sum(index.bytes for index in self._galleries.values())

    def gallery(self, gallery_id: int) -> GalleryIndex | None:
        return self._galleries.get(gallery_id)

    def put(self, vectors: Vectors) -> None:
        for gallery_id in np.unique(vectors.gallery_ids).tolist():
            rows = vectors.gallery_ids == gallery_id
            index = self._galleries.setdefault(gallery_id, GalleryIndex(self.space.dimension))
            index.put(vectors.face_ids[rows], vectors.identity_ids[rows], vectors.rows[rows])
            self._home.update(dict.fromkeys(vectors.face_ids[rows].tolist(), gallery_id))

    def drop(self, face_ids: Sequence[int]) -> None:
        for face in face_ids:
            gallery_id = self._home.pop(face, None)
            if gallery_id is not None:
                self._galleries[gallery_id].drop(face)

    def apply(self, touched: Sequence[int], current: Vectors, version: int) -> None:
        """Bring the touched faces to their current state, all at once for readers."""
        with self.lock.exclusive():
            gone = set(touched) - set(current.face_ids.tolist())
            self.drop(sorted(gone))
            self.put(current)
            self.version = version


class SearchCache:
    """Follows the database in a thread of its own; `start` it and `close` it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._indexes: dict[int, SpaceIndex] = {}
        self._versions: dict[int, int] = {}
        self._epoch = ""
        self._synced = False
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="search-cache", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether every space was loaded at least once."""
        return self._synced

    def start(self) -> None:
        faiss.omp_set_num_threads(1)  # one query at a time is not faster with more
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=POLL_S + 5)

    def index(self, space_id: int, min_version: int, timeout_s: float) -> SpaceIndex | None:
        """The space's index at `min_version` or later; None if it is not there in time."""

        def current() -> bool:
            index = self._indexes.get(space_id)
            return index is not None and index.version >= min_version

        with self._changed:
            if not self._changed.wait_for(current, timeout_s if self._synced else 0):
                return None
            return self._indexes.get(space_id)

    def states(self) -> list[CacheState]:
        return [
            CacheState(
                space_id,
                index.version,
                max(0, self._versions.get(space_id, index.version) - index.version),
                index.faces,
                index.bytes,
            )
            for space_id, index in list(self._indexes.items())
        ]

    def _follow(self) -> None:
        while not self._stopping.is_set():
            listener = None
            try:
                listener = Listener(self._database, spaces.CHANNEL)
                while not self._stopping.is_set():
                    self._sync()
                    listener.wait(POLL_S)
            except IndexerError as error:
                log.warning("search cache waits for the database: %s", error)
            except Exception:
                log.exception("search cache starts over")
                self._indexes.clear()
            finally:
                if listener is not None:
                    listener.close()
            self._stopping.wait(RETRY_S)

    def _sync(self) -> None:
        with self._database.read() as connection:
            epoch = spaces.epoch(connection)
            self._versions = spaces.versions(connection)
        if epoch != self._epoch:
            self._indexes.clear()
            self._epoch = epoch
        for space_id in self._indexes.keys() - self._versions.keys():
            self._replace(space_id, None)
        for space_id, version in self._versions.items():
            index = self._indexes.get(space_id)
            if index is None or version < index.version:
                self._replace(space_id, self._load(space_id))
            elif version > index.version:
                self._catch_up(index)
        self._synced = True

    def _load(self, space_id: int) -> SpaceIndex:
        started = time.perf_counter()
        with self._database.read() as connection:
            space = spaces.get(connection, space_id)
            index = SpaceIndex(space, space.version)
            for block in search.load_all(connection, space):
                index.put(block)
        log.info(
            "search cache loaded space %d: %d faces at version %d in %.2f s",
            space_id, index.faces, index.version, time.perf_counter() - started,
        )  # fmt: skip
        return index

    def _catch_up(self, index: SpaceIndex) -> None:
        with self._database.read() as connection:
            space = spaces.get(connection, index.space.id)
            touched = spaces.changed_since(connection, space.id, index.version)
            current = None if touched is None else search.load_some(connection, space, touched)
        if touched is None or current is None:
            self._replace(index.space.id, self._load(index.space.id))
            return
        index.apply(touched, current, space.version)
        with self._changed:
            self._changed.notify_all()

    def _replace(self, space_id: int, index: SpaceIndex | None) -> None:
        with self._changed:
            if index is None:
                self._indexes.pop(space_id, None)
            else:
                self._indexes[space_id] = index
            self._changed.notify_all()


def _ordered(
    rows: NDArray[np.int64], distances: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    order = np.argsort(distances, kind="stable")
    return rows[order], distances[order]


def _grown(array: NDArray[S], capacity: int) -> NDArray[S]:
    grown = np.empty((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
