"""Making bases: from a snapshot on disk, from the database, or anew from an index that has changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import Timeout

from indexer.cache.base import Base, BaseWriter, Mark, wants_codes
from indexer.cache.disk import Snapshots
from indexer.cache.rows import Ids
from indexer.cache.view import View
from indexer.settings import SNAPSHOT_FROM
from indexer.store import spaces, vectors
from indexer.store.engine import Database
from indexer.store.spaces import Engine, Space
from indexer.store.vectors import Owners
from recognition.metrics import normalise
from recognition.types import Embeddings

log = logging.getLogger(__name__)

COPY_ROWS = 65_536
PATIENCE_S = 1800.0
"""How long to wait for another process that is writing the snapshot one needs."""
ID_BYTES = 45
"""Memory of a face besides its vector: ids, length, marks, places in the order of ids."""


class OverBudget(Exception):
    """The space does not fit into the memory that is left for it."""


class Stopped(Exception):
    """The process is ending."""


@dataclass(frozen=True, slots=True)
class Options:
    """`memory` bytes for all spaces; `folder` for snapshots of spaces from so many faces on, None or
    0 for none; `threads` to train."""

    memory: int
    folder: Path | None
    threads: int
    snapshot_from: int = SNAPSHOT_FROM


@dataclass(slots=True)
class Progress:
    """How far the loading of a space is, in faces."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An index as it was when it was decided to settle it."""

    mark: Mark
    engine: Engine
    dimension: int
    views: Mapping[int, View]


Place = Callable[[int, int], Embeddings]


class Builder:
    """Used by one thread; `stop` may be called by any."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._snapshots = Snapshots(options.folder) if options.folder is not None else None
        self._stopping = threading.Event()
        self.progress: dict[int, Progress] = {}

    def stop(self) -> None:
        self._stopping.set()

    def keeps(self, faces: int) -> bool:
        """Whether a space of that size gets a snapshot."""
        least = self._options.snapshot_from
        return self._snapshots is not None and 0 < least <= faces

    def forget_others(self, space_ids: set[int]) -> None:
        if self._snapshots is not None:
            self._snapshots.forget_others(space_ids)

    def forget(self, space_id: int) -> None:
        """Remove the snapshots of a space that has none any more: they hold people's faces."""
        if self._snapshots is not None:
            self._snapshots.forget(space_id)

    def clean(self, space_id: int, version: int) -> bool:
        """Whether no snapshot is from before that version."""
        if self._snapshots is None:
            return True
        oldest = self._snapshots.oldest(space_id)
        return oldest is None or oldest >= version

    def load(self, space_id: int, memory: int) -> Base:
        """The space, from disk if that is possible. Raises OverBudget, IndexerError."""
        with self._database.read() as connection:
            space = spaces.get(connection, space_id)
            faces = spaces.count(connection, space_id)
        mapped = self.keeps(faces)
        if cost(space, faces, mapped=mapped) > memory:
            raise OverBudget
        if mapped and self._snapshots is not None:
            try:
                with self._turn(self._snapshots, space_id):
                    self._snapshots.sweep(space_id)
                    return self._from_disk(self._snapshots, space_id) or self._draft(
                        self._snapshots, space_id, lambda place: self._fill(space_id, place)
                    )
            except OSError as error:
                log.warning("no snapshot of space %d: %s", space_id, error)
            if cost(space, faces, mapped=False) > memory:
                raise OverBudget
        self.forget(space_id)
        writer, mark, engine = self._fill(space_id, _in_memory)
        return writer.finish(mark, engine, self._options.threads)

    def settle(self, plan: Plan) -> Base:
        """The same faces in a new base. Raises OSError (Timeout while another process writes)."""
        faces = sum(view.size for view in plan.views.values())
        space_id = plan.mark.space_id
        if self.keeps(faces) and self._snapshots is not None:
            with self._snapshots.lock(space_id):
                newer = self._snapshots.latest(space_id) > plan.mark.version
                found = self._from_disk(self._snapshots, space_id) if newer else None
                return found or self._draft(
                    self._snapshots, space_id, lambda place: self._collect(plan, place)
                )
        self.forget(space_id)
        writer, mark, engine = self._collect(plan, _in_memory)
        return writer.finish(mark, engine, self._options.threads)

    @contextmanager
    def _turn(self, snapshots: Snapshots, space_id: int) -> Iterator[None]:
        """The space's lock, however long another process is writing. Raises Stopped, OSError."""
        lock = snapshots.lock(space_id)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                if self._stopping.is_set():
                    raise Stopped from None
                if time.monotonic() > deadline:
                    raise
        try:
            yield
        finally:
            lock.release()

    def _from_disk(self, snapshots: Snapshots, space_id: int) -> Base | None:
        """The newest snapshot, if the database goes on from there."""
        started = time.perf_counter()
        base = snapshots.newest(space_id)
        if base is None:
            return None
        mark = base.mark
        with self._database.read() as connection:
            same = spaces.epoch(connection) == mark.epoch and mark.space_id == space_id
            if not same or not spaces.continues(connection, space_id, mark.version, mark.stamp):
                log.info("snapshot of space %d is of another history", space_id)
                snapshots.prune(space_id, None)
                return None
        log.info(
            "snapshot of space %d: %d faces at version %d in %.2f s",
            space_id, len(base.rows), mark.version, time.perf_counter() - started,
        )  # fmt: skip
        return base

    def _draft(
        self,
        snapshots: Snapshots,
        space_id: int,
        fill: Callable[[Place], tuple[BaseWriter, Mark, Engine]],
    ) -> Base:
        """Fill a base on disk and commit it."""
        drafts = []

        def place(faces: int, dimension: int) -> Embeddings:
            drafts.append(snapshots.draft(space_id, faces, dimension))
            return drafts[-1].unit

        try:
            writer, mark, engine = fill(place)
            base = drafts[-1].commit(writer.finish(mark, engine, self._options.threads))
        except BaseException:
            for draft in drafts:
                draft.discard()
            raise
        snapshots.prune(space_id, drafts[-1].folder)
        return base

    def _fill(self, space_id: int, place: Place) -> tuple[BaseWriter, Mark, Engine]:
        """From the database, in one snapshot of it."""
        started = time.perf_counter()
        with self._database.read() as connection:
            space = spaces.get(connection, space_id)
            mark = Mark(space.id, space.version, space.stamp, spaces.epoch(connection))
            owned = vectors.owners(connection, space)
            writer = BaseWriter(owned, place(len(owned.faces), space.dimension))
            self.progress[space_id] = Progress(0, len(owned.faces))

            def take(faces: Ids, raw: Embeddings) -> None:
                if self._stopping.is_set():
                    raise Stopped
                writer.put(faces, normalise(raw), lengths(raw))
                self.progress[space_id].done = writer.done

            vectors.each(connection, space, take)
        log.info(
            "search cache loaded space %d: %d faces at version %d in %.2f s",
            space_id, writer.done, mark.version, time.perf_counter() - started,
        )  # fmt: skip
        return writer, mark, space.engine

    def _collect(self, plan: Plan, place: Place) -> tuple[BaseWriter, Mark, Engine]:
        """From the views of an index."""
        parts = [
            (gallery_id, part.rows, part.living())
            for gallery_id, view in plan.views.items()
            for part in view.parts
        ]
        empty = np.empty(0, np.int64)
        owned = Owners(
            np.concatenate([empty, *(rows.faces[which] for _, rows, which in parts)]),
            np.concatenate([empty, *(np.full(len(which), g) for g, _, which in parts)]),
            np.concatenate([empty, *(rows.people[which] for _, rows, which in parts)]),
        )
        writer = BaseWriter(owned, place(len(owned.faces), plan.dimension))
        for _, rows, which in parts:
            for start in range(0, len(which), COPY_ROWS):
                if self._stopping.is_set():
                    raise Stopped
                part = rows.taken(which[start : start + COPY_ROWS])
                writer.put(part.faces, part.unit, part.norms)
        return writer, plan.mark, plan.engine


def cost(space: Space, faces: int, *, mapped: bool) -> int:
    """Bytes of memory that a space of so many faces takes; an estimate from above."""
    coded = wants_codes(space.engine, faces, space.dimension)
    vector = 0 if mapped else 4 * space.dimension
    return faces * (vector + ID_BYTES + (space.dimension // 4 + 1 if coded else 0))


def lengths(raw: Embeddings) -> Embeddings:
    """(n,) float32."""
    return np.asarray(np.linalg.norm(raw, axis=1), np.float32)


def _in_memory(faces: int, dimension: int) -> Embeddings:
    return np.empty((faces, dimension), np.float32)
