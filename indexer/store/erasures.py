"""Erasures as rows: what was erased, by its number; who has a search cache; who has acknowledged."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import text

from indexer.errors import NotFound
from indexer.store.engine import ReadConnection, WriteConnection

Kind = Literal["gallery", "identity", "image"]
LIVE_S = 15
"""A process that has not been seen for so many seconds is not live; nor is one that was seen in the future,
before the clock was put back: who lives is seen again at once."""
KEEP_DAYS = 90
"""How long receipts are kept, and processes that ended without a word."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """`versions`: by space, from which on nothing finds it; `version` is that of the gallery's active space."""

    id: uuid.UUID
    at: datetime
    kind: str
    gallery: str
    subject_id: int
    version: int
    versions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Of a live process: since when it finds nothing, and since when its memory and disk hold nothing."""

    process_id: uuid.UUID
    host: str
    pid: int
    answered_at: datetime | None
    clean_at: datetime | None


_ADD = text(
    "INSERT INTO erasure (kind, gallery, subject_id, version, versions)"
    " VALUES (:kind, :gallery, :subject, :version, CAST(:versions AS jsonb)) RETURNING id"
)
_GET = text(
    "SELECT id, at, kind, gallery, subject_id, version, versions FROM erasure WHERE id = :id"
)
_ACKS = text(
    "SELECT p.id, p.host, p.pid, a.answered_at, a.clean_at FROM cache_process p"
    " LEFT JOIN erasure_ack a ON a.process_id = p.id AND a.erasure_id = :id"
    " WHERE p.seen_at > now() - make_interval(secs => :live)"
    " AND p.seen_at < now() + make_interval(secs => :live) ORDER BY p.started_at, p.id"
)
_PENDING = text(
    "SELECT e.id, e.at, e.kind, e.gallery, e.subject_id, e.version, e.versions FROM erasure e"
    " LEFT JOIN erasure_ack a ON a.erasure_id = e.id AND a.process_id = :process"
    " WHERE a.clean_at IS NULL ORDER BY e.at"
)
_ACK = text(
    "INSERT INTO erasure_ack (erasure_id, process_id, clean_at)"
    " SELECT e.id, :process, CASE WHEN :clean THEN now() END"
    " FROM erasure e JOIN cache_process p ON p.id = :process WHERE e.id = ANY(CAST(:ids AS uuid[]))"
    " ON CONFLICT (erasure_id, process_id) DO UPDATE"
    " SET clean_at = coalesce(erasure_ack.clean_at, excluded.clean_at)"
)
_SEEN = text(
    "INSERT INTO cache_process (id, host, pid) VALUES (:id, :host, :pid)"
    " ON CONFLICT (id) DO UPDATE SET seen_at = now()"
)
_GONE = text("DELETE FROM cache_process WHERE id = :id")
_TRIM = text(
    "WITH old AS (DELETE FROM cache_process WHERE seen_at < now() - make_interval(days => 1))"
    " DELETE FROM erasure WHERE at < now() - make_interval(days => :days)"
)


def add(
    connection: WriteConnection, kind: Kind, gallery: str, subject_id: int, version: int,
    versions: Mapping[int, int],
) -> uuid.UUID:  # fmt: skip
    """The receipt's id."""
    values = {
        "kind": kind, "gallery": gallery, "subject": subject_id, "version": version,
        "versions": json.dumps(versions),
    }  # fmt: skip
    return uuid.UUID(str(connection.execute(_ADD, values).scalar_one()))


def get(connection: ReadConnection, erasure_id: uuid.UUID) -> Erasure:
    """Raises NotFound."""
    row = connection.execute(_GET, {"id": erasure_id}).one_or_none()
    if row is None:
        raise NotFound("erasure", str(erasure_id))
    return _erasure(tuple(row))


def acknowledgements(connection: ReadConnection, erasure_id: uuid.UUID) -> list[Acknowledgement]:
    """Of every live process."""
    rows = connection.execute(_ACKS, {"id": erasure_id, "live": LIVE_S})
    return [Acknowledgement(*row) for row in rows]


def pending(connection: ReadConnection, process_id: uuid.UUID) -> list[Erasure]:
    """What the process has still to acknowledge, or to clean; the oldest first."""
    rows = connection.execute(_PENDING, {"process": process_id})
    return [_erasure(tuple(row)) for row in rows]


def acknowledge(
    connection: WriteConnection, process_id: uuid.UUID, ids: Collection[uuid.UUID], *, clean: bool
) -> None:
    """The process finds none of them any more; `clean`: and holds none."""
    values = {"process": process_id, "ids": [str(i) for i in ids], "clean": clean}
    connection.execute(_ACK, values)


def seen(connection: WriteConnection, process_id: uuid.UUID, host: str, pid: int) -> None:
    connection.execute(_SEEN, {"id": process_id, "host": host, "pid": pid})


def left(connection: WriteConnection, process_id: uuid.UUID) -> None:
    connection.execute(_GONE, {"id": process_id})


def trim(connection: WriteConnection) -> None:
    """Forget what is older than `KEEP_DAYS`, and processes that are long gone."""
    connection.execute(_TRIM, {"days": KEEP_DAYS})


def _erasure(row: tuple[Any, ...]) -> Erasure:
    erasure_id, at, kind, gallery, subject, version, versions = row
    by_space = {int(space): int(each) for space, each in versions.items()}
    return Erasure(erasure_id, at, kind, gallery, subject, version, by_space)
