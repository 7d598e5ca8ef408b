"""Freshness under fire: the checker itself, a short run of it, and a database put back to a backup."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from indexer.embedded import EmbeddedPostgres
from indexer.settings import Settings
from indexer.store import spaces
from indexer.store.engine import Database
from recognition.weights import WeightsCache
from tests.freshness.ledger import Ledger, Operation, Reply, possible_owners
from tests.freshness.run import Plan, fire, temporary_home
from tests.freshness.servers import Server, find, owner_of
from tests.world import World


def reply(owner: str | None, version: int, sent: float = 10, min_version: int = 0) -> Reply:
    return Reply(owner, version, min_version, sent, sent + 1)


ENROLLED = Operation("Ada", begun=1, version=5, acknowledged=2)
ERASED = Operation(None, begun=3, version=8, acknowledged=4)
MOVED = Operation("Bob", begun=3, version=8, acknowledged=4)


@pytest.mark.parametrize(
    ("operations", "asked", "possible"),
    [
        ([ENROLLED], reply("", 5), {"Ada"}),  # it may not be missed
        ([ENROLLED], reply("", 4), {None, "Ada"}),  # it need not be known yet, but may be
        ([ENROLLED, ERASED], reply("", 8), {None}),
        ([ENROLLED, ERASED], reply("", 5), {None}),  # it was gone before the question
        ([ENROLLED, ERASED], reply("", 5, sent=2.5), {"Ada", None}),  # it went meanwhile
        ([ENROLLED, MOVED], reply("", 8), {"Bob"}),
        ([ENROLLED, MOVED], reply("", 7), {"Ada", "Bob"}),
        ([ENROLLED, Operation(None, begun=20)], reply("", 5), {"Ada"}),  # begun after the answer
        ([ENROLLED, Operation(None, begun=3)], reply("", 99), {"Ada", None}),  # outcome unknown
        ([ENROLLED, Operation(None, begun=3, lost=True)], reply("", 99), {"Ada"}),
        ([], reply("", 99), {None}),
    ],
)
def test_what_is_possible(
    operations: list[Operation], asked: Reply, possible: set[str | None]
) -> None:
    assert possible_owners(operations, asked) == possible


def test_violations_are_told() -> None:
    ledger = Ledger(lambda: 1.0)
    record = ledger.new(np.zeros(3))
    ledger.done(ledger.begin(record, "Ada"), 5)
    assert ledger.check(record, reply("Ada", 5)) is None
    assert "possible: ['Ada']" in str(ledger.check(record, reply(None, 5)))  # a lost update
    assert "older than" in str(ledger.check(record, reply("Ada", 5, min_version=6)))
    ledger.done(ledger.begin(record, None), 6)
    assert "possible: ['None']" in str(ledger.check(record, reply("Ada", 6)))  # risen again


def test_only_what_is_over_is_forgotten() -> None:
    ledger = Ledger(lambda: 1.0, kept=4)
    here, gone, open_, lost = records = [ledger.new(np.zeros(3)) for _ in range(4)]
    for record in records:
        operation = ledger.begin(record, "Ada")
        ledger.lost(operation) if record is lost else ledger.done(operation, 5)
    ledger.done(ledger.begin(gone, None), 6)
    ledger.begin(open_, None)
    fifth = ledger.new(np.zeros(3))
    assert ledger.faces == [here, open_, lost, fifth]
    sixth = ledger.new(np.zeros(3))
    assert ledger.faces == [here, open_, fifth, sixth]
    assert sixth.number == 5


def test_nothing_is_lost_under_fire(weights_cache: WeightsCache) -> None:
    summary = fire(Plan(seconds=24, processes=2, writers=8, trouble_every=2.5))
    assert summary.violations == []
    counts = summary.counts
    assert counts["operations"] > 300, summary
    assert counts["searches"] > 200, summary
    assert counts["with min_version"] > 50, summary
    assert counts["checked at the end"] > 600, summary
    by_faiss = counts["by faiss-flat"] + counts["by faiss-pq4"]
    assert by_faiss > counts["searches"] // 2, summary  # the database's own answers prove nothing
    for trouble in (
        "kill a server", "freeze a server", "kill postgres", "stop postgres",
        "deafen", "listeners cut", "idle transaction", "idle transaction held",
    ):  # fmt: skip
        assert counts[trouble] >= 1, summary


@pytest.fixture
def own_home(weights_cache: WeightsCache) -> Iterator[Path]:
    with temporary_home(weights_cache.folder) as home:
        yield home


def put_back(home: Path, backup: Path) -> None:
    """The database as it was, files and owners."""
    data = home / "postgres" / "data"
    shutil.rmtree(data)
    subprocess.run(["cp", "-a", str(backup), str(data)], check=True)


def answers(server: Server, world: World, numbers: range) -> list[bool]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        found = find(client, world.name, world.vectors[list(numbers)])
    return [owner_of(face) == f"p{n}" for n, face in zip(numbers, found["results"], strict=True)]


class PutBack:
    """A server over a database of two hundred people that is put back to a backup of them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.postgres = EmbeddedPostgres(home)
        self.database = Database.open(Settings(home=home))
        self.database.upgrade()
        self.world = World(self.database)
        self.world.enrol(*range(200))
        self._close()
        self._backup = home / "backup"
        data = home / "postgres" / "data"
        subprocess.run(["cp", "-a", str(data), str(self._backup)], check=True)
        self.open()

    def open(self) -> None:
        self.database = Database.open(Settings(home=self._home))
        self.world.database = self.database

    def put_back(self) -> None:
        """Files and owners as they were."""
        self._close()
        put_back(self._home, self._backup)
        self.open()

    def until_there_is_a_snapshot(self, version: int) -> None:
        with self.database.write() as connection:
            spaces.set_engine(connection, self.world.space.id, "flat")  # so that one is written
        folder = self._home / "cache" / f"space-{self.world.space.id}"
        until(lambda: [*folder.glob(f"{version}-*/meta.json")])

    def _close(self) -> None:
        self.database.close()
        self.postgres.stop()


@pytest.mark.parametrize("frozen", [True, False], ids=["follows", "restarts"])
def test_a_database_put_back_to_a_backup_is_noticed(own_home: Path, frozen: bool) -> None:
    """What was written after the backup is gone, and other writes have come to the same versions."""
    stage = PutBack(own_home)
    world = stage.world
    server = Server(own_home, 0, cache_snapshots="50")
    server.start()
    try:
        server.wait_until_it_answers()
        seen = [world.enrol(n) for n in range(200, 205)][-1]
        seen = max(seen, world.erase(0))
        assert eventually(server, world, range(205), [False, *[True] * 204])
        stage.until_there_is_a_snapshot(seen)
        server.signal(signal.SIGSTOP) if frozen else server.kill()
        stage.put_back()
        while world.enrol(300 + spaces_version(stage.database, world)) < seen + 2:
            pass
        server.signal(signal.SIGCONT) if frozen else server.start()
        server.wait_until_it_answers()
        assert eventually(server, world, range(205), [True] * 200 + [False] * 5)
        assert eventually(server, world, range(301, 304), [True] * 3)
        stage.database.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGCONT)
        server.kill()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def spaces_version(database: Database, world: World) -> int:
    with database.read() as connection:
        return spaces.get(connection, world.space.id).version


def eventually(server: Server, world: World, numbers: range, wanted: list[bool]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if answers(server, world, numbers) == wanted:
                return True
        time.sleep(0.1)
    return False
