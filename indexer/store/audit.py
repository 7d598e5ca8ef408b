"""The audit log's rows: appended one after another, each with the hash of the one before in its own.

A hash is SHA-256 over the hash before and the row as JSON with sorted keys; before the first row come 32 zero bytes.
Numbers have no gaps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import cast, insert, or_, select, text
from sqlalchemy.dialects.postgresql import JSONPATH

from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection

BEFORE_ALL = bytes(32)
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('facesearch:audit', 0))")
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class Entry:
    """Who did what, when, in which gallery. `detail` holds numbers of rows, never names, images or embeddings."""

    key: str
    action: str
    gallery: str
    request_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    entry: Entry
    hash: bytes


def append(connection: WriteConnection, entries: Sequence[Entry]) -> None:
    """At the end of a transaction: until it ends, nobody else appends."""
    connection.execute(_LOCK)
    c = t.audit_log.c
    last = connection.execute(select(c.id, c.hash).order_by(c.id.desc()).limit(1)).one_or_none()
    number, before = (0, BEFORE_ALL) if last is None else (last.id, bytes(last.hash))
    rows = []
    for entry in entries:
        number += 1
        before = chained(before, number, entry)
        rows.append({**_values(entry), "id": number, "hash": before})
    if rows:
        connection.execute(insert(t.audit_log), rows)


def chained(before: bytes, number: int, entry: Entry) -> bytes:
    """The hash of a row."""
    told = {**_values(entry), "id": number, "at": entry.at.astimezone(UTC).isoformat()}
    document = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(before + document.encode("utf-8", "surrogatepass")).digest()


def every(connection: ReadConnection, after: int = 0) -> Iterator[Row]:
    """In order, a page at a time."""
    while True:
        page = list(_rows(connection, t.audit_log.c.id > after, newest=False, limit=_PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].id


def latest(connection: ReadConnection, gallery: str | None, limit: int) -> list[Row]:
    """The newest first."""
    where = text("true") if gallery is None else t.audit_log.c.gallery == gallery
    return list(_rows(connection, where, newest=True, limit=limit))


def about(connection: ReadConnection, gallery: str, identity_id: int) -> list[Row]:
    """All entries of the gallery that name the identity, as subject or in a result."""
    path = f"$.identity_id ? (@ == {identity_id:d}), $.results[*][*] ? (@ == {identity_id:d})"
    either = [
        t.audit_log.c.detail.op("@?")(cast(part.strip(), JSONPATH)) for part in path.split(", ")
    ]
    where = (t.audit_log.c.gallery == gallery) & or_(*either)
    return list(_rows(connection, where, newest=False, limit=None))


def _rows(
    connection: ReadConnection,
    where: Any,  # noqa: ANN401 - a condition
    *,
    newest: bool,
    limit: int | None,
) -> Iterator[Row]:
    c = t.audit_log.c
    query = select(c.id, c.key, c.action, c.gallery, c.request_id, c.detail, c.at, c.hash)
    query = query.where(where).order_by(c.id.desc() if newest else c.id).limit(limit)
    for number, key, action, gallery, request_id, detail, at, hashed in connection.execute(query):
        yield Row(number, Entry(key, action, gallery, request_id, detail, at), bytes(hashed))


def _values(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "action": entry.action,
        "gallery": entry.gallery,
        "request_id": entry.request_id,
        "detail": entry.detail,
        "at": entry.at,
    }
