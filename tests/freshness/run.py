"""One run: servers, writers, readers, trouble, and at the end everybody asked about everything."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sqlalchemy import text

from indexer.embedded import EmbeddedPostgres
from indexer.settings import Settings
from indexer.store import spaces
from indexer.store.engine import Database
from tests.freshness.ledger import Ledger, Owner
from tests.freshness.servers import Reader, Server, find, owner_of
from tests.freshness.writers import SILENT, Writer, fingerprint, owners_in_database
from tests.world import World

SWEEP = 500
SETTLE_S = 60.0
JOIN_S = 150.0
QUIET_S = 2.0
FIRST_FACES = 2500
"""Enough for compressed codes and for a snapshot in these runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    processes: int = 4
    writers: int = 8
    trouble_every: float = 4.0


@dataclass(slots=True)
class Summary:
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [f"{name:24} {count:>9,}" for name, count in sorted(self.counts.items())]
        rows.append(f"{'violations':24} {len(self.violations):>9,}")
        return "\n".join([*rows, *self.violations[:50]])


@contextlib.contextmanager
def temporary_home(weights: Path) -> Iterator[Path]:
    """With the machine's weights in it; not below a folder that Postgres' user cannot enter."""
    home = Path(tempfile.mkdtemp(prefix="facesearch-fire-"))
    home.chmod(0o755)
    (home / "weights").symlink_to(weights)
    try:
        yield home
    finally:
        EmbeddedPostgres(home).stop()
        shutil.rmtree(home, ignore_errors=True)


class Fire:
    """What is alive in a run."""

    def __init__(self, home: Path, plan: Plan) -> None:
        self._home = home
        self._plan = plan
        self._settings = Settings(home=home)
        self._database = Database.open(self._settings)
        self._database.upgrade()
        with self._database.engine.begin() as connection:
            connection.execute(text(SILENT))
        self._world = World(self._database, people=FIRST_FACES)
        self._world.enrol(*range(FIRST_FACES))
        self._ledger = Ledger(time.monotonic)
        self._servers = [Server(home, n, cache_snapshots="500") for n in range(plan.processes)]
        self._engines = itertools.cycle(("compressed", "flat", "auto"))
        self.summary = Summary()

    def run(self) -> Summary:
        try:
            for server in self._servers:
                server.start()
            for server in self._servers:
                server.wait_until_it_answers()
            self._burn()
            for number, server in enumerate(self._servers):
                self._sweep(number, server)
        finally:
            for server in self._servers:
                server.signal(signal.SIGCONT)
                server.kill()
            self._database.close()
        return self.summary

    def _burn(self) -> None:
        writers = [
            Writer(n, self._settings, self._world, self._ledger, silent=n % 2 == 1)
            for n in range(self._plan.writers)
        ]
        readers = [
            Reader(server, self._world.name, self._ledger, n)
            for n, server in enumerate(self._servers)
        ]
        for thread in (*writers, *readers):
            thread.start()
        try:
            self._trouble()
            # The last word is that of the silent ones: any hint after it would lead to their
            # changes as well.
            _end([writer for writer in writers if not writer.silent])
            self._listen(QUIET_S)
        finally:
            # A writer that goes on would start the database again after its end.
            _end([*writers, *readers])
        self._account(writers, readers)

    def _listen(self, seconds: float) -> None:
        """The silent ones must be silent, or nothing is proved about lost notifications."""
        raw = self._database.engine.raw_connection()
        driver: Any = raw.driver_connection
        try:
            driver.autocommit = True
            with driver.cursor() as cursor:
                cursor.execute(f'LISTEN "{spaces.CHANNEL}"')
            time.sleep(seconds)
            driver.poll()
            heard = len(driver.notifies)
        finally:
            raw.invalidate()
        if heard:
            self.summary.violations.append(f"silent writers were heard {heard} times")

    def _account(self, writers: list[Writer], readers: list[Reader]) -> None:
        alive = [thread.name for thread in (*writers, *readers) if thread.is_alive()]
        self.summary.violations += [f"{name} does not end" for name in alive]
        for writer in writers:
            self.summary.violations += writer.violations
            self.summary.counts["operations"] += writer.operations
            self.summary.counts["of unknown outcome"] += writer.uncertain
        for reader in readers:
            self.summary.counts.update(reader.counts)
            self.summary.violations += reader.violations

    def _trouble(self) -> None:
        """One kind after another, until the time is over; each is undone before the next."""
        kinds: list[Callable[[int], None]] = [
            self._idle_transaction, self._kill_a_server, self._deafen, self._change_engine,
            self._kill_postgres, self._freeze_a_server, self._stop_postgres, self._change_engine,
        ]  # fmt: skip
        end = time.monotonic() + self._plan.seconds
        for turn in itertools.count():
            time.sleep(min(self._plan.trouble_every, max(0.0, end - time.monotonic())))
            if time.monotonic() >= end:
                return
            kind = kinds[turn % len(kinds)]
            kind(turn // len(kinds))
            self.summary.counts[kind.__name__.strip("_").replace("_", " ")] += 1

    def _kill_a_server(self, turn: int) -> None:
        """The next one in each round."""
        server = self._servers[turn % len(self._servers)]
        server.kill()
        server.start()

    def _freeze_a_server(self, turn: int) -> None:
        """Another one than is killed in the same round."""
        server = self._servers[(turn + 1) % len(self._servers)]
        server.signal(signal.SIGSTOP)
        time.sleep(2)
        server.signal(signal.SIGCONT)

    def _deafen(self, _turn: int) -> None:
        """Cut the connections that listen for notifications."""
        with self._database.engine.begin() as connection:
            cut = connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
                )
            )
            self.summary.counts["listeners cut"] += len(cut.all())

    def _change_engine(self, _turn: int) -> None:
        with self._database.write() as connection:
            spaces.set_engine(connection, self._world.space.id, next(self._engines))  # type: ignore[arg-type]

    def _kill_postgres(self, _turn: int) -> None:
        pid = EmbeddedPostgres(self._home).status().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def _stop_postgres(self, _turn: int) -> None:
        """Whoever needs it next starts it again."""
        EmbeddedPostgres(self._home).stop()

    def _idle_transaction(self, _turn: int) -> None:
        """Holds a transaction id and a row that nobody needs, as a forgotten session does.

        Counted as held if nothing ended it before its time.
        """

        def hold() -> None:
            with contextlib.suppress(Exception), self._database.engine.begin() as connection:
                connection.execute(text("SELECT pg_current_xact_id()"))
                connection.execute(text("SELECT 1 FROM alembic_version FOR UPDATE"))
                time.sleep(3 * self._plan.trouble_every)
                connection.execute(text("SELECT 1"))
                self.summary.counts["idle transaction held"] += 1

        threading.Thread(target=hold, daemon=True).start()

    def _sweep(self, number: int, server: Server) -> None:
        """Its cache must come to the last version, and then tell everything as the database has it."""
        truth = owners_in_database(self._database, self._world)
        with self._database.read() as connection:
            version = spaces.get(connection, self._world.space.id).version
        server.wait_until_it_answers()
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            known = self._known()
            for start in range(0, len(known), SWEEP):
                some = known[start : start + SWEEP]
                vectors = np.stack([vector for _, vector, _ in some])
                try:
                    answer = _patiently(client, self._world.name, vectors, version)
                except TimeoutError as error:
                    self.summary.violations.append(f"at the end, server {number}: {error}")
                    return
                for (what, vector, owner), face in zip(some, answer["results"], strict=True):
                    self.summary.counts["checked at the end"] += 1
                    stored, said = truth.get(fingerprint(vector)), owner_of(face)
                    if not stored == said == owner:
                        self.summary.violations.append(
                            f"at the end, server {number}: {what} is {stored!r}'s "
                            f"in the database, {owner!r}'s by the ledger, said {said!r}"
                        )

    def _known(self) -> list[tuple[str, np.ndarray, Owner]]:
        """Every face that there ever was, and whose it must be: those from before the fire too."""
        first = [(f"p{n}", self._world.vectors[n], f"p{n}") for n in range(FIRST_FACES)]
        return first + [(f"face {r.number}", r.vector, r.owner) for r in self._ledger.faces]


def _end(threads: Sequence[Writer | Reader]) -> None:
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(JOIN_S)


def _patiently(
    client: httpx.Client, gallery: str, vectors: np.ndarray, version: int
) -> dict[str, Any]:
    """From memory, at that version. Raises TimeoutError: the database's answers prove nothing here."""
    deadline = time.monotonic() + SETTLE_S
    told = "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answer = find(client, gallery, vectors, min_version=version)
            engine = answer["engine"]
            told = f"{engine['name']} at {engine['version']}"
            if engine["name"].startswith("faiss") and engine["version"] >= version:
                return answer
        time.sleep(0.2)
    raise TimeoutError(f"the cache did not come to version {version}; the last answer: {told}")


def fire(plan: Plan) -> Summary:
    weights = Settings().weights_folder
    with temporary_home(weights) as home:
        return Fire(home, plan).run()
