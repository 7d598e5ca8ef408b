"""Identities: rows, paging, renaming, merging, erasing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from indexer.errors import Conflict, NotFound
from indexer.store import filters
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection
from indexer.store.galleries import clean_name


@dataclass(frozen=True, slots=True)
class Identity:
    id: int
    name: str
    metadata: dict[str, Any]
    created_at: datetime
    images: int
    faces: int


def ensure(connection: WriteConnection, gallery_id: int, names: Iterable[str]) -> dict[str, int]:
    """Ids by cleaned name, made where need be and locked until the commit, in one order for all."""
    wanted = sorted({clean_name(name, "an identity") for name in names})
    rows = [{"gallery_id": gallery_id, "name": name} for name in wanted]
    if rows:
        connection.execute(upsert(t.identity).on_conflict_do_nothing(), rows)
    found = connection.execute(
        select(t.identity.c.name, t.identity.c.id)
        .where(t.identity.c.gallery_id == gallery_id, t.identity.c.name.in_(wanted))
        .order_by(t.identity.c.id)
        .with_for_update(key_share=True)
    ).all()
    if len(found) < len(wanted):
        raise Conflict("an identity was erased at this moment; try again")
    return {row.name: row.id for row in found}


def find(connection: ReadConnection | WriteConnection, gallery_id: int, name: str) -> int:
    """The id of the identity of that name; raises NotFound."""
    found = connection.scalar(
        select(t.identity.c.id).where(
            t.identity.c.gallery_id == gallery_id,
            t.identity.c.name == clean_name(name, "an identity"),
        )
    )
    if found is None:
        raise NotFound("identity", name)
    return int(found)


def get(connection: ReadConnection, gallery_id: int, space_id: int | None, name: str) -> Identity:
    identity_id = find(connection, gallery_id, name)
    return _page(connection, t.identity.c.id == identity_id, space_id, 1)[0]


def page(
    connection: ReadConnection, gallery_id: int, space_id: int | None, *, after: str, limit: int
) -> list[Identity]:
    """Up to `limit` identities by name, those after the name `after`."""
    within = and_(t.identity.c.gallery_id == gallery_id, t.identity.c.name > after)
    return _page(connection, within, space_id, limit)


def select_ids(
    connection: ReadConnection,
    gallery_id: int,
    names: Sequence[str] | None,
    metadata: Mapping[str, Any] | None,
) -> list[int]:
    """Ids of the identities that have one of the names and meet the conditions on the metadata.

    Raises InvalidFilter.
    """
    statement = select(t.identity.c.id).where(t.identity.c.gallery_id == gallery_id)
    if names is not None:
        statement = statement.where(t.identity.c.name.in_(names))
    if metadata:
        statement = statement.where(filters.condition(metadata))
    return list(connection.scalars(statement))


def set_metadata(
    connection: WriteConnection, identity_id: int, metadata: Mapping[str, Any]
) -> None:
    connection.execute(
        update(t.identity).where(t.identity.c.id == identity_id).values(metadata=dict(metadata))
    )


def rename(connection: WriteConnection, gallery_id: int, identity_id: int, name: str) -> None:
    """Raises Conflict if the gallery has another identity of that name."""
    cleaned = clean_name(name, "an identity")
    taken = select(t.identity.c.id).where(
        t.identity.c.gallery_id == gallery_id,
        t.identity.c.name == cleaned,
        t.identity.c.id != identity_id,
    )
    if connection.scalar(select(taken.exists())):
        raise Conflict(f"there is an identity {name!r} already; say merge to join the two")
    connection.execute(
        update(t.identity).where(t.identity.c.id == identity_id).values(name=cleaned)
    )


def merge(connection: WriteConnection, source_id: int, target_id: int) -> None:
    """Give all images of one identity to another and remove it; doubles of the same file go."""
    same = t.image.alias("same")
    doubled = exists().where(
        same.c.identity_id == target_id,
        same.c.sha256 == t.image.c.sha256,
        same.c.state.in_(("ready", "no_face")),
    )
    connection.execute(
        update(t.image)
        .where(t.image.c.identity_id == source_id, t.image.c.state.in_(("unreadable", "duplicate")))
        .values(identity_id=target_id)
    )
    connection.execute(
        update(t.image)
        .where(t.image.c.identity_id == source_id, ~doubled)
        .values(identity_id=target_id)
    )
    connection.execute(delete(t.identity).where(t.identity.c.id == source_id))


def lock(connection: WriteConnection, identity_ids: Sequence[int]) -> None:
    """Keep others from adding to or erasing the identities; in ascending order, so no deadlock."""
    connection.execute(
        select(t.identity.c.id)
        .where(t.identity.c.id.in_(identity_ids))
        .order_by(t.identity.c.id)
        .with_for_update()
    ).all()


def remove(connection: WriteConnection, identity_id: int) -> None:
    """The identity with its images and faces."""
    connection.execute(delete(t.identity).where(t.identity.c.id == identity_id))


def prune(connection: WriteConnection, identity_ids: Sequence[int]) -> int:
    """Remove those of the identities that have no image left; returns how many."""
    if not identity_ids:
        return 0
    has_image = exists().where(t.image.c.identity_id == t.identity.c.id)
    gone = connection.execute(
        delete(t.identity).where(t.identity.c.id.in_(identity_ids), ~has_image)
    )
    return gone.rowcount


def _page(
    connection: ReadConnection, within: ColumnElement[bool], space_id: int | None, limit: int
) -> list[Identity]:
    c = t.identity.c
    images = (
        select(func.count()).where(t.image.c.identity_id == c.id, t.image.c.state == "ready")
    ).scalar_subquery()
    faces = (
        select(func.count())
        .select_from(t.face.join(t.image, t.face.c.image_id == t.image.c.id))
        .where(t.image.c.identity_id == c.id, t.face.c.space_id == space_id)
    ).scalar_subquery()
    rows = connection.execute(
        select(c.id, c.name, c.metadata, c.created_at, images, faces)
        .where(within)
        .order_by(c.name)
        .limit(limit)
    ).all()
    return [Identity(*row) for row in rows]
