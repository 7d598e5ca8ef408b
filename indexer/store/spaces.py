"""Spaces, their versions, and the log of what changed under each version.

A writer calls `publish` as the last thing in its transaction: the row lock it takes on the space
is held until the commit, so versions become visible in their order and none is ever skipped.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from indexer.errors import NotFound
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection, vault_of
from recognition.pipeline import Recipe

CHANNEL = "facesearch"
NOBODY = 0
"""No face has this id."""
Engine = Literal["auto", "flat", "compressed", "database"]
ENGINES: tuple[Engine, ...] = ("auto", "flat", "compressed", "database")
"""How a space is searched: by its size, always face by face, always by codes, never in memory."""


@dataclass(frozen=True, slots=True)
class Head:
    """The latest version of a space; `stamp` is a random number that belongs to that version.

    A database that was put back to an older state and then written to may come to the same
    version again, but not with the same stamp.
    """

    version: int
    stamp: int
    engine: Engine


@dataclass(frozen=True, slots=True)
class Space:
    id: int
    recipe: Recipe
    dimension: int
    version: int
    stamp: int
    engine: Engine
    seal: bytes | None = None
    """What its embeddings are turned by (`vault`); such a space belongs to one gallery."""


def get(connection: ReadConnection | WriteConnection, space_id: int) -> Space:
    row = connection.execute(select(t.space).where(t.space.c.id == space_id)).one_or_none()
    if row is None:
        raise NotFound("space", space_id)
    return _space(row)


def find(
    connection: ReadConnection | WriteConnection, recipe: Recipe, seal: bytes | None = None
) -> Space | None:
    row = connection.execute(select(t.space).where(*_is(recipe, seal))).one_or_none()
    return _space(row) if row else None


def ensure(
    connection: WriteConnection, recipe: Recipe, dimension: int, seal: bytes | None = None
) -> Space:
    """The recipe's space; made, with its partition for embeddings of that dimension, when it is new.

    Raises KeyMissing if there is not the key of the seal.
    """
    vault_of(connection).check(seal)
    values = {
        "model": recipe.model,
        "detector": recipe.detector,
        "align": recipe.align,
        "normalization": recipe.normalization,
        "pipeline_version": recipe.version,
        "dimension": dimension,
        "seal": seal,
    }
    statement = upsert(t.space).values(values).on_conflict_do_nothing().returning(t.space.c.id)
    made = connection.scalar(statement)
    if made is not None:
        connection.execute(select(func.facesearch_add_partition(made, dimension)))
    space = find(connection, recipe, seal)
    if space is None:
        raise NotFound("space", str(recipe))
    return space


def count(connection: ReadConnection | WriteConnection, space_id: int) -> int:
    """Embeddings in the space."""
    statement = select(func.count()).where(t.embedding.c.space_id == space_id)
    return connection.scalar(statement) or 0


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
        rows = list(changes[space_id])
        if not rows:
            continue
        stamp = secrets.randbits(62)
        version = connection.scalar(
            update(t.space)
            .where(t.space.c.id == space_id)
            .values(version=t.space.c.version + 1, stamp=stamp)
            .returning(t.space.c.version)
        )
        connection.execute(
            _LOG,
            {
                "space": space_id,
                "version": version,
                "stamp": stamp,
                "faces": [face for face, _ in rows],
                "ops": [op for _, op in rows],
            },
        )
        connection.execute(select(func.pg_notify(CHANNEL, str(space_id))))
        published[space_id] = version or 0
    return published


def raise_to(connection: WriteConnection, space_id: int, version: int) -> None:
    """Let the space's version be at least that, under which nothing changed; call it last."""
    behind = update(t.space).where(t.space.c.id == space_id, t.space.c.version < version)
    if connection.execute(behind.values(version=version - 1)).rowcount:
        publish(connection, {space_id: [(NOBODY, "D")]})


_LOG = text(
    "INSERT INTO change_log (space_id, version, stamp, face_id, op)"
    " SELECT :space, :version, :stamp, face, op"
    " FROM unnest(CAST(:faces AS bigint[]), CAST(:ops AS text[])) AS changed(face, op)"
)


def heads(connection: ReadConnection) -> dict[int, Head]:
    """By space id."""
    c = t.space.c
    rows = connection.execute(select(c.id, c.version, c.stamp, c.engine))
    return {row.id: Head(row.version, row.stamp, row.engine) for row in rows}


def set_engine(connection: WriteConnection, space_id: int, engine: Engine) -> None:
    """Raises NotFound."""
    done = connection.execute(update(t.space).where(t.space.c.id == space_id).values(engine=engine))
    if not done.rowcount:
        raise NotFound("space", space_id)
    connection.execute(select(func.pg_notify(CHANNEL, str(space_id))))


def all_spaces(connection: ReadConnection) -> list[Space]:
    return [_space(row) for row in connection.execute(select(t.space).order_by(t.space.c.id))]


def epoch(connection: ReadConnection) -> str:
    """Changes when the database is replaced by another one."""
    return str(connection.scalar(select(t.meta.c.value).where(t.meta.c.key == "epoch")))


def continues(connection: ReadConnection, space_id: int, version: int, stamp: int) -> bool:
    """Whether the log tells everything that happened since that version of that history."""
    space = connection.execute(
        select(t.space.c.version, t.space.c.stamp, t.space.c.trimmed_to).where(
            t.space.c.id == space_id
        )
    ).one_or_none()
    if space is None or not space.trimmed_to <= version <= space.version:
        return False
    if version == space.version:
        return bool(stamp == space.stamp)
    logged = connection.scalar(
        select(t.change_log.c.stamp)
        .where(t.change_log.c.space_id == space_id, t.change_log.c.version == version)
        .limit(1)
    )
    return logged == stamp


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
    return Space(row.id, recipe, row.dimension, row.version, row.stamp, row.engine, row.seal)


def _is(recipe: Recipe, seal: bytes | None) -> tuple[ColumnElement[bool], ...]:
    c = t.space.c
    return (
        c.model == recipe.model,
        c.detector == recipe.detector,
        c.align == recipe.align,
        c.normalization == recipe.normalization,
        c.pipeline_version == recipe.version,
        c.seal.is_(None) if seal is None else c.seal == seal,
    )


def seal_of(connection: ReadConnection | WriteConnection, space_id: int) -> bytes | None:
    return connection.scalar(select(t.space.c.seal).where(t.space.c.id == space_id))
