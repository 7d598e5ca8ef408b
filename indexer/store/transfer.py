"""A gallery read from end to end for an export, and rows that come with their own dates for an import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Row, func, insert, select, true, tuple_, update

from indexer.store import spaces
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection, vault_of
from indexer.store.images import ImageRow
from indexer.store.vectors import received

Rows = Sequence[Row[*tuple[Any, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class StoredFace:
    """`landmarks` are ten numbers, NaN for a point that is not known; `vector` is (dimension,) float32."""

    image_id: int
    space_id: int
    box: tuple[float, ...]
    landmarks: tuple[float, ...] | None
    confidence: float
    quality: float
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scope:
    """A gallery, or one person of it."""

    gallery_id: int
    identity_id: int | None = None


def faces_by_space(connection: ReadConnection, scope: Scope) -> dict[int, int]:
    """How many faces there are in each space."""
    e = t.embedding.c
    counted = select(e.space_id, func.count()).where(e.gallery_id == scope.gallery_id)
    if scope.identity_id is not None:
        counted = (
            counted.join_from(t.embedding, t.face, (e.face_id == t.face.c.id))
            .join(t.image, t.face.c.image_id == t.image.c.id)
            .where(t.image.c.identity_id == scope.identity_id)
        )
    rows = connection.execute(counted.group_by(e.space_id).order_by(e.space_id))
    return {row.space_id: row[1] for row in rows}


def _only(column: ColumnElement[int], scope: Scope) -> ColumnElement[bool]:
    return true() if scope.identity_id is None else column == scope.identity_id


def people(connection: ReadConnection, scope: Scope, after: int, limit: int) -> Rows:
    """id, name, metadata, created_at of identities by id."""
    c = t.identity.c
    return connection.execute(
        select(c.id, c.name, c.metadata, c.created_at)
        .where(c.gallery_id == scope.gallery_id, c.id > after, _only(c.id, scope))
        .order_by(c.id)
        .limit(limit)
    ).all()


def photos(connection: ReadConnection, scope: Scope, after: tuple[int, int], limit: int) -> Rows:
    """All columns of images by identity and id, those after (identity id, id); `kept`: whether the file is stored."""
    i = t.image.c
    kept = select(t.original.c.image_id).where(t.original.c.image_id == i.id).exists()
    return connection.execute(
        select(t.image, t.identity.c.name.label("identity"), kept.label("kept"))
        .join_from(t.image, t.identity, i.identity_id == t.identity.c.id)
        .where(
            i.gallery_id == scope.gallery_id,
            tuple_(i.identity_id, i.id) > after,
            _only(i.identity_id, scope),
        )
        .order_by(i.identity_id, i.id)
        .limit(limit)
    ).all()


def outcomes(connection: ReadConnection, image_ids: Sequence[int]) -> Rows:
    """image_id, space_id, state, reason: what came of looking at the images."""
    x = t.extraction.c
    return connection.execute(
        select(x.image_id, x.space_id, x.state, x.reason)
        .where(x.image_id.in_(image_ids))
        .order_by(x.image_id, x.space_id)
    ).all()


def faces(connection: ReadConnection, image_ids: Sequence[int]) -> list[StoredFace]:
    """By image and id. Raises KeyMissing."""
    f, e = t.face.c, t.embedding.c
    rows = connection.execute(
        select(
            f.image_id, f.space_id, f.box, f.landmarks, f.confidence, f.quality,
            func.vector_send(e.vec).label("vec"),
        )
        .join_from(t.face, t.embedding, (e.face_id == f.id) & (e.space_id == f.space_id))
        .where(f.image_id.in_(image_ids))
        .order_by(f.image_id, f.id)
    ).all()  # fmt: skip
    vault = vault_of(connection)
    seals = {s: spaces.seal_of(connection, s) for s in {row.space_id for row in rows}}
    return [
        StoredFace(
            row.image_id,
            row.space_id,
            tuple(row.box),
            None if row.landmarks is None else tuple(row.landmarks),
            row.confidence,
            row.quality,
            vault.show(seals[row.space_id], received(row.vec)),
        )
        for row in rows
    ]


def names(
    connection: ReadConnection | WriteConnection, gallery_id: int, wanted: Iterable[str]
) -> dict[str, int]:
    """Ids of the identities that the gallery has already, by name."""
    c = t.identity.c
    found = connection.execute(
        select(c.name, c.id).where(c.gallery_id == gallery_id, c.name.in_(list(wanted)))
    )
    return {row.name: row.id for row in found}


def contents(
    connection: ReadConnection | WriteConnection, identity_ids: Iterable[int]
) -> set[tuple[int, bytes]]:
    """(identity id, sha256) of the usable images of the identities."""
    i = t.image.c
    found = connection.execute(
        select(i.identity_id, i.sha256).where(
            i.identity_id.in_(list(identity_ids)), i.state.in_(("ready", "no_face"))
        )
    )
    return {(identity_id, bytes(sha256)) for identity_id, sha256 in found}


def places(
    connection: WriteConnection, gallery_id: int, wanted: Sequence[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Those of the (root, locator) that an image of the gallery has."""
    i = t.image.c
    if not wanted:
        return set()
    found = connection.execute(
        select(i.root, i.locator).where(
            i.gallery_id == gallery_id, tuple_(i.root, i.locator).in_(wanted)
        )
    )
    return {(root, locator) for root, locator in found}


def describe(
    connection: WriteConnection,
    identity_id: int,
    metadata: Mapping[str, Any],
    created_at: datetime | None,
) -> None:
    """Let a new identity have what it had elsewhere."""
    values: dict[str, Any] = {"metadata": dict(metadata)}
    if created_at is not None:
        values["created_at"] = created_at
    connection.execute(update(t.identity).where(t.identity.c.id == identity_id).values(values))


def add_photo(connection: WriteConnection, image: ImageRow, created_at: datetime | None) -> int:
    """The new image's id."""
    columns = (
        "gallery_id", "identity_id", "uploaded", "root", "locator", "sha256", "size", "mtime_ns",
        "width", "height", "state", "reason",
    )  # fmt: skip
    values = {name: getattr(image, name) for name in columns}
    values["flags"] = list(image.flags)
    values["source"] = "upload" if image.root is None else "tree"
    if created_at is not None:
        values["created_at"] = created_at
    made = connection.scalar(insert(t.image).values(values).returning(t.image.c.id))
    return int(made or 0)
