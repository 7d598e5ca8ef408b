"""Reading embeddings: all of a space for the cache, the changed ones, and the search in SQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ColumnElement, cast, func, literal_column, select, text

from indexer.store import tables as t
from indexer.store.engine import ReadConnection
from indexer.store.spaces import Space
from recognition.types import Metric

COPY_ROWS = 16384


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Embeddings with what they belong to, row by row; `rows` is (n, dimension) float32, raw."""

    face_ids: NDArray[np.int64]
    gallery_ids: NDArray[np.int64]
    identity_ids: NDArray[np.int64]
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored face near a probe."""

    face_id: int
    identity_id: int
    distance: float


@dataclass(frozen=True, slots=True)
class Scope:
    """The faces that a search looks at: a gallery's in a space, of some identities or of all."""

    space: Space
    gallery_id: int
    identity_ids: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class FaceDetails:
    """What an answer says of a stored face."""

    identity_id: int
    identity: str
    metadata: dict[str, Any]
    image_id: int
    image: str | None


_ROW_HEAD = (
    ("fields", ">i2"),
    ("l1", ">i4"),
    ("face", ">i8"),
    ("l2", ">i4"),
    ("gallery", ">i8"),
    ("l3", ">i4"),
    ("identity", ">i8"),
    ("l4", ">i4"),
    ("dim", ">i2"),
    ("unused", ">i2"),
)
_HEADER_BYTES = 19


def load_all(connection: ReadConnection, space: Space) -> Iterator[Vectors]:
    """Every embedding of the space in blocks, by binary COPY, within the caller's snapshot."""
    row = np.dtype([*_ROW_HEAD, ("vec", ">f4", (space.dimension,))])
    selection = (
        "SELECT e.face_id, e.gallery_id, i.identity_id, e.vec FROM embedding e"
        " JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id"
    )
    within = f"WHERE e.space_id = {int(space.id)}"  # COPY takes no parameters
    statement = f"COPY ({selection} {within}) TO STDOUT (FORMAT binary)"
    driver: Any = connection.connection.driver_connection
    with tempfile.TemporaryFile() as spool:
        with driver.cursor() as cursor:
            cursor.copy_expert(statement, spool)
        spool.seek(_HEADER_BYTES)
        while True:
            data = spool.read(COPY_ROWS * row.itemsize)
            whole = len(data) // row.itemsize
            if whole == 0:
                return
            yield _vectors(np.frombuffer(data, row, count=whole))


def load_some(connection: ReadConnection, space: Space, face_ids: Sequence[int]) -> Vectors:
    """Those of the faces that (still) exist in the space."""
    rows = connection.execute(
        text(
            "SELECT e.face_id, e.gallery_id, i.identity_id, vector_send(e.vec) AS vec"
            " FROM embedding e JOIN face f ON f.id = e.face_id JOIN image i ON i.id = f.image_id"
            " WHERE e.space_id = :space AND e.face_id = ANY(:ids)"
        ),
        {"space": space.id, "ids": list(face_ids)},
    ).all()
    vectors = np.empty((len(rows), space.dimension), np.float32)
    for n, found in enumerate(rows):
        vectors[n] = np.frombuffer(found.vec, ">f4", offset=4)
    columns = np.asarray([(r.face_id, r.gallery_id, r.identity_id) for r in rows], np.int64)
    columns = columns.reshape(-1, 3)
    return Vectors(columns[:, 0], columns[:, 1], columns[:, 2], vectors)


def nearest(
    connection: ReadConnection,
    scope: Scope,
    probe: NDArray[np.float32],
    metric: Metric,
    limit: int,
) -> list[Candidate]:
    """The nearest faces by an exact scan of the scope's rows: filters lose nothing.

    `distance` is the cosine distance, or the Euclidean one when `metric` is euclidean.
    """
    vector = cast(t.embedding.c.vec, VECTOR(scope.space.dimension))
    query = [float(v) for v in probe]
    distance: ColumnElement[float] = (
        vector.l2_distance(query) if metric == "euclidean" else vector.cosine_distance(query)
    )
    statement = (
        select(t.embedding.c.face_id, t.image.c.identity_id, distance.label("distance"))
        .select_from(_FACES)
        .where(*_within(scope))
        .order_by("distance", t.embedding.c.face_id)
        .limit(limit)
    )
    connection.execute(text("SET LOCAL enable_indexscan = off"))
    return [Candidate(*row) for row in connection.execute(statement)]


def count_faces(connection: ReadConnection, scope: Scope) -> int:
    """How many faces a search of the scope looks at."""
    statement = select(func.count()).select_from(_FACES).where(*_within(scope))
    return connection.scalar(statement) or 0


_FACES = t.embedding.join(t.face, t.face.c.id == t.embedding.c.face_id).join(
    t.image, t.image.c.id == t.face.c.image_id
)


def _within(scope: Scope) -> list[ColumnElement[bool]]:
    """The space as a literal, so that the planner sees which partition it is."""
    e = t.embedding.c
    space: ColumnElement[int] = literal_column(str(int(scope.space.id)))
    within: list[ColumnElement[bool]] = [e.space_id == space, e.gallery_id == scope.gallery_id]
    if scope.identity_ids is not None:
        within.append(t.image.c.identity_id.in_(list(scope.identity_ids)))
    return within


def details(connection: ReadConnection, face_ids: Sequence[int]) -> dict[int, FaceDetails]:
    """By face id; a face that was erased meanwhile is left out."""
    f, i, p = t.face.c, t.image.c, t.identity.c
    rows = connection.execute(
        select(f.id, p.id, p.name, p.metadata, i.id, i.locator)
        .join_from(t.face, t.image, i.id == f.image_id)
        .join(t.identity, p.id == i.identity_id)
        .where(f.id.in_(list(face_ids)))
    )
    return {row[0]: FaceDetails(*row[1:]) for row in rows}


def _vectors(rows: NDArray[np.void]) -> Vectors:
    return Vectors(
        rows["face"].astype(np.int64),
        rows["gallery"].astype(np.int64),
        rows["identity"].astype(np.int64),
        rows["vec"].astype(np.float32),
    )
