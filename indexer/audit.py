"""Who asked for what: entries of the audit log, and whether anybody has meddled with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from indexer.store import audit as store
from indexer.store.audit import BEFORE_ALL, Entry, Row, chained
from indexer.store.engine import Database, WriteConnection


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the prefix of an API key, or `command`; and the request it came with."""

    key: str
    request_id: str = ""

    def record(self, connection: WriteConnection, action: str, gallery: str, **detail: Any) -> None:  # noqa: ANN401
        """With what it is about, in one transaction; at its end. `detail`: numbers, no names."""
        store.append(connection, [self.entry(action, gallery, **detail)])

    def entry(self, action: str, gallery: str, **detail: Any) -> Entry:  # noqa: ANN401
        return Entry(self.key, action, gallery, self.request_id, detail)


COMMAND = Actor("command")
"""Somebody on the machine itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`broken`: the first row that is not as it was written, or that follows a gap; `head`: the last row's hash."""

    rows: int
    head: str
    broken: int | None = None


def verify(database: Database) -> Verdict:
    """Read the whole chain. That rows at its end are missing shows only against a head that was noted before."""
    with database.read() as connection:
        return checked(store.every(connection))


def checked(rows: Iterable[Row]) -> Verdict:
    before, number = BEFORE_ALL, 0
    for row in rows:
        number += 1
        if row.id != number or chained(before, row.id, row.entry) != row.hash:
            return Verdict(number - 1, before.hex(), row.id)
        before = row.hash
    return Verdict(number, before.hex())
