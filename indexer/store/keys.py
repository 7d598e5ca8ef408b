"""API keys as rows: a prefix that is no secret, and the hash of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update

from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection


@dataclass(frozen=True, slots=True)
class Key:
    """`galleries` None: all. `hash`: SHA-256 of the whole key."""

    prefix: str
    hash: bytes
    name: str
    scope: str
    galleries: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


_COLUMNS = (
    t.api_key.c.prefix, t.api_key.c.hash, t.api_key.c.name, t.api_key.c.scope,
    t.api_key.c.galleries, t.api_key.c.created_at, t.api_key.c.expires_at, t.api_key.c.revoked_at,
)  # fmt: skip
_VALID = t.api_key.c.revoked_at.is_(None) & (
    t.api_key.c.expires_at.is_(None) | (t.api_key.c.expires_at > func.now())
)


def every(connection: ReadConnection) -> list[Key]:
    """All of them, the oldest first."""
    return [_key(row) for row in connection.execute(select(*_COLUMNS).order_by(t.api_key.c.id))]


def valid(connection: ReadConnection) -> list[Key]:
    """Those that let somebody in, by the database's clock. One statement."""
    return [_key(row) for row in connection.execute(select(*_COLUMNS).where(_VALID))]


def find(connection: ReadConnection | WriteConnection, prefix: str) -> Key | None:
    row = connection.execute(select(*_COLUMNS).where(t.api_key.c.prefix == prefix)).one_or_none()
    return None if row is None else _key(row)


def add(connection: WriteConnection, values: dict[str, Any]) -> Key:
    """`values`: prefix, hash, name, scope, galleries, expires_at."""
    return _key(connection.execute(insert(t.api_key).values(values).returning(*_COLUMNS)).one())


def change(connection: WriteConnection, prefix: str, values: dict[str, Any]) -> Key:
    """The key of that prefix, which is there, with other values."""
    query = update(t.api_key).where(t.api_key.c.prefix == prefix).values(values)
    return _key(connection.execute(query.returning(*_COLUMNS)).one())


def _key(row: Any) -> Key:  # noqa: ANN401 - a row
    prefix, hashed, name, scope, galleries, *times = row
    bound = None if galleries is None else tuple(galleries)
    return Key(prefix, bytes(hashed), name, scope, bound, *times)
