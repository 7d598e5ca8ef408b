"""Changing and erasing what is stored: each call is one transaction and answers with a version.

An erasure leaves a receipt, which the search caches acknowledge (`indexer.acknowledge`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement

from indexer.audit import COMMAND, Actor
from indexer.errors import NotFound
from indexer.store import erasures, galleries, identities, images, jobs, spaces
from indexer.store import tables as t
from indexer.store.engine import Database, WriteConnection
from indexer.store.galleries import Gallery


@dataclass(frozen=True, slots=True)
class Receipt:
    """`version`: of the gallery's active space, from which on no search finds what was erased."""

    erasure_id: uuid.UUID
    version: int


def erase_gallery(database: Database, gallery: str, by: Actor = COMMAND) -> Receipt:
    """Erase a gallery with all it holds."""
    with database.write() as connection:
        held = galleries.lock(connection, gallery)
        gone = _deletions(connection, t.image.c.gallery_id == held.id)
        galleries.remove(connection, held.id)
        jobs.scrub(connection, held.name, None)
        return _erased(connection, held, gone, ("gallery", held.id), by)


def erase_identity(database: Database, gallery: str, identity: str, by: Actor = COMMAND) -> Receipt:
    """Erase a person: rows, faces, embeddings, kept files, what jobs say of them."""
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        identity_id = identities.find(connection, held.id, identity)
        identities.lock(connection, [identity_id])
        gone = _deletions(connection, t.image.c.identity_id == identity_id)
        identities.remove(connection, identity_id)
        jobs.scrub(connection, held.name, galleries.clean_name(identity, "an identity"))
        return _erased(connection, held, gone, ("identity", identity_id), by)


def erase_image(database: Database, gallery: str, image_id: int, by: Actor = COMMAND) -> Receipt:
    """Erase one image; its identity goes too when it was the last."""
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        owner = images.owner(connection, held.id, image_id)
        if owner is None:
            raise NotFound("image", image_id)
        identities.lock(connection, [owner])
        gone = _deletions(connection, t.image.c.id == image_id)
        images.remove_images(connection, [image_id])
        identities.prune(connection, [owner])
        return _erased(connection, held, gone, ("image", image_id), by)


@dataclass(frozen=True, slots=True)
class Change:
    """A new name, other metadata; with `merge`, into the identity that has the name already."""

    name: str | None = None
    metadata: Mapping[str, Any] | None = None
    merge: bool = False


def change_identity(
    database: Database, gallery: str, identity: str, change: Change, by: Actor = COMMAND
) -> int:
    """Rename, set metadata, or merge; returns the version.

    Raises NotFound, InvalidName, and Conflict when the name is taken and `merge` is not asked for.
    """
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        identity_id = identities.find(connection, held.id, identity)
        touched = _change(connection, held, (identity_id, identity), change)
        version = _publish(connection, held, touched)
        by.record(
            connection, "identity.merge" if touched else "identity.change", held.name,
            identity_id=identity_id, version=version,
        )  # fmt: skip
        return version


def _change(
    connection: WriteConnection, held: Gallery, known: tuple[int, str], change: Change
) -> dict[int, list[tuple[int, str]]]:
    """What followers must be told; nothing but for a merge."""
    identity_id, present = known
    if change.metadata is not None:
        identities.set_metadata(connection, identity_id, change.metadata)
    if change.name is None or galleries.clean_name(change.name, "an identity") == present:
        return {}
    if not change.merge:
        identities.rename(connection, held.id, identity_id, change.name)
        return {}
    target = identities.find(connection, held.id, change.name)
    identities.lock(connection, [identity_id, target])
    faces = images.faces_of(connection, t.image.c.identity_id == identity_id)
    identities.merge(connection, identity_id, target)
    return {s: [(f, "I") for f in ids] for s, ids in faces.items()}


def _erased(
    connection: WriteConnection,
    held: Gallery,
    gone: Mapping[int, list[tuple[int, str]]],
    what: tuple[erasures.Kind, int],
    by: Actor,
) -> Receipt:
    """Publish the deletions, leave the receipt and the entry in the audit log."""
    published = spaces.publish(connection, gone)
    version = _version(connection, held, published)
    kind, subject = what
    erasure_id = erasures.add(connection, kind, held.name, subject, version, published)
    told = {f"{kind}_id": subject, "version": version, "erasure_id": str(erasure_id)}
    by.record(connection, f"{kind}.erase", held.name, **told)
    return Receipt(erasure_id, version)


def _deletions(
    connection: WriteConnection, within: ColumnElement[bool]
) -> dict[int, list[tuple[int, str]]]:
    found = images.faces_of(connection, within)
    return {space: [(face, "D") for face in faces] for space, faces in found.items()}


def _publish(
    connection: WriteConnection, gallery: Gallery, changes: Mapping[int, list[tuple[int, str]]]
) -> int:
    """The active space's version after the changes, or its present one if they are elsewhere."""
    return _version(connection, gallery, spaces.publish(connection, changes))


def _version(connection: WriteConnection, gallery: Gallery, published: Mapping[int, int]) -> int:
    if gallery.active_space_id is None:
        return 0
    if gallery.active_space_id in published:
        return published[gallery.active_space_id]
    return spaces.get(connection, gallery.active_space_id).version
