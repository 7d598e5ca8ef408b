"""Galleries: rows, counts, and which space each one is searched in."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from indexer.errors import InvalidName, NotFound
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection, vault_of

MAX_NAME = 255
Policy = Literal["accept", "flag", "reject"]
"""What a gallery does with a doubtful photograph: nothing, note what is doubtful, or leave it out."""
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Gallery:
    id: int
    name: str
    active_space_id: int | None
    building_space_id: int | None
    created_at: datetime
    quality: Policy = "accept"
    seal: bytes | None = None
    """Its new spaces are protected by it (`vault`)."""

    @property
    def target_spaces(self) -> tuple[int, ...]:
        """Where a new face must go: the active space, and one being built beside it."""
        found = (self.active_space_id, self.building_space_id)
        return tuple(dict.fromkeys(s for s in found if s is not None))


@dataclass(frozen=True, slots=True)
class Counts:
    identities: int
    images: int
    faces: int
    states: dict[str, int]


def clean_name(name: str, kind: str) -> str:
    """The name in Unicode NFC without surrounding blanks; raises InvalidName if it cannot be used."""
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned or len(cleaned) > MAX_NAME:
        raise InvalidName(f"the name of {kind} must have 1 to {MAX_NAME} characters")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned) or "/" in cleaned:
        raise InvalidName(f"the name of {kind} must not hold control characters or slashes")
    return cleaned


def get(connection: ReadConnection | WriteConnection, name: str) -> Gallery:
    row = connection.execute(_columns().where(t.gallery.c.name == _stored(name))).one_or_none()
    if row is None:
        raise NotFound("gallery", name)
    return Gallery(*row)


def hold(connection: WriteConnection, name: str) -> Gallery:
    """`get`, and nobody switches its space or deletes it before the transaction ends."""
    return _locked(connection, name, share=True)


def lock(connection: WriteConnection, name: str) -> Gallery:
    """`get`, waiting for all writers of the gallery to end and keeping new ones out."""
    return _locked(connection, name, share=False)


def ensure(connection: WriteConnection, name: str) -> Gallery:
    """The gallery of that name, made if need be."""
    cleaned = clean_name(name, "a gallery")
    connection.execute(upsert(t.gallery).values(name=cleaned).on_conflict_do_nothing())
    return hold(connection, cleaned)


def make(connection: WriteConnection, name: str) -> bool:
    """Whether a gallery of that name was made; False if there is one. Raises InvalidName."""
    cleaned = clean_name(name, "a gallery")
    statement = upsert(t.gallery).values(name=cleaned).on_conflict_do_nothing()
    return connection.scalar(statement.returning(t.gallery.c.id)) is not None


def all_galleries(connection: ReadConnection) -> list[Gallery]:
    return [Gallery(*row) for row in connection.execute(_columns().order_by(t.gallery.c.name))]


def set_spaces(
    connection: WriteConnection, gallery_id: int, *, active: int | None, building: int | None
) -> None:
    connection.execute(
        update(t.gallery)
        .where(t.gallery.c.id == gallery_id)
        .values(active_space_id=active, building_space_id=building)
    )


def set_seal(connection: WriteConnection, gallery_id: int, seal: bytes | None) -> None:
    connection.execute(update(t.gallery).where(t.gallery.c.id == gallery_id).values(seal=seal))


def protected(connection: WriteConnection, gallery: Gallery) -> Gallery:
    """The gallery, with a seal if it is still empty, has none, and there is a key."""
    vault = vault_of(connection)
    if gallery.active_space_id is not None or gallery.seal is not None or not vault.on:
        return gallery
    seal = vault.new_seal()
    set_seal(connection, gallery.id, seal)
    return replace(gallery, seal=seal)


def set_quality(connection: WriteConnection, gallery_id: int, policy: Policy) -> None:
    """What was rejected under another policy is forgotten, so that it is looked at again."""
    changed = connection.execute(
        update(t.gallery)
        .where(t.gallery.c.id == gallery_id, t.gallery.c.quality != policy)
        .values(quality=policy)
    )
    if changed.rowcount:
        connection.execute(
            delete(t.image).where(t.image.c.gallery_id == gallery_id, t.image.c.state == "rejected")
        )


def remove(connection: WriteConnection, gallery_id: int) -> None:
    """The gallery with all its identities, images and faces."""
    connection.execute(delete(t.gallery).where(t.gallery.c.id == gallery_id))


def counts(connection: ReadConnection, gallery: Gallery) -> Counts:
    """Faces are those of the active space."""
    of_gallery = t.image.c.gallery_id == gallery.id
    states = {
        row.state: row.n
        for row in connection.execute(
            select(t.image.c.state, func.count().label("n")).where(of_gallery).group_by("state")
        )
    }
    people = select(func.count()).where(t.identity.c.gallery_id == gallery.id)
    faces = select(func.count()).where(
        t.embedding.c.space_id == gallery.active_space_id, t.embedding.c.gallery_id == gallery.id
    )
    return Counts(
        identities=connection.scalar(people) or 0,
        images=sum(states.values()),
        faces=connection.scalar(faces) or 0,
        states=states,
    )


def roots(connection: ReadConnection, gallery_id: int) -> Sequence[str]:
    """The folders that the gallery's images were crawled from."""
    return connection.scalars(
        select(t.image.c.root)
        .where(t.image.c.gallery_id == gallery_id, t.image.c.root.is_not(None))
        .distinct()
        .order_by(t.image.c.root)
    ).all()


def _columns() -> Select[*tuple[Any, ...]]:
    c = t.gallery.c
    return select(
        c.id, c.name, c.active_space_id, c.building_space_id, c.created_at, c.quality, c.seal
    )


def _locked(connection: WriteConnection, name: str, *, share: bool) -> Gallery:
    statement = _columns().where(t.gallery.c.name == _stored(name)).with_for_update(read=share)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound("gallery", name)
    return Gallery(*row)


def _stored(name: str) -> str:
    """How a gallery of that name is stored; raises NotFound for names that no gallery can have."""
    try:
        return clean_name(name, "a gallery")
    except InvalidName as error:
        raise NotFound("gallery", name) from error
