"""Errors of the database that SQLAlchemy does not see, as COPY goes past it: they are the database's all the same."""

from __future__ import annotations

import io
from collections.abc import Callable

import psycopg2
import pytest
from sqlalchemy import text

from indexer.errors import DatabaseUnavailable
from indexer.store.engine import Database, WriteConnection

COPY = "COPY embedding (space_id, face_id, gallery_id, vec) FROM STDIN (FORMAT binary)"


def copied(database: Database, before: Callable[[WriteConnection], object], data: bytes) -> None:
    with database.write() as connection:
        before(connection)
        with connection.connection.driver_connection.cursor() as cursor:  # type: ignore[union-attr]
            cursor.copy_expert(COPY, io.BytesIO(data))


def test_a_copy_where_nothing_can_be_written(database: Database) -> None:
    def read_only(connection: WriteConnection) -> None:
        connection.execute(text("SET TRANSACTION READ ONLY"))

    with pytest.raises(DatabaseUnavailable, match=r"cannot be used: .*read-only"):
        copied(database, read_only, b"")


def test_a_copy_whose_server_process_goes(database: Database) -> None:
    def ended(connection: WriteConnection) -> None:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with database.write() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached"):
        copied(database, ended, b"")
    with database.read() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_a_mistake_in_a_copy_stays_what_it_is(database: Database) -> None:
    with pytest.raises(psycopg2.Error, match="COPY file signature not recognized"):
        copied(database, lambda _: None, b"no rows of anything at all")
