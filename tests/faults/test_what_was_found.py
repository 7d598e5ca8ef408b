"""What the faults found, each in a test of its own."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect

from indexer.cache.build import Builder, Options
from indexer.cache.disk import Snapshots
from indexer.cache.follower import SearchCache
from indexer.embedded import EmbeddedPostgres
from indexer.errors import DatabaseUnavailable
from indexer.settings import Settings
from indexer.store import audit, erasures, jobs, spaces
from indexer.store.engine import Database, Listener
from service.problems import install, problem_of
from service.threads import DatabaseThreads
from service.trail import Trail
from tests.faults.ledger import Person
from tests.faults.proxy import Proxy
from tests.world import World

REPOSITORY = Path(__file__).resolve().parents[2]
GB = 2**30
WALL_CLOCK = re.compile(r"time\.time\(|datetime\.now\(|utcnow\(|date\.today\(|\btime_ns\(")
TELLS_THE_TIME = {
    "indexer/keys.py": 4,  # when a key ends, by hand
    "indexer/store/audit.py": 1,  # when something was done
    "indexer/transfer/export.py": 1,  # when an archive was written
    "service/views.py": 1,  # how fast a job has been
}
"""All that looks at the wall clock: to write the time down, or to show it."""


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    opened = Database.open(settings)
    opened.upgrade()
    yield opened
    opened.close()


def until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_no_wall_clock() -> None:
    """Waiting is measured by clocks that do not jump, and what is over is the database's to say."""
    found: dict[str, int] = {}
    for package in ("service", "indexer", "recognition"):
        for path in (REPOSITORY / package).rglob("*.py"):
            number = len(WALL_CLOCK.findall(path.read_text()))
            if number:
                found[str(path.relative_to(REPOSITORY))] = number
    assert found == TELLS_THE_TIME


@pytest.mark.parametrize(
    ("state", "found", "right"),
    [
        ("there", "ab", True), ("there", "a", False), ("there", "", False), ("there", "aab", False),
        ("gone", "", True), ("gone", "ab", False),
        ("either", "", True), ("either", "ab", True), ("either", "b", False),
    ],
)  # fmt: skip
def test_the_ledger_sees_what_is_partial(state: str, found: str, right: bool) -> None:
    person = Person("g", "Ada", frozenset({b"a", b"b"}), state)  # type: ignore[arg-type]
    assert (person.wrong([letter.encode() for letter in found]) is None) == right


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION READ ONLY; CREATE TABLE never (x int)",  # as on a standby
        "SELECT pg_read_file('postgresql.conf')",  # by somebody who may not
    ],
)
def test_a_database_that_refuses_writes_is_not_available(
    database: Database, statement: str
) -> None:
    def refused() -> None:
        with database.write() as connection:
            connection.execute(text("CREATE ROLE nobody_much"))
            if "pg_read_file" in statement:
                connection.execute(text("SET LOCAL ROLE nobody_much"))
            connection.execute(text(statement))

    with pytest.raises(DatabaseUnavailable, match="cannot be used"):
        refused()


def test_a_mistake_in_a_statement_stays_one(database: Database) -> None:
    with pytest.raises(DBAPIError), database.write() as connection:
        connection.execute(text("SELECT nonsense"))


def far(database: Database, home: Path) -> tuple[Proxy, Database]:
    """The same database, over a way that can be cut."""
    host = str(make_url(EmbeddedPostgres(home).url).query["host"])
    proxy = Proxy(Path(host) / ".s.PGSQL.5432")
    url = f"postgresql://facesearch@127.0.0.1:{proxy.port}/facesearch"
    assert database.revision() is not None  # it runs
    return proxy, Database.open(Settings(home=home, database_url=url))


def test_a_server_that_is_gone_without_a_word_is_noticed(database: Database, home: Path) -> None:
    proxy, away = far(database, home)
    with proxy.running(), away.engine.connect() as connection:
        given = connection.connection.driver_connection.info.dsn_parameters
        assert int(given["keepalives_idle"]) < 60
        assert int(given["tcp_user_timeout"]) <= 60_000
    away.close()


def test_searches_go_on_from_memory_while_the_database_is_away(
    database: Database, home: Path
) -> None:
    world = World(database, people=20)
    version = world.enrol(*range(10))
    proxy, away = far(database, home)
    with proxy.running():
        cache = SearchCache(away, Options(memory=GB, folder=None, threads=1))
        cache.start()
        try:
            until(lambda: cache.index(world.space.id, version, 0))
            held = cache.index(world.space.id, version, 0)
            proxy.cut()
            with pytest.raises(DatabaseUnavailable):
                Listener(away, spaces.CHANNEL)
            time.sleep(2)
            assert cache.index(world.space.id, version, 0) is held
            version = world.enrol(10)
            proxy.mend()
            until(lambda: cache.index(world.space.id, version, 0))
            assert cache.index(world.space.id, version, 0) is held, "it was not loaded anew"
        finally:
            cache.close()
            away.close()


def test_what_killed_writers_left_of_a_space_goes(database: Database, tmp_path: Path) -> None:
    """Also when the space is not kept on disk any more: nobody would write there again."""
    world = World(database, people=5)
    world.enrol(0, 1)
    snapshots = Snapshots(tmp_path)
    for kept in (1, 1000):  # faces from which a space is kept on disk
        with snapshots.lock(world.space.id, 1):
            snapshots.draft(world.space.id, 10, 128)
        options = Options(memory=GB, folder=tmp_path, threads=1, snapshot_from=kept)
        Builder(database, options).load(world.space.id, GB)
        assert not list(tmp_path.glob("*/draft-*"))
        Builder(database, options).load(world.space.id, GB)  # by the snapshot, if there is one
        assert len(list(tmp_path.glob("*/*-*"))) == (kept == 1)


def test_a_draft_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    with snapshots.lock(3, 1):
        draft = snapshots.draft(3, 10, 4)
        Snapshots(tmp_path).forget(3)
        assert draft.folder.is_dir()


def test_snapshots_of_spaces_that_went_while_nobody_ran_go(
    database: Database, tmp_path: Path
) -> None:
    left = tmp_path / "space-999999" / "7-abc"
    left.mkdir(parents=True)
    cache = SearchCache(database, Options(memory=GB, folder=tmp_path, threads=1))
    cache.start()
    try:
        until(lambda: not left.parent.exists())
    finally:
        cache.close()


def job(database: Database, kind: str, heartbeat: str) -> jobs.Job:
    """A running one that was last heard of then."""
    with database.write() as connection:
        number = jobs.create(connection, kind, "nobody's", {}, "running")
        values = {"heartbeat": heartbeat, "id": number}
        moved = "UPDATE job SET heartbeat_at = now() + CAST(:heartbeat AS interval) WHERE id = :id"
        connection.execute(text(moved), values)
        return jobs.get(connection, number)


@pytest.mark.parametrize("heartbeat", ["-1 hour", "1 hour"])
def test_a_clock_that_is_put_forward_or_back_does_not_hold_a_job(
    database: Database, heartbeat: str
) -> None:
    dead = job(database, "reindex", heartbeat)
    command = job(database, "command", heartbeat)
    with database.write() as connection:
        jobs.reap(connection)
        assert jobs.get(connection, dead.id).state == "queued"
        assert jobs.get(connection, command.id).state == "failed"
        jobs.report(connection, dead.id, jobs.Progress("x", 1, 2, {}))  # it was not dead
        jobs.report(connection, command.id, jobs.Progress("x", 1, 2, {}))
        for each in (dead, command):
            assert jobs.get(connection, each.id).state == "running"
            jobs.finish(connection, each.id, "done")
            found = jobs.get(connection, each.id)
            assert (found.state, found.error) == ("done", None)


def test_a_job_that_has_ended_stays_so(database: Database) -> None:
    ended = job(database, "reindex", "0")
    with database.write() as connection:
        jobs.finish(connection, ended.id, "failed", "no such folder")
        jobs.report(connection, ended.id, jobs.Progress("x", 1, 2, {}))
        found = jobs.get(connection, ended.id)
    assert (found.state, found.error) == ("failed", "no such folder")
    assert found.finished_at is not None


def test_an_erasure_does_not_wait_for_processes_of_the_future(database: Database) -> None:
    """Seen before the clock was put back, and killed then; the living are seen again at once."""
    world = World(database, people=3)
    world.enrol(0)
    version = world.erase(0)
    with database.write() as connection:
        receipt = erasures.add(connection, "identity", world.name, 1, version, {})
        dead, alive, unknown = ids = [_process(n) for n in range(3)]
        for each in ids[:2]:
            erasures.seen(connection, each, "host", 1)
        connection.execute(
            text("UPDATE cache_process SET seen_at = now() + interval '1 hour' WHERE id = :id"),
            {"id": dead},
        )
        for each in (alive, unknown):  # one that was forgotten meanwhile is no mistake
            erasures.acknowledge(connection, each, [receipt], clean=True)
    with database.read() as connection:
        told = erasures.acknowledgements(connection, receipt)
    with database.write() as connection:
        for each in ids:
            erasures.left(connection, each)
    assert alive in {each.process_id for each in told}
    assert not {dead, unknown} & {each.process_id for each in told}


def _process(number: int) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"process {number}")


def test_the_trail_of_searches_goes_on_after_an_error_that_nobody_foresaw(
    database: Database,
) -> None:
    """The table is away for a moment: an error that is none of a database that cannot be reached."""
    entry = audit.Entry("local", "search.find", "trail of faults")

    async def work() -> None:
        trail = Trail(database, DatabaseThreads(), on=True)
        running = asyncio.ensure_future(trail.run())
        _rename(database, "audit_log", "audit_log_away")
        try:
            trail.take(entry)
            await asyncio.sleep(1)
            assert not running.done()
        finally:
            _rename(database, "audit_log_away", "audit_log")
        await asyncio.sleep(1)
        running.cancel()

    asyncio.run(work())
    with database.read() as connection:
        assert len(audit.latest(connection, entry.gallery, 10)) == 1


def _rename(database: Database, there: str, then: str) -> None:
    with database.write() as connection:
        connection.execute(text(f"ALTER TABLE {there} RENAME TO {then}"))


def test_a_client_that_vanishes_is_no_error_of_ours() -> None:
    assert problem_of(ClientDisconnect()).status == 499
    app = FastAPI()
    install(app)
    assert ClientDisconnect in app.exception_handlers
