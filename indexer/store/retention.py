"""What is to be erased by itself: people whose consent has ended, uploads older than their gallery keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from indexer.store.engine import ReadConnection, WriteConnection

_SET = text(
    "INSERT INTO consent (identity_id, basis, given_at, until) VALUES (:identity, :basis, :given, :until)"
    " ON CONFLICT (identity_id) DO UPDATE"
    " SET basis = excluded.basis, given_at = excluded.given_at, until = excluded.until"
)
_GET = text("SELECT basis, given_at, until FROM consent WHERE identity_id = :identity")
_ENDED = text(
    "SELECT g.name, i.name FROM consent c JOIN identity i ON i.id = c.identity_id"
    " JOIN gallery g ON g.id = i.gallery_id WHERE c.until <= now() ORDER BY c.until LIMIT :limit"
)
_OLD = text(
    "SELECT g.name, m.id FROM image m JOIN gallery g ON g.id = m.gallery_id"
    " WHERE m.uploaded AND m.root IS NULL AND g.retention_days IS NOT NULL"
    " AND m.created_at <= now() - make_interval(days => g.retention_days) ORDER BY m.id LIMIT :limit"
)
_DAYS = text("UPDATE gallery SET retention_days = :days WHERE id = :gallery")
_KEPT = text("SELECT retention_days FROM gallery WHERE id = :gallery")


@dataclass(frozen=True, slots=True)
class Consent:
    """`basis`: what allows to keep a person's face, in the operator's words; `until` None: until further notice."""

    basis: str
    given_at: datetime | None = None
    until: datetime | None = None


def set_consent(connection: WriteConnection, identity_id: int, consent: Consent) -> None:
    values = {"basis": consent.basis, "given": consent.given_at, "until": consent.until}
    connection.execute(_SET, {"identity": identity_id, **values})


def consent_of(connection: ReadConnection | WriteConnection, identity_id: int) -> Consent | None:
    row = connection.execute(_GET, {"identity": identity_id}).one_or_none()
    return None if row is None else Consent(*row)


def ended(connection: ReadConnection, limit: int) -> list[tuple[str, str]]:
    """Gallery and name of people whose consent has ended."""
    return [(row[0], row[1]) for row in connection.execute(_ENDED, {"limit": limit})]


def too_old(connection: ReadConnection, limit: int) -> list[tuple[str, int]]:
    """Gallery and id of uploads past their time. What lies in a folder stays for as long as it lies there."""
    return [(row[0], row[1]) for row in connection.execute(_OLD, {"limit": limit})]


def set_days(connection: WriteConnection, gallery_id: int, days: int | None) -> None:
    connection.execute(_DAYS, {"gallery": gallery_id, "days": days})


def days_of(connection: ReadConnection | WriteConnection, gallery_id: int) -> int | None:
    days: int | None = connection.scalar(_KEPT, {"gallery": gallery_id})
    return days
