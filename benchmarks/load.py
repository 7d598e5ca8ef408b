"""A real database full of made-up faces, in a home of its own that vanishes afterwards."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from benchmarks.machine import say
from benchmarks.serving import temporary_home
from benchmarks.vectors import FACES_EACH, Case, Faces, blocks
from indexer.embedded import EmbeddedPostgres
from indexer.embedded_system import Account
from indexer.settings import Settings
from indexer.store import galleries, spaces
from indexer.store.engine import Database, WriteConnection
from indexer.store.images import encode_copy
from recognition.pipeline import Recipe

GALLERY = "bench"


class _RoomyPostgres(EmbeddedPostgres):
    """The embedded server with memory for the largest case; whoever connects later uses it as it is."""

    def _command(self, folder: Path, account: Account) -> list[str]:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        buffers = f"{max(256, whole // 6 // 2**20)}MB"
        return [
            *super()._command(folder, account),
            *("-c", f"shared_buffers={buffers}", "-c", "max_wal_size=16GB"),
            *("-c", "autovacuum=off"),
        ]


@contextmanager
def home(weights: Path) -> Iterator[Path]:
    """A home with a running server, and with the weights of the machine's own home."""
    weights.mkdir(parents=True, exist_ok=True)
    with temporary_home(weights) as folder:
        _RoomyPostgres(folder).ensure_running()
        yield folder


@contextmanager
def opened(folder: Path) -> Iterator[Database]:
    database = Database.open(Settings(home=folder))
    try:
        yield database
    finally:
        database.close()


def fill(database: Database, case: Case, faces: Faces) -> float:
    """Seconds that it took. Ids of people, images and faces count from 1, as the rows from 0."""
    started = time.perf_counter()
    database.upgrade()
    with database.write() as connection:
        # Whole rows that are consistent by construction: without the checks of foreign keys.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        gallery = galleries.ensure(connection, GALLERY)
        space = _space(connection, case.dimension)
        galleries.set_spaces(connection, gallery.id, active=space, building=None)
        count = len(faces.unit)
        for statement in _ROWS:
            connection.execute(
                text(statement),
                {"gallery": gallery.id, "space": space, "faces": count, "each": FACES_EACH},
            )
        _copy(connection, space, gallery.id, faces)
        spaces.publish(connection, {space: [(face, "I") for face in range(1, count + 1)]})
    _vacuum(database)
    return time.perf_counter() - started


def _space(connection: WriteConnection, dimension: int) -> int:
    """A space of any dimension, under the recipe of the default model."""
    settings = Settings()
    recipe = Recipe(settings.model, settings.detector)
    return int(
        connection.scalar(
            text(_SPACE),
            {
                "model": recipe.model,
                "detector": recipe.detector,
                "align": recipe.align,
                "normalization": recipe.normalization,
                "version": recipe.version,
                "dimension": dimension,
            },
        )
        or 0
    )


_SPACE = (
    "WITH made AS (INSERT INTO space"
    " (model, detector, align, normalization, pipeline_version, dimension)"
    " VALUES (:model, :detector, :align, :normalization, :version, :dimension) RETURNING id)"
    " SELECT id FROM made, facesearch_add_partition(id, :dimension)"
)
_ROWS = (
    "INSERT INTO identity (id, gallery_id, name) OVERRIDING SYSTEM VALUE"
    " SELECT n, :gallery, 'Person ' || n"
    " FROM generate_series(1, CAST(:faces AS integer) / :each) n",
    "INSERT INTO image (id, gallery_id, identity_id, source, root, locator, sha256, size, state)"
    " OVERRIDING SYSTEM VALUE"
    " SELECT n, :gallery, (n - 1) / :each + 1, 'tree', '/faces',"
    " 'Person ' || (n - 1) / :each + 1 || '/' || n || '.jpg', sha256(n::text::bytea), 1, 'ready'"
    " FROM generate_series(1, CAST(:faces AS integer)) n",
    "INSERT INTO extraction (space_id, image_id, state)"
    " SELECT :space, n, 'ready' FROM generate_series(1, CAST(:faces AS integer)) n",
    "INSERT INTO face (id, image_id, space_id, box, confidence, quality) OVERRIDING SYSTEM VALUE"
    " SELECT n, n, :space, '{0,0,100,100}', 1, 1"
    " FROM generate_series(1, CAST(:faces AS integer)) n",
    "SELECT setval('identity_id_seq', CAST(:faces AS bigint)),"
    " setval('image_id_seq', CAST(:faces AS bigint)),"
    " setval('face_id_seq', CAST(:faces AS bigint))",
)


def _copy(connection: WriteConnection, space: int, gallery: int, faces: Faces) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        for start, block in blocks(faces.unit):
            ids = np.arange(start + 1, start + len(block) + 1)
            data = encode_copy(space, gallery, ids, block)
            cursor.copy_expert(
                "COPY embedding (space_id, face_id, gallery_id, vec) FROM STDIN (FORMAT binary)",
                io.BytesIO(data),
            )
            say(f"{start + len(block):,} embeddings stored")


def _vacuum(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
