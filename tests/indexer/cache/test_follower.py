"""The cache over a real database: loading, following, snapshots, other histories, engines, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from indexer import people
from indexer.cache.build import Options
from indexer.cache.follower import SearchCache
from indexer.cache.space import SpaceIndex
from indexer.enrol import Extracted, store_faces
from indexer.search import Query, Searcher
from indexer.store import galleries, identities, images, spaces, vectors
from indexer.store.engine import Database
from indexer.store.images import ImageRow
from indexer.store.spaces import Space
from recognition.metrics import normalise
from recognition.pipeline import Face
from recognition.types import Box, Detection
from tests.world import World

GB = 2**30


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    made = World(database)
    yield made
    people.erase_gallery(database, made.name)


@contextmanager
def running(database: Database, **options: object) -> Iterator[SearchCache]:
    given = {"memory": GB, "folder": None, "threads": 1, **options}
    cache = SearchCache(database, Options(**given))  # type: ignore[arg-type]
    cache.start()
    try:
        until(lambda: cache.ready)
        yield cache
    finally:
        cache.close()


def until(true: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def at(cache: SearchCache, world: World, version: int) -> SpaceIndex:
    index = cache.index(world.space.id, version, 20)
    assert index is not None
    return index


def folders(root: Path, world: World) -> list[str]:
    return sorted(p.name.partition("-")[0] for p in root.glob(f"space-{world.space.id}/*-*"))


def test_it_loads_and_follows(world: World) -> None:
    world.enrol(0, 1, 2)
    with running(world.database) as cache:
        index = at(cache, world, 1)
        assert [world.found(index, n) for n in range(4)] == [True, True, True, False]
        version = world.enrol(3)
        assert world.found(at(cache, world, version), 3)
        version = world.erase(1)
        index = at(cache, world, version)
        assert [world.found(index, n) for n in range(4)] == [True, False, True, True]
        (state,) = [s for s in cache.states() if s.space_id == world.space.id]
        assert (state.version, state.lag, state.faces, state.engine) == (
            version,
            0,
            3,
            "faiss-flat",
        )
        assert state.bytes > 3 * 128 * 4


def test_while_it_loads_the_database_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading is held up in the middle; nothing else is different."""
    world.enrol(*range(30))
    go_on, each = threading.Event(), vectors.each

    def slowly(connection: Any, space: Space, take: Any) -> None:
        assert space.id != world.space.id or go_on.wait(30)
        each(connection, space, take)

    monkeypatch.setattr(vectors, "each", slowly)
    cache = SearchCache(world.database, Options(GB, None, 1))
    cache.start()
    try:
        until(lambda: f"space {world.space.id}: 0 of 30 faces" in cache.loading)
        assert not cache.ready
        searcher = Searcher(world.database, cache)
        query = Query(gallery=world.name, threshold=1e-6, k=1)
        target = searcher.target(world.name)
        found = searcher.find(target, world.vectors[5:6], query)
        assert [m.identity for m in found.matches[0]] == ["p5"]
        assert found.engine.name == "pgvector"
        go_on.set()
        until(lambda: cache.ready)
        assert cache.loading == ""
        assert searcher.find(target, world.vectors[5:6], query).engine.name == "faiss-flat"
    finally:
        go_on.set()
        cache.close()


def test_a_restart_goes_on_from_the_snapshot(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world.enrol(*range(20))
    with running(world.database, folder=tmp_path, snapshot_from=10):
        until(lambda: folders(tmp_path, world) == ["1"])
    version = world.enrol(20)
    world.erase(5)
    caplog.clear()
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        index = at(cache, world, version + 1)
        assert [n for n in range(22) if world.found(index, n)] == [*range(5), *range(6, 21)]
        assert index.base.mapped
    own = [r.getMessage() for r in caplog.records if f"space {world.space.id}:" in r.getMessage()]
    assert any(m.startswith("snapshot of space") for m in own)
    assert not any("loaded" in m for m in own)


def test_a_damaged_snapshot_is_replaced(world: World, tmp_path: Path) -> None:
    world.enrol(*range(20))
    with running(world.database, folder=tmp_path, snapshot_from=10):
        until(lambda: folders(tmp_path, world) == ["1"])
    (file,) = tmp_path.glob(f"space-{world.space.id}/1-*/unit.f32")
    data = bytearray(file.read_bytes())
    data[100] ^= 255
    file.write_bytes(data)
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        index = at(cache, world, 1)
        assert all(world.found(index, n) for n in range(20))
        (file,) = tmp_path.glob(f"space-{world.space.id}/1-*/unit.f32")
        assert file.read_bytes() != data


def test_two_processes_share_a_snapshot(world: World, tmp_path: Path) -> None:
    world.enrol(*range(20))
    with (
        running(world.database, folder=tmp_path, snapshot_from=10) as first,
        running(world.database, folder=tmp_path, snapshot_from=10) as second,
    ):
        assert folders(tmp_path, world) == ["1"]
        for cache in (first, second):
            assert at(cache, world, 1).base.mapped
            assert world.found(at(cache, world, 1), 7)


def test_another_history_with_the_same_versions_is_noticed(world: World, tmp_path: Path) -> None:
    """What a database put back to a backup looks like: version 2 is not the version 2 of before."""
    world.enrol(*range(20))
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        version = world.enrol(20)
        assert world.found(at(cache, world, version), 20)
        with world.database.write() as connection:  # version 2 and what it brought never were
            connection.execute(
                text("DELETE FROM identity WHERE name = 'p20' AND gallery_id = :g"),
                {"g": world.gallery},
            )
            connection.execute(
                text("DELETE FROM change_log WHERE space_id = :s AND version = 2"),
                {"s": world.space.id},
            )
            connection.execute(
                text("UPDATE space SET version = 1 WHERE id = :s"), {"s": world.space.id}
            )
            held = galleries.hold(connection, world.name)
            owners = identities.ensure(connection, held.id, ["p21"])
            row = ImageRow(
                gallery_id=held.id, identity_id=owners["p21"], sha256=bytes(32), size=1,
                state="ready", uploaded=True,
            )  # fmt: skip
            face = Face(Detection(Box(0, 0, 9, 9), 1.0), 1.0, world.vectors[21])
            item = Extracted(bytes(32), 1, "ready", None, 9, 9, {world.space.id: (face,)})
            changes: dict[int, list[tuple[int, str]]] = {}
            store_faces(connection, held.id, [(images.add(connection, row), item)], changes)
            assert spaces.publish(connection, changes)[world.space.id] == version
        until(lambda: world.found(at(cache, world, version), 21))
        assert not world.found(at(cache, world, version), 20)


def test_a_snapshot_of_another_history_is_not_used(world: World, tmp_path: Path) -> None:
    world.enrol(*range(20))
    with running(world.database, folder=tmp_path, snapshot_from=10):
        until(lambda: folders(tmp_path, world) == ["1"])
    with world.database.write() as connection:
        connection.execute(
            text("UPDATE space SET stamp = stamp + 1 WHERE id = :s"), {"s": world.space.id}
        )
        connection.execute(
            text("DELETE FROM identity WHERE name = 'p4' AND gallery_id = :g"), {"g": world.gallery}
        )
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        index = at(cache, world, 1)
        assert not world.found(index, 4)
        assert world.found(index, 5)


def test_a_log_that_was_trimmed_too_far_means_loading_anew(world: World) -> None:
    world.enrol(0)
    with running(world.database) as cache:
        at(cache, world, 1)
        with world.database.engine.begin() as connection:  # while the follower cannot look
            connection.execute(text("SELECT 1 FROM space FOR UPDATE"))
        with world.database.write() as connection:
            world_version = connection.scalar(
                text("SELECT version FROM space WHERE id = :s"), {"s": world.space.id}
            )
        assert world_version == 1
        version = world.enrol(1)
        with world.database.write() as connection:
            connection.execute(
                text("UPDATE change_log SET at = at - interval '30 days' WHERE space_id = :s"),
                {"s": world.space.id},
            )
            spaces.trim(connection, keep_days=7)
        version = world.enrol(2)
        index = at(cache, world, version)
        assert [world.found(index, n) for n in range(3)] == [True, True, True]
    with world.database.read() as connection:
        assert not spaces.continues(connection, world.space.id, 1, 0)


def test_many_changes_are_settled_in_the_background(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.cache.follower.SETTLE_FACES", 50)
    world.enrol(0)
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        for start in range(1, 201, 40):
            version = world.enrol(*range(start, start + 40))
        for n in range(0, 30, 3):
            version = world.erase(n)
        until(lambda: (at(cache, world, version).unsettled or 99) <= 50)
        until(lambda: len(at(cache, world, version).base.rows) > 100)
        index = at(cache, world, version)
        wanted = [n for n in range(201) if n >= 30 or n % 3]
        assert [n for n in range(202) if world.found(index, n)] == wanted
        assert index.base.mapped
        assert len(folders(tmp_path, world)) == 1
        (state,) = [s for s in cache.states() if s.space_id == world.space.id]
        assert state.builds >= 2


def test_erased_faces_leave_the_disk_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.cache.follower.SNAPSHOT_S", 0.2)
    world.enrol(*range(20))

    def on_disk(number: int) -> bool:
        face = normalise(world.vectors[number : number + 1]).tobytes()
        files = tmp_path.glob(f"space-{world.space.id}/[0-9]*/unit.f32")
        return any(face in file.read_bytes() for file in files)

    with running(world.database, folder=tmp_path, snapshot_from=10):
        until(lambda: on_disk(3) and on_disk(4))
        world.erase(3)
        until(lambda: not on_disk(3) and on_disk(4))
        for n in range(4, 15):
            world.erase(n)
        until(lambda: folders(tmp_path, world) == [])


def test_engines_change_without_a_pause(database: Database) -> None:
    world = World(database, people=4000)
    world.enrol(*range(4000))
    searcher_query = Query(gallery=world.name, threshold=1e-6, k=1)
    with running(world.database) as cache:
        searcher = Searcher(world.database, cache)
        target = searcher.target(world.name)
        seen: list[str] = []
        for engine, name in (
            ("compressed", "faiss-pq4"), ("flat", "faiss-flat"),
            ("database", "pgvector"), ("auto", "faiss-flat"),
        ):  # fmt: skip
            with world.database.write() as connection:
                spaces.set_engine(connection, world.space.id, engine)
            deadline = time.monotonic() + 30
            while not seen or seen[-1] != name:
                assert time.monotonic() < deadline
                found = searcher.find(target, world.vectors[77:78], searcher_query)
                assert [m.identity for m in found.matches[0]] == ["p77"]
                seen.append(found.engine.name)
    people.erase_gallery(database, world.name)


def test_what_does_not_fit_the_memory_is_left_to_the_database(world: World) -> None:
    world.enrol(*range(300))
    with running(world.database, memory=100_000) as cache:
        assert cache.ready
        assert cache.index(world.space.id, 0, 0) is None
        searcher = Searcher(world.database, cache)
        query = Query(gallery=world.name, threshold=1e-6, k=1)
        found = searcher.find(searcher.target(world.name), world.vectors[5:6], query)
        assert [m.identity for m in found.matches[0]] == ["p5"]
        assert found.engine.name == "pgvector"
        (state,) = [s for s in cache.states() if s.space_id == world.space.id]
        assert (state.engine, state.faces) == ("pgvector", 0)


def test_a_folder_that_cannot_be_written_costs_only_the_snapshot(
    world: World, tmp_path: Path
) -> None:
    world.enrol(*range(20))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with running(world.database, folder=blocked / "cache", snapshot_from=10) as cache:
        index = at(cache, world, 1)
        assert world.found(index, 7)
        assert not index.base.mapped


def test_a_space_that_is_dropped_takes_its_snapshot_along(world: World, tmp_path: Path) -> None:
    world.enrol(*range(20))
    with running(world.database, folder=tmp_path, snapshot_from=10) as cache:
        until(lambda: folders(tmp_path, world) == ["1"])
        people.erase_gallery(world.database, world.name)
        with world.database.write() as connection:
            assert spaces.drop_unused(connection, world.space.id)
        until(lambda: not (tmp_path / f"space-{world.space.id}").exists())
        assert cache.index(world.space.id, 0, 0) is None
    with world.database.write() as connection:
        galleries.ensure(connection, world.name)
