"""What an answer says of the faces that were found, as the database has them at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from indexer.store.engine import ReadConnection


@dataclass(frozen=True, slots=True)
class FaceDetails:
    identity_id: int
    identity: str
    metadata: dict[str, Any]
    image_id: int
    image: str | None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """By face id, without those that are gone; `version` is the space's at that moment."""

    version: int
    faces: dict[int, FaceDetails]


_CONFIRM = text(
    "SELECT s.version, found.* FROM gallery g JOIN space s ON s.id = g.active_space_id"
    " LEFT JOIN LATERAL ("
    "  SELECT f.id, p.id, p.name, p.metadata, i.id, i.locator"
    "  FROM face f JOIN image i ON i.id = f.image_id JOIN identity p ON p.id = i.identity_id"
    "  WHERE f.id = ANY(:faces) AND i.gallery_id = g.id AND f.space_id = s.id"
    " ) AS found(face_id, identity_id, identity, metadata, image_id, image) ON true"
    " WHERE g.id = :gallery AND s.id = :space"
)


def confirm(
    connection: ReadConnection, gallery_id: int, space_id: int, face_ids: Sequence[int]
) -> Confirmed | None:
    """One statement; None if the gallery is gone or is searched in another space by now."""
    rows = connection.execute(
        _CONFIRM, {"gallery": gallery_id, "space": space_id, "faces": list(face_ids)}
    ).all()
    if not rows:
        return None
    faces = {row[1]: FaceDetails(*row[2:]) for row in rows if row[1] is not None}
    return Confirmed(rows[0][0], faces)
