"""Writers: each enrols, merges and erases people of its own, and says what it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from sqlalchemy import event, text

from indexer import people
from indexer.errors import DatabaseUnavailable, NotFound
from indexer.settings import Settings
from indexer.store.engine import Database
from tests.freshness.ledger import FaceRecord, Ledger, Operation, Owner
from tests.world import World, enrol

DIMENSION = 128
MOST_AT_ONCE = 3
MOST_OF_ITS_OWN = 1500
PAUSE_S = 0.01
SETTLE_S = 120.0


class Writer(threading.Thread):
    """`silent`: its changes are not announced, so that only the poll can find them."""

    def __init__(
        self, number: int, settings: Settings, world: World, ledger: Ledger, *, silent: bool
    ) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._number = number
        self.silent = silent
        self._world = world
        self._ledger = ledger
        self._database = Database.open(settings)
        if silent:
            event.listen(self._database.engine, "connect", _be_silent)
        self._random = np.random.default_rng(number)
        self._own: list[FaceRecord] = []
        self._stopping = threading.Event()
        self.operations = 0
        self.uncertain = 0
        self.violations: list[str] = []

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:
            self.violations.append(f"{self.name} ended: {error!r}")
        finally:
            self._database.close()

    def _write(self) -> None:
        while not self._stopping.is_set():
            choice = self._random.random()
            few, many = len(self._own) < 2, len(self._own) >= MOST_OF_ITS_OWN
            if few or (choice < 0.5 and not many):
                self._enrol()
            elif choice < 0.75:
                self._erase()
            elif choice < 0.9:
                self._erase_image()
            else:
                self._merge()
            self.operations += 1
            time.sleep(PAUSE_S * self._random.random())

    def _enrol(self) -> None:
        count = int(self._random.integers(1, MOST_AT_ONCE + 1))
        vectors = self._random.normal(size=(count, DIMENSION)).astype(np.float32)
        records = [self._ledger.new(vector) for vector in vectors]
        named = {f"face {record.number}": record.vector for record in records}
        begun = [self._ledger.begin(r, name) for r, name in zip(records, named, strict=True)]
        self._attempt(records, begun, lambda: enrol(self._world, self._database, named))
        self._own += [record for record in records if record.owner is not None]

    def _erase(self) -> None:
        name = self._own[self._random.integers(len(self._own))].owner or ""
        gone = [record for record in self._own if record.owner == name]
        begun = [self._ledger.begin(record, None) for record in gone]
        self._attempt(
            gone,
            begun,
            lambda: people.erase_identity(self._database, self._world.name, name).version,
        )
        self._own = [record for record in self._own if record.owner is not None]

    def _erase_image(self) -> None:
        """One image; others of the person stay, if merging has left any."""
        record = self._own[self._random.integers(len(self._own))]
        begun = [self._ledger.begin(record, None)]
        self._attempt([record], begun, lambda: self._erase_image_of(record))
        self._own = [record for record in self._own if record.owner is not None]

    def _erase_image_of(self, record: FaceRecord) -> int:
        with self._database.read() as connection:
            image = connection.scalar(
                text(
                    "SELECT i.id FROM identity p JOIN image i ON i.identity_id = p.id"
                    " JOIN face f ON f.image_id = i.id JOIN embedding e ON e.face_id = f.id"
                    " WHERE p.gallery_id = :g AND p.name = :name AND e.space_id = :s"
                    " AND substr(vector_send(e.vec), 5) = :vector"
                ),
                {
                    "g": self._world.gallery, "s": self._world.space.id, "name": record.owner,
                    "vector": record.vector.astype(">f4").tobytes(),
                },
            )  # fmt: skip
        if image is None:
            raise NotFound("image of face", record.number)
        return people.erase_image(self._database, self._world.name, int(image)).version

    def _merge(self) -> None:
        names = sorted({record.owner or "" for record in self._own})
        if len(names) < 2:
            return
        source, target = self._random.choice(names, 2, replace=False)
        moved = [record for record in self._own if record.owner == source]
        begun = [self._ledger.begin(record, str(target)) for record in moved]
        self._attempt(moved, begun, lambda: self._join(str(source), str(target)))

    def _join(self, source: str, target: str) -> int:
        return people.change_identity(
            self._database,
            self._world.name,
            source,
            people.Change(name=target, metadata=None, merge=True),
        )

    def _attempt(
        self, records: list[FaceRecord], begun: list[Operation], work: Callable[[], int]
    ) -> None:
        """One transaction; where its outcome is not known the database is asked for it.

        Any other error ends the writer: nobody else touches its people.
        """
        try:
            version = work()
        except DatabaseUnavailable:
            self.uncertain += 1
            self._settle(records, begun)
            return
        for operation in begun:
            self._ledger.done(operation, version)

    def _settle(self, records: list[FaceRecord], begun: list[Operation]) -> None:
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                owners, version = self._look(records)
                break
            except DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        for record, operation in zip(records, begun, strict=True):
            if owners[record.number] == operation.owner:
                self._ledger.done(operation, version)
            else:
                self._ledger.lost(operation)

    def _look(self, records: list[FaceRecord]) -> tuple[dict[int, Owner], int]:
        stored = owners_in_database(self._database, self._world)
        with self._database.read() as connection:
            version = connection.scalar(
                text("SELECT version FROM space WHERE id = :s"), {"s": self._world.space.id}
            )
        return {r.number: stored.get(fingerprint(r.vector)) for r in records}, int(version or 0)


def fingerprint(vector: np.ndarray) -> bytes:
    return np.asarray(vector, np.float32).tobytes()


def owners_in_database(database: Database, world: World) -> dict[bytes, Owner]:
    """Name of the owner by embedding, of everything that the gallery holds."""
    with database.read() as connection:
        rows = connection.execute(
            text(
                "SELECT p.name, vector_send(e.vec) AS vec FROM embedding e"
                " JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id"
                " JOIN identity p ON p.id = i.identity_id"
                " WHERE e.space_id = :s AND e.gallery_id = :g"
            ),
            {"s": world.space.id, "g": world.gallery},
        ).all()
    return {fingerprint(np.frombuffer(row.vec, ">f4", offset=4)): row.name for row in rows}


def _be_silent(connection: object, _record: object) -> None:
    """Notifications of this connection go nowhere: another function of that name is found first."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("SET search_path = silent, pg_catalog, public")
    cursor.close()
    connection.commit()  # type: ignore[attr-defined]


SILENT = (
    "CREATE SCHEMA IF NOT EXISTS silent;"
    "CREATE OR REPLACE FUNCTION silent.pg_notify(text, text) RETURNS void"
    " LANGUAGE sql AS 'SELECT'"
)
