"""Changing and erasing what is stored: each call is one transaction and answers with a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement

from indexer.errors import NotFound
from indexer.store import galleries, identities, images, spaces
from indexer.store import tables as t
from indexer.store.engine import Database, WriteConnection
from indexer.store.galleries import Gallery


def erase_gallery(database: Database, gallery: str) -> int:
    """Erase a gallery with all it holds; returns the version from which no search finds it."""
    with database.write() as connection:
        held = galleries.lock(connection, gallery)
        gone = _deletions(connection, t.image.c.gallery_id == held.id)
        galleries.remove(connection, held.id)
        return _publish(connection, held, gone)


def erase_identity(database: Database, gallery: str, identity: str) -> int:
    """Erase a person: rows, faces, embeddings; returns the version."""
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        identity_id = identities.find(connection, held.id, identity)
        identities.lock(connection, [identity_id])
        gone = _deletions(connection, t.image.c.identity_id == identity_id)
        identities.remove(connection, identity_id)
        return _publish(connection, held, gone)


def erase_image(database: Database, gallery: str, image_id: int) -> int:
    """Erase one image; its identity goes too when it was the last. Returns the version."""
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        owner = images.owner(connection, held.id, image_id)
        if owner is None:
            raise NotFound("image", image_id)
        identities.lock(connection, [owner])
        gone = _deletions(connection, t.image.c.id == image_id)
        images.remove_images(connection, [image_id])
        identities.prune(connection, [owner])
        return _publish(connection, held, gone)


def change_identity(
    database: Database,
    gallery: str,
    identity: str,
    *,
    name: str | None,
    metadata: Mapping[str, Any] | None,
    merge: bool,
) -> int:
    """Rename, set metadata, or merge into the identity called `name`; returns the version.

    Raises NotFound, InvalidName, and Conflict when `name` is taken and `merge` is not asked for.
    """
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        identity_id = identities.find(connection, held.id, identity)
        if metadata is not None:
            identities.set_metadata(connection, identity_id, metadata)
        if name is None or galleries.clean_name(name, "an identity") == identity:
            return _publish(connection, held, {})
        if not merge:
            identities.rename(connection, held.id, identity_id, name)
            return _publish(connection, held, {})
        target = identities.find(connection, held.id, name)
        identities.lock(connection, [identity_id, target])
        faces = images.faces_of(connection, t.image.c.identity_id == identity_id)
        identities.merge(connection, identity_id, target)
        touched = {s: [(f, "I") for f in ids] for s, ids in faces.items()}
        return _publish(connection, held, touched)


def _deletions(
    connection: WriteConnection, within: ColumnElement[bool]
) -> dict[int, list[tuple[int, str]]]:
    found = images.faces_of(connection, within)
    return {space: [(face, "D") for face in faces] for space, faces in found.items()}


def _publish(
    connection: WriteConnection, gallery: Gallery, changes: Mapping[int, list[tuple[int, str]]]
) -> int:
    """The active space's version after the changes, or its present one if they are elsewhere."""
    published = spaces.publish(connection, changes)
    if gallery.active_space_id is None:
        return 0
    if gallery.active_space_id in published:
        return published[gallery.active_space_id]
    return spaces.get(connection, gallery.active_space_id).version
