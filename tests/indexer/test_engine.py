"""Errors of COPY, which SQLAlchemy does not see: they are the database's all the same. And what migrates, and when."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from indexer.errors import DatabaseUnavailable
from indexer.store import engine
from indexer.store.engine import MIGRATIONS, Database, WriteConnection

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


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """A new database of the same server."""
    with database.glance() as connection:
        connection.execute(text("CREATE DATABASE migrated"))
    url = database.engine.url.set(database="migrated").render_as_string(hide_password=False)
    made = Database(url, database.embedded)
    yield made
    made.close()
    with database.glance() as connection:
        connection.execute(text("DROP DATABASE migrated"))


def test_alembic_is_asked_only_where_there_is_something_to_do(
    other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.revision() is None
    other.upgrade()
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert other.revision() == head == engine._head()
    asked: list[object] = []
    monkeypatch.setattr(engine, "_migrate", asked.append)
    other.upgrade()
    assert not asked
    monkeypatch.setattr(engine, "_head", lambda: None)
    other.upgrade()
    assert len(asked) == 1


@pytest.mark.parametrize(
    "change",
    ["UPDATE alembic_version SET version_num = 'x'", "INSERT INTO alembic_version VALUES ('x')"],
)
def test_a_database_of_another_version_is_refused(other: Database, change: str) -> None:
    other.upgrade()
    with other.write() as connection:
        connection.execute(text(change))
    with pytest.raises(CommandError):
        other.upgrade()


@pytest.mark.parametrize("before", ['"0001"', "('0009', '0010')"])
def test_migrations_that_are_no_chain_are_left_to_alembic(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    monkeypatch.setattr(engine, "MIGRATIONS", tmp_path / "migrations")
    added = tmp_path / "migrations" / "versions" / "0011_more.py"
    added.write_text("revision: str = '0011'\ndown_revision = '0010'\n")
    assert engine._head() == "0011"
    added.write_text(f"revision = '0011'\ndown_revision = {before}\n")
    assert engine._head() is None
