"""The audit log: a chain that many writers make together, and that shows every change."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from indexer import audit
from indexer.embedded import EmbeddedPostgres
from indexer.settings import Settings
from indexer.store import audit as store
from indexer.store.audit import Entry, Row
from indexer.store.engine import Database, WriteConnection

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.fixture(scope="module")
def own_home() -> Iterator[Path]:
    """A database of its own: these tests damage its log."""
    folder = Path(tempfile.mkdtemp(prefix="facesearch-audit-"))
    folder.chmod(0o755)
    yield folder
    EmbeddedPostgres(folder).stop()


@pytest.fixture
def database(own_home: Path) -> Iterator[Database]:
    opened = Database.open(Settings(home=own_home))
    opened.upgrade()
    with opened.write() as connection:
        connection.execute(text("TRUNCATE audit_log"))
    yield opened
    opened.close()


def fill(database: Database, number: int = 6) -> list[Row]:
    with database.write() as connection:
        store.append(
            connection,
            [Entry("k", "search.find", "g", "r", {"results": [[n, 2]]}) for n in range(number)],
        )
    with database.read() as connection:
        return list(store.every(connection))


def command(home: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "indexer.cli", "audit", *arguments],
        env={"FACESEARCH_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    def write(n: int) -> None:
        with database.write() as connection:
            store.append(connection, [Entry(f"k{n}", "a", "g"), Entry(f"k{n}", "b", "g")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(60)))
    verdict = audit.verify(database)
    assert (verdict.rows, verdict.broken) == (120, None)
    with database.read() as connection:
        latest = store.latest(connection, "g", 2)
        assert [row.id for row in latest] == [120, 119]
        assert latest[0].hash.hex() == verdict.head
        assert latest[0].entry.key == latest[1].entry.key
        assert store.latest(connection, "other", 5) == []
        assert [row.id for row in store.every(connection, 118)] == [119, 120]


def test_nothing_is_written_by_what_is_rolled_back(database: Database) -> None:
    fill(database, 2)
    connection = database.engine.connect()
    audit.COMMAND.record(WriteConnection(connection), "a", "g")
    connection.rollback()
    connection.close()
    assert audit.verify(database).rows == 2


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("UPDATE audit_log SET key = 'x' WHERE id = 3", 3),
        ("UPDATE audit_log SET action = 'x' WHERE id = 3", 3),
        ("UPDATE audit_log SET gallery = 'x' WHERE id = 3", 3),
        ("UPDATE audit_log SET request_id = 'x' WHERE id = 3", 3),
        ("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE id = 3", 3),
        ("UPDATE audit_log SET detail = '{\"results\": [[2, 3]]}' WHERE id = 3", 3),
        ("UPDATE audit_log SET hash = decode('00', 'hex') WHERE id = 3", 3),
        ("DELETE FROM audit_log WHERE id = 3", 4),
        ("DELETE FROM audit_log WHERE id = 1", 2),
        ("DELETE FROM audit_log WHERE id = 3; UPDATE audit_log SET id = id - 1 WHERE id > 3", 3),
    ],
)
def test_a_change_shows(database: Database, own_home: Path, change: str, broken: int) -> None:
    fill(database)
    with database.write() as connection:
        connection.execute(text(change))
    verdict = audit.verify(database)
    assert (verdict.rows, verdict.broken) == (
        broken - 1 if "DELETE" not in change else verdict.rows,
        broken,
    )
    if change.startswith("DELETE FROM audit_log WHERE id = 1"):
        assert f"entry {broken}" in command(own_home, "verify", code=1)


def test_a_log_that_was_cut_off_shows_against_a_head(database: Database, own_home: Path) -> None:
    fill(database)
    told = json.loads(command(own_home, "verify", "--json"))
    assert told["entries"] == 6
    fill(database, 1)
    command(own_home, "verify", "--head", told["head"])
    with database.write() as connection:
        connection.execute(text("DELETE FROM audit_log WHERE id >= 5"))
    assert json.loads(command(own_home, "verify", "--json"))["entries"] == 4
    assert "cut off" in command(own_home, "verify", "--head", told["head"], code=1)


def test_the_commands_list(database: Database, own_home: Path) -> None:
    fill(database)
    rows = json.loads(command(own_home, "list", "--limit", "2", "--json"))
    assert [row["id"] for row in rows] == [6, 5]
    assert rows[0]["detail"] == {"results": [[5, 2]]}
    assert json.loads(command(own_home, "list", "--gallery", "none", "--json")) == []
    assert command(own_home, "list")


texts = st.text(max_size=20)
details = st.dictionaries(
    texts, st.one_of(st.integers(-(2**53), 2**53), texts, st.none(), st.lists(st.integers()))
)


@given(texts, texts, details)
def test_the_hash_is_of_everything(key: str, gallery: str, detail: dict[str, object]) -> None:
    entry = Entry(key, "a", gallery, "r", dict(detail), AT)
    told = store.chained(bytes(32), 1, entry)
    assert told == store.chained(
        bytes(32), 1, replace(entry, at=AT.astimezone(timezone(timedelta(hours=5))))
    )
    for other in (
        replace(entry, key=key + "x"), replace(entry, gallery=gallery + "x"), replace(entry, action="b"),
        replace(entry, detail={**detail, "more": 1, "": 0.5}), replace(entry, at=AT + timedelta(microseconds=1)),
    ):  # fmt: skip
        assert store.chained(bytes(32), 1, other) != told
    assert store.chained(bytes(32), 2, entry) != told
    assert store.chained(b"\1" * 32, 1, entry) != told
    assert audit.checked([Row(1, entry, told)]).broken is None
    assert audit.checked([Row(2, entry, told)]).broken == 2
