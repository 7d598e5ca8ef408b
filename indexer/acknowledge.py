"""Each process with a search cache says which erasures it has carried out, in a thread of its own.

It *answers* without the erased as soon as its index is at the erasure's version, a moment after the commit. It is
*clean* when the base of its index was made after that: then neither its memory nor its snapshot on disk holds them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence

from indexer.cache.follower import SearchCache
from indexer.errors import IndexerError
from indexer.store import erasures, spaces
from indexer.store.engine import Database, Listener, WriteConnection
from indexer.store.erasures import Erasure

log = logging.getLogger(__name__)

BEAT_S = 5.0
POLL_S = 0.02
"""Between looks at the cache while it has not caught up with an erasure."""
CLEAN_POLL_S = 0.5
RETRY_S = 1.0


class Acknowledger:
    """`start` it when the database is prepared, `close` it before the cache."""

    def __init__(self, database: Database, cache: SearchCache | None) -> None:
        """Without a cache every answer is the database's, and there is nothing to wait for."""
        self.id = uuid.uuid4()
        self._database = database
        self._cache = cache
        self._stopping = threading.Event()
        self._beaten = 0.0
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout=BEAT_S + RETRY_S)
        try:
            with self._database.write() as connection:
                erasures.left(connection, self.id)
        except IndexerError as error:
            log.info("the process is not signed off: %s", error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            listener = None
            try:
                self._beat()
                listener = Listener(self._database, spaces.CHANNEL)
                while not self._stopping.is_set():
                    listener.wait(self._look())
                    self._beat()
            except IndexerError as error:
                log.info("erasures wait for the database: %s", error)
            except Exception:
                log.exception("erasures are acknowledged later")
            finally:
                if listener is not None:
                    listener.close()
            self._stopping.wait(RETRY_S)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten >= BEAT_S:
            with self._database.write() as connection:
                erasures.seen(connection, self.id, socket.gethostname(), os.getpid())
            self._beaten = time.monotonic()

    def _look(self) -> float:
        """Acknowledge what can be; the seconds until the next look."""
        with self._database.read() as connection:
            pending = erasures.pending(connection, self.id)
        if not pending:
            return BEAT_S
        answered = [erasure for erasure in pending if self._answers(erasure)]
        clean = [erasure for erasure in answered if self._clean(erasure)]
        done = {erasure.id for erasure in clean}
        waiting = [erasure for erasure in answered if erasure.id not in done]
        if answered:
            with self._database.write() as connection:
                self._tell(connection, clean, clean=True)
                self._tell(connection, waiting, clean=False)
        if len(answered) < len(pending):
            return POLL_S
        return CLEAN_POLL_S if waiting else BEAT_S

    def _tell(self, connection: WriteConnection, told: Sequence[Erasure], *, clean: bool) -> None:
        if told:
            ids = [erasure.id for erasure in told]
            erasures.acknowledge(connection, self.id, ids, clean=clean)

    def _answers(self, erasure: Erasure) -> bool:
        return self._cache is None or all(
            self._cache.answers_from(space, version) for space, version in erasure.versions.items()
        )

    def _clean(self, erasure: Erasure) -> bool:
        if self._cache is None:
            return True
        told = [self._cache.cleanse(space, at) for space, at in erasure.versions.items()]
        return all(told)  # each is told, whether another one is clean or not
