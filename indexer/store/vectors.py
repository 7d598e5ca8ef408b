"""Reading embeddings for the search cache: all of a space, or those that changed; by binary COPY.

They are as they are stored: those of a protected gallery turned (`vault`), which changes no distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from indexer.store.engine import ReadConnection, vault_of
from indexer.store.spaces import Space
from recognition.types import Embeddings

Ids = NDArray[np.int64]
Take = Callable[["Vectors"], None]

CHUNK_BYTES = 8 * 2**20
_HEADER_BYTES = 19
_FIELD_COUNT = ("fields", ">i2")


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Whose the faces of a space are, row by row, in no order."""

    faces: Ids
    galleries: Ids
    people: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Some faces with what they belong to; `raw` is (n, dimension) float32, not normalised."""

    owners: Owners
    raw: Embeddings


_OWNED = (
    "FROM embedding e JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id"
    " WHERE e.space_id = {space}"
)
_CHANGED = "FROM change_log WHERE space_id = {space} AND version > {version}"


def owners(connection: ReadConnection, space: Space) -> Owners:
    """Of all faces of the space."""
    found: list[NDArray[np.void]] = []
    row = _row("face", "gallery", "person")
    query = "SELECT e.face_id, e.gallery_id, i.identity_id " + _of(_OWNED, space)
    _copy(connection, query, row, found.append)
    return _owners(_joined(found, row))


def each(connection: ReadConnection, space: Space, take: Callable[[Ids, Embeddings], None]) -> None:
    """All embeddings of the space, in chunks: ids of faces and raw vectors."""

    def told(rows: NDArray[np.void]) -> None:
        take(rows["face"].astype(np.int64), rows["vec"].astype(np.float32))

    query = "SELECT face_id, vec " + _of("FROM embedding WHERE space_id = {space}", space)
    _copy(connection, query, _row("face", dimension=space.dimension), told)


def of_gallery(
    connection: ReadConnection,
    space: Space,
    gallery_id: int,
    take: Callable[[Ids, Ids, Ids, Embeddings], None],
) -> None:
    """All embeddings of a gallery, in chunks: ids of faces, images and people, and raw vectors."""

    def told(rows: NDArray[np.void]) -> None:
        ids = [rows[name].astype(np.int64) for name in ("face", "image", "person")]
        take(ids[0], ids[1], ids[2], rows["vec"].astype(np.float32))

    query = "SELECT e.face_id, i.id, i.identity_id, e.vec " + _of(_OWNED, space)
    query += f" AND e.gallery_id = {int(gallery_id)}"
    _copy(connection, query, _row("face", "image", "person", dimension=space.dimension), told)


def touched(connection: ReadConnection, space: Space, after: int) -> Ids:
    """Ids of the faces that changed after that version."""
    found: list[NDArray[np.void]] = []
    row = _row("face")
    query = "SELECT DISTINCT face_id " + _of(_CHANGED, space, after)
    _copy(connection, query, row, found.append)
    return _joined(found, row)["face"].astype(np.int64)


def changed(connection: ReadConnection, space: Space, after: int, take: Take) -> None:
    """Those of the faces that changed after the version which (still) exist, in chunks."""

    def told(rows: NDArray[np.void]) -> None:
        take(Vectors(_owners(rows), rows["vec"].astype(np.float32)))

    query = "SELECT e.face_id, e.gallery_id, i.identity_id, e.vec " + _of(_OWNED, space)
    query += f" AND e.face_id IN (SELECT face_id {_of(_CHANGED, space, after)})"
    row = _row("face", "gallery", "person", dimension=space.dimension)
    _copy(connection, query, row, told)


def received(sent: bytes) -> Embeddings:
    """(dimension,) float32 of what pgvector's vector_send gives."""
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)


def sample(
    connection: ReadConnection, space: Space, gallery_id: int, count: int
) -> tuple[list[tuple[int, Embeddings]], int]:
    """Some people of a gallery with one raw embedding (dimension,) each, and how many there are. Raises KeyMissing."""
    rows = connection.execute(
        _SAMPLE, {"space": space.id, "gallery": gallery_id, "count": count}
    ).all()
    people = connection.scalar(
        text("SELECT count(*) FROM identity WHERE gallery_id = :gallery"), {"gallery": gallery_id}
    )
    vault = vault_of(connection)
    found = [(int(row.id), vault.show(space.seal, received(row.vec))) for row in rows]
    return found, int(people or 0)


_SAMPLE = text(
    "SELECT p.id, one.vec FROM (SELECT id FROM identity WHERE gallery_id = :gallery"
    " ORDER BY random() LIMIT :count) AS p CROSS JOIN LATERAL ("
    "  SELECT vector_send(e.vec) AS vec FROM image i JOIN face f ON f.image_id = i.id"
    "  JOIN embedding e ON e.face_id = f.id AND e.space_id = f.space_id"
    "  WHERE i.identity_id = p.id AND f.space_id = :space LIMIT 1) AS one"
)


def _of(source: str, space: Space, after: int = 0) -> str:
    """COPY takes no parameters; whole numbers need none."""
    return source.format(space=int(space.id), version=int(after))


def _row(*ids: str, dimension: int = 0) -> np.dtype[np.void]:
    """A row of the binary format: each field behind its length."""
    fields: list[Any] = [_FIELD_COUNT]
    for name in ids:
        fields += [(f"length of {name}", ">i4"), (name, ">i8")]
    if dimension:
        fields += [
            ("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("vec", ">f4", (dimension,)),
        ]  # fmt: skip
    return np.dtype(fields)


def _owners(rows: NDArray[np.void]) -> Owners:
    return Owners(*(rows[name].astype(np.int64) for name in ("face", "gallery", "person")))


def _joined(found: list[NDArray[np.void]], row: np.dtype[np.void]) -> NDArray[np.void]:
    return np.concatenate(found) if found else np.empty(0, row)


class _Sink:
    """What COPY writes into: hands on whole rows, many at a time."""

    def __init__(self, row: np.dtype[np.void], take: Callable[[NDArray[np.void]], None]) -> None:
        self._row = row
        self._take = take
        self._held = bytearray()
        self._skip = _HEADER_BYTES

    def write(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._skip:
            del self._held[: self._skip]
            self._skip = 0
        count = len(self._held) // self._row.itemsize
        if count:
            used = count * self._row.itemsize
            self._take(np.frombuffer(bytes(self._held[:used]), self._row))
            del self._held[:used]


def _copy(
    connection: ReadConnection,
    query: str,
    row: np.dtype[np.void],
    take: Callable[[NDArray[np.void]], None],
) -> None:
    """Within the caller's snapshot. The trailer is shorter than any row, so it is left over."""
    driver: Any = connection.connection.driver_connection
    sink = _Sink(row, take)
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", sink)
    sink.flush()
