"""Erasures that are proved: receipts, four processes that acknowledge them, and a search for remains."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from indexer import people
from indexer.settings import Settings
from indexer.store import erasures, jobs
from indexer.store.engine import Database
from recognition.metrics import normalise
from tests.service.conftest import Server, Start, problem, quoted
from tests.world import World, enrol

WAIT_S = 60.0
PROCESSES = 4
PERSON = 50
"""Of the world's people, one whom nobody has enrolled yet."""
NAME = "Ford Prefectnameß"


@pytest.fixture(scope="module")
def database(home: Path) -> Iterator[Database]:
    opened = Database.open(Settings(home=home))
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def world(database: Database) -> Iterator[World]:
    made = World(database, people=60)
    made.enrol(*range(40))
    yield made
    people.erase_gallery(database, made.name)


@pytest.fixture(scope="module")
def person(world: World, database: Database) -> str:
    """Enrolled before the servers start, under a name that is in no other test's gallery."""
    name = f"p{uuid.uuid4().hex}"
    enrol(world, database, {name: world.vectors[PERSON]})
    return name


@pytest.fixture(scope="module")
def servers(start: Start, person: str) -> Iterator[list[Server]]:
    """Four of them, which keep even small spaces on disk."""
    with ExitStack() as stack:
        yield [stack.enter_context(start(cache_snapshots="1")) for _ in range(PROCESSES)]


def until(client: httpx.Client, receipt: str, state: str, least: int = PROCESSES) -> dict[str, Any]:
    end = time.monotonic() + WAIT_S
    while True:
        answer = client.get(f"/erasures/{receipt}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        if told[state] and len(told["processes"]) >= least:
            return told
        assert time.monotonic() < end, told
        time.sleep(0.02)


def tables(database: Database) -> Iterator[tuple[str, str]]:
    """Each table with everything in it as text; vectors in full."""
    with database.read() as connection:
        names = connection.scalars(
            text(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'audit_log'"
            )
        ).all()
        for name in names:
            rows = connection.execute(
                text(f'SELECT row_to_json(r)::text FROM "{name}" r')
            ).scalars()
            yield name, "\n".join(rows)


def files(home: Path) -> Iterator[tuple[Path, bytes]]:
    """All below the home but the weights and the database's own."""
    for path in home.rglob("*"):
        inside = path.relative_to(home).parts
        if inside[0] not in ("weights", "postgres") and path.is_file():
            yield path, path.read_bytes()


def test_a_person_is_gone_from_everywhere(
    servers: list[Server], world: World, person: str, database: Database, home: Path
) -> None:
    base = f"/galleries/{quoted(world.name)}"
    needle = world.vectors[PERSON]
    with database.write() as connection:
        job = jobs.create(connection, "command", world.name, {}, "running")
        told = (
            {"path": f"{person}/secret.jpg", "reason": "x"},
            {"path": f"{person}.jpg", "reason": "x"},
            {"path": "p8/1.jpg", "reason": "x"},
        )
        jobs.report(connection, job, jobs.Progress("", 1, 1, {}, told))
        jobs.finish(connection, job, "done", None)
    unit = normalise(needle[None])[0].astype("<f4").tobytes()
    clients = [httpx.Client(base_url=s.url, timeout=60, trust_env=False) for s in servers]
    probe = {"embedding": needle.tolist(), "gallery": world.name, "threshold": 0.01}
    for client in clients:  # each holds the person, in memory and on disk
        end = time.monotonic() + WAIT_S
        while True:
            found = client.post("/find", json=probe).json()
            if found["engine"]["name"].startswith("faiss"):
                break
            assert time.monotonic() < end
            time.sleep(0.05)
        assert found["results"][0]["matches"][0]["identity"] == person
    assert any(unit in data for _, data in files(home))
    started = time.monotonic()
    erased = clients[0].delete(f"{base}/identities/{person}").json()
    told_all = until(clients[1], erased["erasure_id"], "acknowledged")
    print(f"acknowledged by {PROCESSES} processes after {time.monotonic() - started:.3f} s")
    assert (told_all["kind"], told_all["version"]) == ("identity", erased["version"])
    assert told_all["versions"] == {str(world.space.id): erased["version"]}
    assert len({p["pid"] for p in told_all["processes"]}) >= PROCESSES
    for client in clients:
        found = client.post("/find", json={**probe, "threshold": 2, "k": 100}).json()
        assert found["engine"]["version"] >= erased["version"]
        assert person not in [m["identity"] for m in found["results"][0]["matches"]]
    with database.read() as connection:
        left = jobs.get(connection, job)
    assert [error["path"] for error in left.errors] == ["p8/1.jpg"]
    hidden = str(float(needle[5]))[:9]
    for table, rows in tables(database):
        assert person not in rows, table
        assert hidden not in rows, table
    until(clients[2], erased["erasure_id"], "clean")
    assert not [path for path, data in files(home) if unit in data]
    for client in clients:
        client.close()


def test_memory_is_clean_in_the_end(start: Start, database: Database) -> None:
    """A small space that is not kept on disk is made anew at once."""
    world = World(database, people=60)
    world.enrol(*range(40))
    with start() as server, server.client() as client:
        end = time.monotonic() + WAIT_S
        probe = {"embedding": world.vectors[3].tolist(), "gallery": world.name}
        while not client.post("/find", json=probe).json()["engine"]["name"].startswith("faiss"):
            assert time.monotonic() < end
            time.sleep(0.05)
        erased = client.delete(f"/galleries/{quoted(world.name)}/identities/p3").json()
        told = until(client, erased["erasure_id"], "acknowledged", 1)
        mine = [p for p in told["processes"] if p["pid"] == server.process.pid]
        end = time.monotonic() + WAIT_S
        while not mine or mine[0]["clean_at"] is None:
            assert time.monotonic() < end, told
            time.sleep(0.1)
            told = client.get(f"/erasures/{erased['erasure_id']}").json()
            mine = [p for p in told["processes"] if p["pid"] == server.process.pid]
        found = client.post("/find", json={**probe, "threshold": 2, "k": 100}).json()
        assert len(found["results"][0]["matches"]) == 39
    people.erase_gallery(database, world.name)


def test_a_killed_process_is_not_waited_for(
    start: Start, client: httpx.Client, database: Database, gallery: str, photos: dict[str, bytes]
) -> None:
    with start() as doomed:
        with doomed.client() as there:
            assert there.get("/readyz").status_code == 200
        pid = doomed.process.pid
        end = time.monotonic() + WAIT_S
        while True:
            with database.read() as connection:
                rows = connection.execute(text("SELECT pid FROM cache_process")).scalars().all()
            if pid in rows:
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        doomed.process.wait()
        with database.write() as connection:  # as if it were long ago
            connection.execute(
                text(
                    "UPDATE cache_process SET seen_at = now() - make_interval(secs => :s) WHERE pid = :pid"
                ),
                {"s": erasures.LIVE_S + 1, "pid": pid},
            )
        person = f"/galleries/{quoted(gallery)}/identities/{quoted(NAME)}"
        assert client.post(f"{person}/images", files={"files": photos["obama"]}).status_code == 201
        receipt = client.delete(person).json()["erasure_id"]
        told = until(client, receipt, "acknowledged", 1)
        assert pid not in [p["pid"] for p in told["processes"]]


def test_a_stopped_process_signs_off(start: Start, database: Database) -> None:
    with start() as server:
        pid = server.process.pid
    with database.read() as connection:
        assert pid not in connection.execute(text("SELECT pid FROM cache_process")).scalars().all()


def test_receipts_of_images_and_galleries(
    client: httpx.Client, database: Database, photos: dict[str, bytes]
) -> None:
    name = f"receipts {uuid.uuid4()}"
    base = f"/galleries/{quoted(name)}"
    assert client.put(base).status_code == 201
    made = client.post(f"{base}/identities/a/images", files={"files": photos["obama"]}).json()
    image = client.delete(f"{base}/images/{made['files'][0]['image_id']}").json()
    told = until(client, image["erasure_id"], "acknowledged", 1)
    assert (told["kind"], told["gallery"]) == ("image", name)
    client.post(f"{base}/identities/b/images", files={"files": photos["biden"]})
    gone = client.delete(base).json()
    told = until(client, gone["erasure_id"], "acknowledged", 1)
    assert (told["kind"], told["version"]) == ("gallery", gone["version"])
    problem(client.get(f"/erasures/{uuid.uuid4()}"), 404, "not-found")
    assert client.get("/erasures/x").status_code == 422


def test_old_receipts_are_forgotten(database: Database) -> None:
    with database.write() as connection:
        kept = erasures.add(connection, "image", "g", 1, 1, {})
        old = erasures.add(connection, "image", "g", 1, 1, {})
        connection.execute(
            text("UPDATE erasure SET at = now() - make_interval(days => :d) WHERE id = :i"),
            {"d": erasures.KEEP_DAYS + 1, "i": old},
        )
        erasures.trim(connection)
        left = (
            connection.execute(text("SELECT id FROM erasure WHERE gallery = 'g'")).scalars().all()
        )
    assert left == [kept]
