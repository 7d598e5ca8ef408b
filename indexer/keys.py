"""API keys: made, shown once, found again by their prefix, compared in constant time.

A key is `fs_PREFIX_SECRET`: 8 and 43 characters, the latter 256 random bits, so that a plain SHA-256 is as safe as a
slow hash would be.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from indexer.audit import COMMAND
from indexer.errors import Conflict, NotFound
from indexer.store import keys as store
from indexer.store.engine import Database
from indexer.store.galleries import clean_name
from indexer.store.keys import Key

Scope = Literal["read", "enrol", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each lets do what those before it do."""
MARK = "fs"
_ABC = "abcdefghijkmnopqrstuvwxyz23456789"
_NOTHING = bytes(32)


def allows(held: str, needed: Scope) -> bool:
    return held in SCOPES and SCOPES.index(held) >= SCOPES.index(needed)


def create(
    database: Database,
    name: str,
    scope: Scope,
    galleries: Sequence[str] | None = None,
    lasts: timedelta | None = None,
) -> tuple[str, Key]:
    """The key itself, which nobody can tell again, and its row. `galleries` None: all. Raises InvalidName."""
    prefix = "".join(secrets.choice(_ABC) for _ in range(8))
    token = f"{MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    values = {
        "prefix": prefix,
        "hash": hashed(token),
        "name": clean_name(name, "a key"),
        "scope": scope,
        "galleries": None if galleries is None else [clean_name(g, "a gallery") for g in galleries],
        "expires_at": None if lasts is None else datetime.now(UTC) + lasts,
    }
    with database.write() as connection:
        key = store.add(connection, values)
        COMMAND.record(connection, "key.create", "", prefix=prefix, scope=scope)
        return token, key


def revoke(database: Database, prefix: str) -> Key:
    """It lets nobody in any more; a second time changes nothing. Raises NotFound."""
    with database.write() as connection:
        found = _found(store.find(connection, prefix), prefix)
        if found.revoked_at is not None:
            return found
        key = store.change(connection, prefix, {"revoked_at": datetime.now(UTC)})
        COMMAND.record(connection, "key.revoke", "", prefix=prefix)
        return key


def rotate(database: Database, prefix: str, overlap: timedelta) -> tuple[str, Key]:
    """A new key with the rights of an old one, which ends after `overlap`. Raises NotFound, Conflict."""
    with database.read() as connection:
        old = _found(store.find(connection, prefix), prefix)
    ends = datetime.now(UTC) + overlap
    if old.revoked_at is not None or (old.expires_at and old.expires_at <= datetime.now(UTC)):
        raise Conflict(f"the key {prefix} is no longer valid; create a new one")
    scope = next(known for known in SCOPES if known == old.scope)
    lasts = None if old.expires_at is None else old.expires_at - old.created_at
    made = create(database, old.name, scope, old.galleries, lasts)
    with database.write() as connection:
        store.change(connection, prefix, {"expires_at": min(ends, old.expires_at or ends)})
        COMMAND.record(connection, "key.rotate", "", prefix=prefix, successor=made[1].prefix)
    return made


def hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def matching(token: str, known: Mapping[str, Key]) -> Key | None:
    """The key of those, by prefix, that the token is. As long for a wrong prefix as for a wrong secret."""
    mark, _, rest = token.partition("_")
    found = known.get(rest.partition("_")[0]) if mark == MARK else None
    same = hmac.compare_digest(hashed(token), _NOTHING if found is None else found.hash)
    return found if same else None


def _found(key: Key | None, prefix: str) -> Key:
    if key is None:
        raise NotFound("API key", prefix)
    return key
