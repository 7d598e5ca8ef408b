"""Images, their faces and embeddings."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, case, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from indexer.store import spaces
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection, vault_of
from indexer.store.vectors import received
from recognition.pipeline import Face
from recognition.types import Box, Detection, Points

USABLE = ("ready", "no_face")
"""States of which there is one image of a content to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """What is stored of an image. `root` and `locator` say where a crawled file lies."""

    gallery_id: int
    identity_id: int
    sha256: bytes
    size: int
    state: str
    reason: str | None = None
    root: str | None = None
    locator: str | None = None
    mtime_ns: int | None = None
    width: int | None = None
    height: int | None = None
    uploaded: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A crawled file as the database knows it."""

    id: int
    identity_id: int
    identity: str
    locator: str
    sha256: bytes
    size: int
    mtime_ns: int
    state: str
    uploaded: bool


@dataclass(frozen=True, slots=True)
class Twin:
    """A usable image of the same content."""

    id: int
    gallery_id: int
    root: str | None
    locator: str | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    known: Known
    root: str


@dataclass(frozen=True, slots=True)
class FaceRow:
    id: int
    image_id: int
    box: tuple[float, float, float, float]
    quality: float
    landmarks: Points | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class StoredImage:
    id: int
    identity: str
    source: str
    locator: str | None
    sha256: bytes
    state: str
    reason: str | None
    width: int | None
    height: int | None
    flags: list[str]
    faces: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image's pixels can be read again: a crawled file, or nowhere."""

    image_id: int
    gallery_id: int
    root: str | None
    locator: str | None
    sha256: bytes


def known_files(connection: ReadConnection, gallery_id: int, root: str) -> list[Known]:
    i = t.image.c
    rows = connection.execute(_known().where(i.gallery_id == gallery_id, i.root == root))
    return [Known(*row) for row in rows]


def add(connection: WriteConnection, image: ImageRow) -> int:
    """The new image's id."""
    (made,) = add_all(connection, [image])
    return made


def add_all(connection: WriteConnection, rows: Sequence[ImageRow]) -> list[int]:
    """The new images' ids."""
    if not rows:
        return []
    statement = insert(t.image).returning(t.image.c.id, sort_by_parameter_order=True)
    return [int(i) for i in connection.scalars(statement, [_values(row) for row in rows])]


def owner(connection: WriteConnection, gallery_id: int, image_id: int) -> int | None:
    """The identity of an image of the gallery."""
    return connection.scalar(
        select(t.image.c.identity_id).where(
            t.image.c.id == image_id, t.image.c.gallery_id == gallery_id
        )
    )


def keep_original(connection: WriteConnection, image_id: int, data: bytes) -> None:
    closed = vault_of(connection).close_file(data)
    connection.execute(insert(t.original).values(image_id=image_id, data=closed))


def original(connection: ReadConnection, image_id: int) -> bytes | None:
    """The uploaded file, if it was kept. Raises KeyMissing, BadKey."""
    data = connection.scalar(select(t.original.c.data).where(t.original.c.image_id == image_id))
    return None if data is None else vault_of(connection).open_file(data)


def rewrite_originals(
    connection: WriteConnection, gallery_id: int, after: int, limit: int, *, closed: bool
) -> list[int]:
    """Encrypt some of the gallery's uploads anew, or decrypt them; the images', by id."""
    o, vault = t.original.c, vault_of(connection)
    rows = connection.execute(
        select(o.image_id, o.data)
        .join_from(t.original, t.image, o.image_id == t.image.c.id)
        .where(t.image.c.gallery_id == gallery_id, o.image_id > after)
        .order_by(o.image_id)
        .limit(limit)
        .with_for_update(of=t.original)
    ).all()
    for row in rows:
        data = vault.open_file(row.data)
        data = vault.close_file(data) if closed else data
        connection.execute(update(t.original).where(o.image_id == row.image_id).values(data=data))
    return [row.image_id for row in rows]


def update_image(connection: WriteConnection, image_id: int, values: Mapping[str, Any]) -> None:
    connection.execute(update(t.image).where(t.image.c.id == image_id).values(dict(values)))


def twins(
    connection: WriteConnection, contents: Iterable[tuple[int, bytes]]
) -> dict[tuple[int, bytes], Twin]:
    """The usable images of these contents, by identity and SHA-256."""
    wanted = set(contents)
    i = t.image.c
    rows = connection.execute(
        select(i.identity_id, i.sha256, i.id, i.gallery_id, i.root, i.locator).where(
            i.identity_id.in_({owner for owner, _ in wanted}),
            i.sha256.in_({sha256 for _, sha256 in wanted}),
            i.state.in_(USABLE),
        )
    )
    found = {(row[0], bytes(row[1])): Twin(*row[2:]) for row in rows}
    return {key: twin for key, twin in found.items() if key in wanted}


def with_content(connection: WriteConnection, identity_id: int, sha256: bytes) -> Twin | None:
    """The identity's usable image of that content."""
    return twins(connection, [(identity_id, sha256)]).get((identity_id, sha256))


def elsewhere(connection: ReadConnection, gallery_id: int, root: str) -> list[Elsewhere]:
    """Usable crawled images of the gallery under other roots."""
    i = t.image.c
    rows = connection.execute(
        _known(i.root).where(
            i.gallery_id == gallery_id,
            i.root != root,
            i.state.in_(USABLE),
        )
    )
    return [Elsewhere(Known(*row[:-1]), row[-1]) for row in rows]


def left_copies(connection: ReadConnection, gallery_id: int, root: str) -> list[Known]:
    """Copies of a file of their person that is no longer there, or no longer what it was."""
    i, first = t.image.c, t.image.alias("first")
    kept = select(first.c.id).where(
        first.c.identity_id == i.identity_id,
        first.c.sha256 == i.sha256,
        first.c.state.in_(USABLE),
    )
    rows = connection.execute(
        _known().where(
            i.gallery_id == gallery_id, i.root == root, i.state == "duplicate", ~kept.exists()
        )
    )
    return [Known(*row) for row in rows]


def remove_at(connection: WriteConnection, keep_id: int, root: str, locator: str) -> None:
    """Remove the row of a file whose place another image takes."""
    i = t.image.c
    connection.execute(delete(t.image).where(i.root == root, i.locator == locator, i.id != keep_id))


def record_extractions(
    connection: WriteConnection,
    space_id: int,
    outcomes: Sequence[tuple[int, str]],
    reason: str | None = None,
) -> None:
    """That images ((image id, state)) were looked at in a space, and what came of it."""
    if not outcomes:
        return
    rows = [
        {"space_id": space_id, "image_id": image_id, "state": state, "reason": reason}
        for image_id, state in outcomes
    ]
    statement = upsert(t.extraction)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["space_id", "image_id"],
            set_={"state": statement.excluded.state, "reason": statement.excluded.reason},
        ),
        rows,
    )


def add_faces(
    connection: WriteConnection,
    space_id: int,
    gallery_id: int,
    faces: Sequence[tuple[int, Face]],
) -> list[FaceRow]:
    """Store faces, given as (image id, face), with their embeddings by binary COPY. Raises KeyMissing."""
    if not faces:
        return []
    ids = connection.scalars(
        text("SELECT nextval('face_id_seq') FROM generate_series(1, :n)"), {"n": len(faces)}
    ).all()
    rows = [
        _face_values(face_id, space_id, image_id, face)
        for face_id, (image_id, face) in zip(ids, faces, strict=True)
    ]
    connection.execute(_INSERT_FACES, rows)
    plain = np.stack([face.embedding for _, face in faces])
    vectors = vault_of(connection).hide(spaces.seal_of(connection, space_id), plain)
    _copy_embeddings(connection, space_id, gallery_id, np.asarray(ids, np.int64), vectors)
    return [
        FaceRow(r["id"], r["image_id"], tuple(r["box"]), r["quality"], _points(r["landmarks"]))
        for r in rows
    ]


def faces_of(
    connection: ReadConnection | WriteConnection, within: ColumnElement[bool]
) -> dict[int, list[int]]:
    """Face ids by space of the images that `within` selects."""
    rows = connection.execute(
        select(t.face.c.space_id, t.face.c.id)
        .join_from(t.face, t.image, t.face.c.image_id == t.image.c.id)
        .where(within)
    )
    found: dict[int, list[int]] = {}
    for space_id, face_id in rows:
        found.setdefault(space_id, []).append(face_id)
    return found


def faces_of_image(
    connection: ReadConnection | WriteConnection, image_id: int, space_id: int
) -> list[FaceRow]:
    f = t.face.c
    rows = connection.execute(
        select(f.id, f.image_id, f.box, f.quality, f.landmarks)
        .where(f.image_id == image_id, f.space_id == space_id)
        .order_by(f.id)
    )
    return [FaceRow(r.id, r.image_id, tuple(r.box), r.quality, _points(r.landmarks)) for r in rows]


def of_identity(
    connection: ReadConnection, identity_id: int, space_id: int | None
) -> list[StoredImage]:
    """All images of an identity with the number of their faces in a space."""
    i = t.image.c
    count = (
        select(func.count())
        .select_from(t.face)
        .where(t.face.c.image_id == i.id, t.face.c.space_id == space_id)
    ).scalar_subquery()
    rows: Iterable[Any] = connection.execute(
        select(
            i.id,
            t.identity.c.name,
            i.source,
            i.locator,
            i.sha256,
            i.state,
            i.reason,
            i.width,
            i.height,
            i.flags,
            count,
        )
        .join_from(t.image, t.identity, i.identity_id == t.identity.c.id)
        .where(i.identity_id == identity_id)
        .order_by(i.id)
    )
    return [StoredImage(*row) for row in rows]


def remove_images(connection: WriteConnection, image_ids: Iterable[int]) -> None:
    """The images with their faces and embeddings."""
    connection.execute(delete(t.image).where(t.image.c.id.in_(list(image_ids))))


def pending(
    connection: ReadConnection | WriteConnection,
    gallery_id: int,
    space_id: int,
    limit: int,
    after: int = 0,
) -> list[Source]:
    """Images of the gallery that were not yet looked at in the space, by id, those after that one."""
    i = t.image.c
    rows = connection.execute(
        select(i.id, i.gallery_id, i.root, i.locator, i.sha256)
        .where(*_pending(gallery_id, space_id), i.id > after)
        .order_by(i.id)
        .limit(limit)
    )
    return [Source(*row) for row in rows]


def _pending(gallery_id: int, space_id: int) -> tuple[ColumnElement[bool], ...]:
    i, x = t.image.c, t.extraction.c
    seen = select(x.image_id).where(x.space_id == space_id, x.image_id == i.id).exists()
    return i.gallery_id == gallery_id, i.state.in_(USABLE), ~seen


def count_pending(connection: ReadConnection, gallery_id: int, space_id: int) -> int:
    return connection.scalar(select(func.count()).where(*_pending(gallery_id, space_id))) or 0


def still_there(connection: WriteConnection, image_ids: Sequence[int]) -> set[int]:
    """Those of the images that exist, kept from being erased until the commit."""
    statement = (
        select(t.image.c.id)
        .where(t.image.c.id.in_(image_ids))
        .order_by(t.image.c.id)
        .with_for_update(read=True)
    )
    return set(connection.scalars(statement))


def retry_unavailable(connection: WriteConnection, gallery_id: int, space_id: int) -> None:
    """Let images whose pixels could not be had be tried again."""
    of_gallery = select(t.image.c.id).where(t.image.c.gallery_id == gallery_id)
    connection.execute(
        delete(t.extraction).where(
            t.extraction.c.space_id == space_id,
            t.extraction.c.state.in_(("unavailable", "unreadable")),
            t.extraction.c.image_id.in_(of_gallery),
        )
    )


def losses(connection: ReadConnection, gallery_id: int, space_id: int) -> tuple[int, int]:
    """Of the images with a face: how many could not be looked at in the space, and all."""
    i, x = t.image.c, t.extraction.c
    ready = (i.gallery_id == gallery_id, i.state == "ready")
    total = connection.scalar(select(func.count()).where(*ready)) or 0
    lost = connection.scalar(
        select(func.count())
        .select_from(t.image)
        .join(t.extraction, (x.image_id == i.id) & (x.space_id == space_id))
        .where(*ready, x.state.in_(("unavailable", "unreadable")))
    )
    return lost or 0, total


def take_states(connection: WriteConnection, gallery_id: int, space_id: int) -> None:
    """Let the images' states be what their extraction in the space came to."""
    i, x = t.image.c, t.extraction.c
    connection.execute(
        update(t.image)
        .where(
            i.id == x.image_id,
            x.space_id == space_id,
            i.gallery_id == gallery_id,
            x.state.in_(USABLE),
        )
        .values(state=x.state, reason=case((x.state == "no_face", "no face found")))
    )


def forget_space(connection: WriteConnection, gallery_id: int, space_id: int) -> None:
    """Remove the gallery's faces of one space, and that its images were looked at there."""
    of_gallery = select(t.image.c.id).where(t.image.c.gallery_id == gallery_id)
    connection.execute(
        delete(t.face).where(t.face.c.space_id == space_id, t.face.c.image_id.in_(of_gallery))
    )
    connection.execute(
        delete(t.extraction).where(
            t.extraction.c.space_id == space_id, t.extraction.c.image_id.in_(of_gallery)
        )
    )


def embeddings_of_identity(
    connection: ReadConnection, space_id: int, identity_id: int
) -> NDArray[np.float32]:
    """(n, dimension) float32: all faces of an identity in a space. Raises KeyMissing."""
    rows = connection.scalars(
        select(t.embedding.c.vec)
        .join_from(t.embedding, t.face, t.embedding.c.face_id == t.face.c.id)
        .join(t.image, t.face.c.image_id == t.image.c.id)
        .where(t.embedding.c.space_id == space_id, t.image.c.identity_id == identity_id)
    ).all()
    return _shown(connection, space_id, [np.asarray(row) for row in rows])


def some_of_identity(
    connection: ReadConnection | WriteConnection, space_id: int, identity_id: int, limit: int
) -> NDArray[np.float32]:
    """(n, dimension) float32: the latest faces of an identity in a space, at most `limit`. Raises KeyMissing."""
    rows = connection.scalars(
        select(func.vector_send(t.embedding.c.vec))
        .join_from(t.embedding, t.face, t.embedding.c.face_id == t.face.c.id)
        .join(t.image, t.face.c.image_id == t.image.c.id)
        .where(t.embedding.c.space_id == space_id, t.image.c.identity_id == identity_id)
        .order_by(t.face.c.id.desc())
        .limit(limit)
    ).all()
    return _shown(connection, space_id, [received(row) for row in rows])


def stored_faces(
    connection: ReadConnection | WriteConnection, space: spaces.Space, image_id: int
) -> tuple[Face, ...]:
    """The faces of an image in a space, with their embeddings as the model gave them. Raises KeyMissing."""
    f, e = t.face.c, t.embedding.c
    rows = connection.execute(
        select(f.box, f.landmarks, f.confidence, f.quality, func.vector_send(e.vec).label("vec"))
        .join_from(t.face, t.embedding, (e.face_id == f.id) & (e.space_id == f.space_id))
        .where(f.image_id == image_id, f.space_id == space.id)
        .order_by(f.id)
    ).all()
    vault = vault_of(connection)
    return tuple(
        Face(
            Detection(Box(*row.box), row.confidence, _points(row.landmarks)),
            row.quality,
            vault.show(space.seal, received(row.vec)),
        )
        for row in rows
    )


def _shown(
    connection: ReadConnection | WriteConnection,
    space_id: int,
    rows: Sequence[NDArray[np.float32]],
) -> NDArray[np.float32]:
    if not rows:
        return np.zeros((0, 0), np.float32)
    stored = np.asarray(rows, np.float32)
    return vault_of(connection).show(spaces.seal_of(connection, space_id), stored)


def _known(*more: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    i = t.image.c
    return select(
        i.id, i.identity_id, t.identity.c.name, i.locator, i.sha256, i.size, i.mtime_ns,
        i.state, i.uploaded, *more,
    ).join_from(t.image, t.identity, i.identity_id == t.identity.c.id)  # fmt: skip


_INSERT_FACES = text(
    "INSERT INTO face (id, image_id, space_id, box, landmarks, confidence, quality)"
    " OVERRIDING SYSTEM VALUE"
    " VALUES (:id, :image_id, :space_id, :box, :landmarks, :confidence, :quality)"
)


def _values(image: ImageRow) -> dict[str, Any]:
    names = (
        "gallery_id",
        "identity_id",
        "sha256",
        "size",
        "state",
        "reason",
        "root",
        "locator",
        "mtime_ns",
        "width",
        "height",
        "uploaded",
    )
    values: dict[str, Any] = {name: getattr(image, name) for name in names}
    values["flags"] = list(image.flags)
    return {**values, "source": "upload" if image.root is None else "tree"}


def _face_values(face_id: int, space_id: int, image_id: int, face: Face) -> dict[str, Any]:
    box, points = face.detection.box, face.detection.landmarks
    return {
        "id": face_id,
        "image_id": image_id,
        "space_id": space_id,
        "box": [float(v) for v in (box.x, box.y, box.w, box.h)],
        "landmarks": None if points is None else [float(v) for v in points.ravel()],
        "confidence": float(face.detection.score),
        "quality": float(face.quality),
    }


def _points(values: Sequence[float] | None) -> Points | None:
    return None if values is None else np.asarray(values, np.float32).reshape(-1, 2)


def _copy_embeddings(
    connection: WriteConnection,
    space_id: int,
    gallery_id: int,
    face_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> None:
    data = encode_copy(space_id, gallery_id, face_ids, vectors)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.copy_expert(
            "COPY embedding (space_id, face_id, gallery_id, vec) FROM STDIN (FORMAT binary)",
            io.BytesIO(data),
        )


def encode_copy(
    space_id: int,
    gallery_id: int,
    face_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> bytes:
    """Rows of `embedding` in Postgres's binary COPY format, big-endian, built by numpy at once."""
    n, dim = vectors.shape
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("l1", ">i4"),
            ("space", ">i4"),
            ("l2", ">i4"),
            ("face", ">i8"),
            ("l3", ">i4"),
            ("gallery", ">i8"),
            ("l4", ">i4"),
            ("dim", ">i2"),
            ("unused", ">i2"),
            ("vec", ">f4", (dim,)),
        ]
    )
    rows = np.zeros(n, row)
    rows["fields"], rows["l1"], rows["l2"], rows["l3"] = 4, 4, 8, 8
    rows["l4"], rows["dim"] = 4 + 4 * dim, dim
    rows["space"], rows["gallery"] = space_id, gallery_id
    rows["face"], rows["vec"] = face_ids, vectors
    header = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    return header + rows.tobytes() + b"\xff\xff"
