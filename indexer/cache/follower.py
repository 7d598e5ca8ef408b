"""The search cache of a process: every space in memory, following the database.

One thread listens for hints, reads what changed since its version in one snapshot of the database,
and applies it; losing a hint costs at most a second. Another thread makes bases: loads spaces, and
settles those that have changed much. Searches go on with what there is; where there is nothing
yet, or no room, the database answers them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sqlalchemy.exc import TimeoutError as PoolTimeout

from indexer.cache.base import Base, Mark
from indexer.cache.build import Builder, Options, OverBudget, Plan, Stopped
from indexer.cache.rows import Ids
from indexer.cache.space import SpaceIndex
from indexer.errors import IndexerError, NotFound
from indexer.store import spaces, vectors
from indexer.store.engine import Database, Listener, ReadConnection
from indexer.store.spaces import Head
from indexer.store.vectors import Vectors

log = logging.getLogger(__name__)

POLL_S = 1.0
BUSY_POLL_S = 0.05
RETRY_S = 0.5
BUILD_RETRY_S = 5.0
DECLINED_S = 60.0
SNAPSHOT_S = 600.0
"""How old a snapshot may be that does not hold the latest changes; erased faces leave the disk then."""
CLEANSE_S = 60.0
CLEANSE_FACES = 100_000
"""A base is made anew for the sake of erased faces alone: at once up to so many faces, else once in so many seconds."""
SETTLE_FACES = 4096
TAIL_SHARE = 50
DEAD_SHARE = 10
"""A base is made anew when more than a 50th of the faces came after it, or a 10th of it is gone."""


@dataclass(frozen=True, slots=True)
class CacheState:
    """What a process holds of a space. `lag`: versions behind; `mapped`: bytes in files."""

    space_id: int
    engine: str
    version: int
    lag: int
    faces: int
    bytes: int
    mapped: int
    unsettled: int
    dead: int
    builds: int


@dataclass(slots=True)
class _Followed:
    """What the follower knows of a space."""

    index: SpaceIndex | None = None
    building: Future[Base] | None = None
    declined: bool = False
    not_before: float = 0.0
    built_at: float = 0.0
    builds: int = 0


class SearchCache:
    """Follows the database in threads of its own; `start` it and `close` it."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._memory = options.memory
        self._builder = Builder(database, options)
        self._spaces: dict[int, _Followed] = {}
        self._heads: dict[int, Head] = {}
        self._cleanse: dict[int, int] = {}
        self._epoch = ""
        self._synced = False
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._builds = ThreadPoolExecutor(1, "search-cache-build")
        self._thread = threading.Thread(target=self._follow, name="search-cache", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether every space is there that there is room for."""
        return self._synced and all(
            followed.index is not None or followed.declined
            for followed in list(self._spaces.values())
        )

    @property
    def loading(self) -> str:
        """How far the loading is, in words; empty when nothing is loaded."""
        if not self._synced:
            return "reading versions"
        told = []
        for space_id, followed in list(self._spaces.items()):
            progress = self._builder.progress.get(space_id)
            if followed.index is None and not followed.declined:
                done, total = (progress.done, progress.total) if progress else (0, 0)
                told.append(
                    f"space {space_id}: {done} of {total} faces" if total else f"space {space_id}"
                )
        return ", ".join(told)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._builder.stop()
        self._builds.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(timeout=POLL_S + 5)

    def index(self, space_id: int, min_version: int, timeout_s: float) -> SpaceIndex | None:
        """The space's index at `min_version` or later; None if it is not there in time."""

        def current() -> SpaceIndex | None:
            followed = self._spaces.get(space_id)
            index = None if followed is None else followed.index
            return index if index is not None and index.version >= min_version else None

        found = current()
        if found is not None or not self._expected(space_id):
            return found
        with self._changed:
            self._changed.wait_for(current, timeout_s)
            return current()

    def answers_from(self, space_id: int, version: int) -> bool:
        """Whether no search of the space is answered from before that version."""
        followed = self._spaces.get(space_id)
        index = None if followed is None else followed.index
        return self._synced and (index is None or index.version >= version)

    def cleanse(self, space_id: int, version: int) -> bool:
        """Whether what was erased up to that version is neither in memory nor on disk; if not, it soon will be."""
        followed = self._spaces.get(space_id)
        index = None if followed is None else followed.index
        if followed is None:
            return self._synced
        if index is None:
            return followed.building is None and self._builder.clean(space_id, version)
        self._cleanse[space_id] = max(version, self._cleanse.get(space_id, 0))
        return index.base.mark.version >= version and self._builder.clean(space_id, version)

    def states(self) -> list[CacheState]:
        return [
            _state(space_id, followed, self._heads.get(space_id))
            for space_id, followed in list(self._spaces.items())
        ]

    def _expected(self, space_id: int) -> bool:
        """Whether waiting for the space makes sense: it is there, or small and there in a moment."""
        followed = self._spaces.get(space_id)
        if not self._synced or followed is None or followed.index is not None:
            return self._synced
        progress = self._builder.progress.get(space_id)
        return not followed.declined and (progress is None or progress.total < SETTLE_FACES)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            listener = None
            try:
                listener = Listener(self._database, spaces.CHANNEL)
                while not self._stopping.is_set():
                    self._sync()
                    listener.wait(BUSY_POLL_S if self._busy() else POLL_S)
            except (IndexerError, PoolTimeout) as error:
                log.warning("search cache waits for the database: %s", error)
            except Exception:
                log.exception("search cache starts over")
                self._forget()
            finally:
                if listener is not None:
                    listener.close()
            self._stopping.wait(RETRY_S)

    def _sync(self) -> None:
        with self._database.read() as connection:
            epoch = spaces.epoch(connection)
            self._heads = spaces.heads(connection)
        if epoch != self._epoch:
            self._forget()
            self._epoch = epoch
            self._builder.forget_others(set(self._heads))  # whatever a process before us left
        for space_id in self._spaces.keys() - self._heads.keys():
            self._show(self._spaces.pop(space_id), None)
            self._builder.forget_others(set(self._heads))
        for space_id, head in self._heads.items():
            self._attend(space_id, self._spaces.setdefault(space_id, _Followed()), head)
        self._fit()
        self._synced = True

    def _fit(self) -> None:
        """Let go of the largest space when all together have outgrown the memory."""
        held = {s: f.index.bytes for s, f in self._spaces.items() if f.index is not None}
        if sum(held.values()) <= self._memory:
            return
        space_id = max(held, key=lambda s: held[s])
        log.warning("space %d has outgrown the cache's memory; the database answers", space_id)
        followed = self._spaces[space_id]
        followed.declined, followed.not_before = True, time.monotonic() + DECLINED_S
        self._show(followed, None)

    def _attend(self, space_id: int, followed: _Followed, head: Head) -> None:
        """Bring one space up to date, as far as that goes without waiting."""
        if head.engine == "database":
            if not followed.declined:
                self._builder.forget(space_id)
            followed.declined = True
            self._show(followed, None)
            return
        if followed.building is not None and followed.building.done():
            self._adopt(space_id, followed)
        index = followed.index
        if index is not None and not _current(index, head) and not self._catch_up(index):
            self._show(followed, None)
        idle = followed.building is None and time.monotonic() >= followed.not_before
        if idle and not self._stopping.is_set():
            self._build(space_id, followed, head)

    def _adopt(self, space_id: int, followed: _Followed) -> None:
        """Take over what the builder made, once it has caught up."""
        future, followed.building = followed.building, None
        followed.not_before = time.monotonic() + BUILD_RETRY_S
        if future is None:
            return
        try:
            fresh = SpaceIndex(future.result())
        except OverBudget:
            if not followed.declined:
                log.warning(
                    "space %d does not fit the cache's memory; the database answers", space_id
                )
            followed.declined, followed.not_before = True, time.monotonic() + DECLINED_S
            return
        except (OSError, NotFound, Stopped) as error:
            log.info("space %d is settled later: %s", space_id, error)
            return
        except IndexerError as error:
            log.warning("space %d cannot be loaded: %s", space_id, error)
            return
        except Exception:
            log.exception("space %d cannot be loaded", space_id)
            return
        if self._catch_up(fresh):
            followed.declined, followed.not_before = False, 0.0
            followed.built_at, followed.builds = time.monotonic(), followed.builds + 1
            self._show(followed, fresh)

    def _build(self, space_id: int, followed: _Followed, head: Head) -> None:
        """Have a base made if there is none, or if it should be made anew."""
        index = followed.index
        if index is None:
            self._builder.progress.pop(space_id, None)
            memory = self._memory - sum(f.index.bytes for f in self._others(space_id) if f.index)
            followed.building = self._builds.submit(self._builder.load, space_id, memory)
        elif self._unsettled(space_id, index, head):
            plan = Plan(index.mark, head.engine, index.base.rows.dimension, index.views())
            followed.building = self._builds.submit(self._builder.settle, plan)

    def _unsettled(self, space_id: int, index: SpaceIndex, head: Head) -> bool:
        age = time.monotonic() - self._spaces[space_id].built_at
        kept = index.base.mapped or self._builder.keeps(index.faces)
        if index.base.mark.version < self._cleanse.get(space_id, 0) <= index.version:
            return index.faces <= CLEANSE_FACES or age > CLEANSE_S
        if head.engine != index.base.engine:
            return True
        came, gone = index.unsettled, index.dead
        if came > max(SETTLE_FACES, index.faces // TAIL_SHARE):
            return True
        if gone > max(SETTLE_FACES, index.faces // DEAD_SHARE):
            return True
        return bool(came or gone) and age > SNAPSHOT_S and kept

    def _others(self, space_id: int) -> Iterator[_Followed]:
        return (f for other, f in self._spaces.items() if other != space_id)

    def _catch_up(self, index: SpaceIndex) -> bool:
        """Apply what happened since the index's version; False if the log does not tell it all."""
        with self._database.read() as connection:
            mark = self._mark(connection, index.mark)
            if mark is None:
                return False
            if mark == index.mark:
                return True
            space = spaces.get(connection, mark.space_id)
            touched = vectors.touched(connection, space, index.version)
            seen: list[Ids] = []

            def take(some: Vectors) -> None:
                owners = some.owners
                seen.append(owners.faces)
                index.put(owners.faces, owners.galleries, owners.people, some.raw)

            vectors.changed(connection, space, index.version, take)
        index.drop(np.setdiff1d(touched, np.concatenate([np.empty(0, np.int64), *seen])))
        index.reached(mark)
        with self._changed:
            self._changed.notify_all()
        return True

    def _mark(self, connection: ReadConnection, since: Mark) -> Mark | None:
        """The present state; None if it does not follow from the given one."""
        if spaces.epoch(connection) != since.epoch:
            return None
        if not spaces.continues(connection, since.space_id, since.version, since.stamp):
            return None
        space = spaces.get(connection, since.space_id)
        return Mark(space.id, space.version, space.stamp, since.epoch)

    def _show(self, followed: _Followed, index: SpaceIndex | None) -> None:
        with self._changed:
            followed.index = index
            self._changed.notify_all()

    def _forget(self) -> None:
        for followed in self._spaces.values():
            self._show(followed, None)
        self._spaces.clear()

    def _busy(self) -> bool:
        return any(f.building is not None for f in self._spaces.values())


def _current(index: SpaceIndex, head: Head) -> bool:
    return (index.mark.version, index.mark.stamp) == (head.version, head.stamp)


def _state(space_id: int, followed: _Followed, head: Head | None) -> CacheState:
    index = followed.index
    latest = head.version if head else 0
    if index is None:
        return CacheState(space_id, "pgvector", 0, latest, 0, 0, 0, 0, 0, followed.builds)
    return CacheState(
        space_id,
        "faiss-pq4" if index.coded else "faiss-flat",
        index.version,
        max(0, latest - index.version),
        index.faces,
        index.bytes,
        index.base.rows.unit.nbytes if index.base.mapped else 0,
        index.unsettled,
        index.dead,
        followed.builds,
    )
