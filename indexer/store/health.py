"""What a report on a gallery's health says of people and images, by their ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, func, select, text

from indexer.store import tables as t
from indexer.store.engine import ReadConnection

Rows = dict[int, Row[*tuple[Any, ...]]]


def faces(connection: ReadConnection, gallery_id: int, space_id: int) -> int:
    return (
        connection.scalar(
            select(func.count()).where(
                t.embedding.c.space_id == space_id, t.embedding.c.gallery_id == gallery_id
            )
        )
        or 0
    )


def people(connection: ReadConnection, ids: Iterable[int]) -> Rows:
    """id, name, and the number of usable images, by id."""
    p = t.identity.c
    images = (
        select(func.count()).where(t.image.c.identity_id == p.id, t.image.c.state == "ready")
    ).scalar_subquery()
    found = connection.execute(select(p.id, p.name, images).where(p.id.in_(list(set(ids)))))
    return {row.id: row for row in found}


def images(connection: ReadConnection, ids: Iterable[int]) -> Rows:
    """id, identity_id, identity, locator, by id."""
    i = t.image.c
    found = connection.execute(
        select(i.id, i.identity_id, t.identity.c.name.label("identity"), i.locator)
        .join_from(t.image, t.identity, i.identity_id == t.identity.c.id)
        .where(i.id.in_(list(set(ids))))
    )
    return {row.id: row for row in found}


def faceless(connection: ReadConnection, gallery_id: int, limit: int) -> tuple[int, list[Any]]:
    """How many people have no usable image, and some of them: name, and images by state."""
    rows = connection.execute(_FACELESS, {"gallery": gallery_id, "limit": limit}).all()
    return (rows[0].total if rows else 0), list(rows)


_FACELESS = text(
    "SELECT p.name, count(*) FILTER (WHERE i.state = 'no_face') AS no_face,"
    " count(*) FILTER (WHERE i.state = 'unreadable') AS unreadable,"
    " count(*) OVER () AS total"
    " FROM identity p LEFT JOIN image i ON i.identity_id = p.id WHERE p.gallery_id = :gallery"
    " GROUP BY p.id HAVING count(*) FILTER (WHERE i.state = 'ready') = 0"
    " ORDER BY p.name LIMIT :limit"
)
