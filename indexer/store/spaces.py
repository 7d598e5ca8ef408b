"""Spaces, their versions, and the log of what changed under each version.

A writer calls `publish` as the last thing in its transaction: the row lock it takes on the space
is held until the commit, so versions become visible in their order and none is ever skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from indexer.errors import NotFound
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection
from recognition.pipeline import Recipe
from recognition.registry import model

CHANNEL = "facesearch"


@dataclass(frozen=True, slots=True)
class Space:
    id: int
    recipe: Recipe
    dimension: int
    version: int


def get(connection: ReadConnection | WriteConnection, space_id: int) -> Space:
    row = connection.execute(select(t.space).where(t.space.c.id == space_id)).one_or_none()
    if row is None:
        raise NotFound("space", space_id)
    return _space(row)


def find(connection: ReadConnection | WriteConnection, recipe: Recipe) -> Space | None:
    row = connection.execute(select(t.space).where(*_is(recipe))).one_or_none()
    return _space(row) if row else None


def ensure(connection: WriteConnection, recipe: Recipe) -> Space:
    """The recipe's space; made, with its partition, when it is new."""
    dimension = model(recipe.model).dimension
    values = {
        "model": recipe.model,
        "detector": recipe.detector,
        "align": recipe.align,
        "normalization": recipe.normalization,
        "pipeline_version": recipe.version,
        "dimension": dimension,
    }
    statement = upsert(t.space).values(values).on_conflict_do_nothing().returning(t.space.c.id)
    made = connection.scalar(statement)
    if made is not None:
        connection.execute(select(func.facesearch_add_partition(made, dimension)))
    space = find(connection, recipe)
    if space is None:
        raise NotFound("space", str(recipe))
    return space


def count(connection: ReadConnection | WriteConnection, space_id: int) -> int:
    """Embeddings in the space."""
    statement = select(func.count()).where(t.embedding.c.space_id == space_id)
    return connection.scalar(statement) or 0


def build_index(connection: WriteConnection, space: Space) -> None:
    """The HNSW index of the space's partition, if it has none yet."""
    connection.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
    connection.execute(select(func.facesearch_index_partition(space.id, space.dimension)))


def drop_unused(connection: WriteConnection, space_id: int) -> bool:
    """Remove the space with its partition, unless a gallery uses it or faces are left in it."""
    used = select(t.gallery.c.id).where(
        (t.gallery.c.active_space_id == space_id) | (t.gallery.c.building_space_id == space_id)
    )
    left = select(t.face.c.id).where(t.face.c.space_id == space_id)
    if connection.scalar(select(used.exists() | left.exists())):
        return False
    connection.execute(select(func.facesearch_drop_partition(space_id)))
    connection.execute(t.space.delete().where(t.space.c.id == space_id))
    return True


def publish(
    connection: WriteConnection, changes: Mapping[int, Iterable[tuple[int, str]]]
) -> dict[int, int]:
    """Log the changed faces ((face id, "I" or "D") by space) under one new version per space.

    Returns the new version by space. Spaces are locked in ascending order, so writers cannot
    deadlock; call it last.
    """
    published: dict[int, int] = {}
    for space_id in sorted(changes):
        rows = [{"space_id": space_id, "face_id": face, "op": op} for face, op in changes[space_id]]
        if not rows:
            continue
        version = connection.scalar(
            update(t.space)
            .where(t.space.c.id == space_id)
            .values(version=t.space.c.version + 1)
            .returning(t.space.c.version)
        )
        connection.execute(insert(t.change_log), [{**row, "version": version} for row in rows])
        connection.execute(select(func.pg_notify(CHANNEL, str(space_id))))
        published[space_id] = version or 0
    return published


def versions(connection: ReadConnection) -> dict[int, int]:
    """Version by space id."""
    rows = connection.execute(select(t.space.c.id, t.space.c.version))
    return {row.id: row.version for row in rows}


def epoch(connection: ReadConnection) -> str:
    """Changes when the database is replaced by another one."""
    return str(connection.scalar(select(t.meta.c.value).where(t.meta.c.key == "epoch")))


def changed_since(connection: ReadConnection, space_id: int, version: int) -> Sequence[int] | None:
    """Ids of the faces touched after `version`; None when the log does not reach back that far."""
    trimmed = connection.scalar(select(t.space.c.trimmed_to).where(t.space.c.id == space_id))
    if trimmed is None or version < trimmed:
        return None
    return connection.scalars(
        select(t.change_log.c.face_id)
        .where(t.change_log.c.space_id == space_id, t.change_log.c.version > version)
        .distinct()
    ).all()


def trim(connection: WriteConnection, keep_days: int) -> None:
    """Forget changes older than that; a follower that is further behind loads everything anew."""
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM change_log"
            " WHERE at < now() - make_interval(days => :days) RETURNING space_id, version),"
            " last AS (SELECT space_id, max(version) AS version FROM gone GROUP BY space_id)"
            " UPDATE space SET trimmed_to = greatest(trimmed_to, last.version)"
            " FROM last WHERE space.id = last.space_id"
        ),
        {"days": keep_days},
    )


def _space(row: Row[*tuple[Any, ...]]) -> Space:
    recipe = Recipe(row.model, row.detector, row.align, row.normalization, row.pipeline_version)
    return Space(row.id, recipe, row.dimension, row.version)


def _is(recipe: Recipe) -> tuple[ColumnElement[bool], ...]:
    c = t.space.c
    return (
        c.model == recipe.model,
        c.detector == recipe.detector,
        c.align == recipe.align,
        c.normalization == recipe.normalization,
        c.pipeline_version == recipe.version,
    )
