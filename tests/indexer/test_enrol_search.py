"""Enrolment, search, erasure, and the cache that follows: two views of one database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import text

from indexer import people
from indexer.cache.build import Options
from indexer.cache.follower import SearchCache
from indexer.enrol import Enroller, Extractor
from indexer.errors import Conflict, InvalidName, NotFound
from indexer.search import Query, Searcher
from indexer.settings import Settings
from indexer.store import galleries, identities
from indexer.store import tables as t
from indexer.store.engine import Database
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recipe, Recognizer, Selection

LIMIT = 0.0853


@pytest.fixture(scope="module")
def cache(database: Database) -> Iterator[SearchCache]:
    made = SearchCache(database, Options(2**30, None, 1))
    made.start()
    yield made
    made.close()


@pytest.fixture
def enroller(
    database: Database, recognizer: Recognizer, settings: Settings, gallery: str
) -> Enroller:
    with database.write() as connection:
        galleries.ensure(connection, gallery)
    return Enroller(database, Extractor(recognizer, settings), settings)


@pytest.fixture(scope="module")
def probe(recognizer: Recognizer, photos: dict[str, bytes]) -> np.ndarray:
    recipe = Recipe("Dlib", "mediapipe")
    image = decode(photos["obama3"], ImageLimits())
    return recognizer.embeddings(recognizer.represent([image], recipe, Selection())[0], recipe)


def names(
    searcher: Searcher, gallery: str, probe: np.ndarray, version: int = 0, limit: float = LIMIT
) -> tuple[list[str], str]:
    query = Query(gallery=gallery, threshold=limit, min_version=version, k=5)
    found = searcher.find(searcher.target(gallery), probe, query)
    return [m.identity for m in found.matches[0]], found.engine.name


def test_enrolled_found_erased(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    gallery: str,
    photos: dict[str, bytes],
    probe: np.ndarray,
) -> None:
    searcher = Searcher(database, cache)
    done = enroller.enrol(gallery, "Barack", [photos["obama1"], photos["nobody"], b"junk"])
    assert [i.status for i in done.images] == ["enrolled", "rejected", "rejected"]
    assert done.images[1].reason == "no face found"
    assert len(done.images[0].faces) == 1
    enroller.enrol(gallery, "Joe", [photos["biden"]])
    assert names(searcher, gallery, probe, done.version) == (["Barack"], "faiss-flat")
    gone = people.erase_identity(database, gallery, "Barack").version
    assert gone > done.version
    assert names(searcher, gallery, probe, gone) == ([], "faiss-flat")
    with database.read() as connection:
        assert galleries.counts(connection, galleries.get(connection, gallery)).faces == 1


def test_uploads_are_idempotent_by_content(
    database: Database, enroller: Enroller, gallery: str, photos: dict[str, bytes]
) -> None:
    first = enroller.enrol(gallery, "Joe", [photos["biden"]])
    again = enroller.enrol(gallery, "Joe", [photos["biden"], photos["biden"]])
    assert [i.status for i in again.images] == ["exists", "exists"]
    assert {i.image_id for i in again.images} == {first.images[0].image_id}
    assert again.version == first.version
    other = enroller.enrol(gallery, "Joseph", [photos["biden"]])
    assert other.images[0].status == "enrolled"


def test_simultaneous_uploads_of_one_file_make_one_image(
    enroller: Enroller, gallery: str, photos: dict[str, bytes]
) -> None:
    statuses: list[str] = []

    def go() -> None:
        statuses.append(enroller.enrol(gallery, "Joe", [photos["biden"]]).images[0].status)

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == ["enrolled"] + ["exists"] * 5


def test_nothing_is_left_when_everything_is_rejected(
    database: Database, enroller: Enroller, gallery: str, photos: dict[str, bytes]
) -> None:
    done = enroller.enrol(gallery, "Ghost", [photos["nobody"]])
    assert done.images[0].image_id is None
    with database.read() as connection, pytest.raises(NotFound):
        identities.find(connection, galleries.get(connection, gallery).id, "Ghost")


def test_unknown_gallery_and_bad_names(enroller: Enroller, gallery: str) -> None:
    with pytest.raises(NotFound):
        enroller.enrol("no such gallery", "Joe", [b""])
    for bad in ("", "  ", "a/b", "a\x00b", "x" * 256):
        with pytest.raises(InvalidName):
            enroller.enrol(gallery, bad, [b""])


def test_rename_merge_and_metadata_filters(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    gallery: str,
    photos: dict[str, bytes],
    probe: np.ndarray,
) -> None:
    searcher = Searcher(database, cache)
    enroller.enrol(gallery, "Barack", [photos["obama1"]])
    enroller.enrol(gallery, "B. Obama", [photos["obama2"], photos["obama1"]])
    last = enroller.enrol(gallery, "Joe", [photos["biden"]])
    assert set(names(searcher, gallery, probe, last.version)[0]) == {"Barack", "B. Obama"}
    with pytest.raises(Conflict, match="merge"):
        people.change_identity(
            database, gallery, "B. Obama", people.Change(name="Barack", metadata=None, merge=False)
        )
    version = people.change_identity(
        database, gallery, "B. Obama", people.Change(name="Barack", metadata=None, merge=True)
    )
    assert names(searcher, gallery, probe, version)[0] == ["Barack"]
    people.change_identity(
        database, gallery, "Barack", people.Change(name="44", metadata={"term": 2}, merge=False)
    )
    for engine in (searcher, Searcher(database, None)):
        for metadata, expected in (({"term": 2}, ["44"]), ({"term": 3}, [])):
            query = Query(gallery=gallery, threshold=2.0, metadata=metadata)
            found = engine.find(engine.target(gallery), probe, query)
            assert [m.identity for m in found.matches[0]] == expected
        query = Query(gallery=gallery, threshold=2.0, identities=("Joe", "nobody"))
        found = engine.find(engine.target(gallery), probe, query)
        assert [m.identity for m in found.matches[0]] == ["Joe"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "euclidean_l2", "angular"])
def test_cache_and_database_give_the_same_answer(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    gallery: str,
    photos: dict[str, bytes],
    probe: np.ndarray,
    metric: str,
) -> None:
    for person, photo in (("a", "obama1"), ("a", "obama2"), ("b", "biden"), ("c", "biden_dark")):
        version = enroller.enrol(gallery, person, [photos[photo]]).version
    answers = []
    for engine in (Searcher(database, cache), Searcher(database, None)):
        query = Query(
            gallery=gallery, threshold=10.0, metric=metric, group_by="face", min_version=version
        )  # type: ignore[arg-type]
        answers.append(engine.find(engine.target(gallery), probe, query))
    assert [a.engine.name for a in answers] == ["faiss-flat", "pgvector"]
    rows = [[(m.face_id, m.identity) for m in a.matches[0]] for a in answers]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    distances = [[m.distance for m in a.matches[0]] for a in answers]
    assert np.allclose(*distances, atol=2e-6)


def test_a_write_by_another_process_is_seen_within_a_second(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    settings: Settings,
    gallery: str,
    photos: dict[str, bytes],
    probe: np.ndarray,
) -> None:
    enroller.enrol(gallery, "Barack", [photos["obama1"]])
    enroller.enrol(gallery, "Joe", [photos["biden"]])
    searcher = Searcher(database, cache)
    assert names(searcher, gallery, probe)[0] == ["Barack"] or _soon(
        searcher, gallery, probe, ["Barack"]
    )
    subprocess.run(
        [sys.executable, "-m", "indexer.cli", "identities", "delete", "Barack", "--yes",
         "--gallery", gallery],
        env={**os.environ, "FACESEARCH_HOME": str(settings.home)}, check=True, capture_output=True,
    )  # fmt: skip
    assert _soon(searcher, gallery, probe, [])


def _soon(searcher: Searcher, gallery: str, probe: np.ndarray, expected: list[str]) -> bool:
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if names(searcher, gallery, probe)[0] == expected:
            return True
        time.sleep(0.02)
    return False


def test_cache_equals_database_after_a_storm_of_writers(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    gallery: str,
    photos: dict[str, bytes],
) -> None:
    """No change of simultaneous writers is lost: afterwards the cache holds what the table holds."""

    def write(worker: int) -> None:
        for n in range(6):
            name = f"w{worker}-{n % 3}"
            enroller.enrol(gallery, name, [photos["biden"] + bytes([worker, n])])
            if n % 2:
                people.erase_identity(database, gallery, name)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target = Searcher(database, cache).target(gallery)
    index = cache.index(target.space.id, target.space.version, 5)
    assert index is not None
    with database.read() as connection:
        rows = connection.execute(
            text("SELECT face_id FROM embedding WHERE space_id = :s AND gallery_id = :g"),
            {"s": target.space.id, "g": target.gallery_id},
        ).scalars()
        stored = set(rows)
    held = index.view(target.gallery_id)
    assert held is not None
    assert set(held.taken(None).faces.tolist()) == stored
    assert held.size == len(stored)


def test_a_restored_database_makes_the_cache_load_anew(
    database: Database,
    cache: SearchCache,
    enroller: Enroller,
    gallery: str,
    photos: dict[str, bytes],
    probe: np.ndarray,
) -> None:
    """The version goes back, as after restoring a backup, and rows changed without any log."""
    version = enroller.enrol(gallery, "Barack", [photos["obama1"]]).version
    searcher = Searcher(database, cache)
    assert names(searcher, gallery, probe, version)[0] == ["Barack"]
    target = searcher.target(gallery)
    with database.write() as connection:
        connection.execute(t.image.delete().where(t.image.c.gallery_id == target.gallery_id))
        connection.execute(t.space.update().values(version=t.space.c.version - 1))
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        index = cache.index(target.space.id, 0, 1)
        if index is not None and index.version < version:
            break
        time.sleep(0.05)
    held = index.view(target.gallery_id) if index else None
    assert held is None or held.size == 0
    with database.write() as connection:
        connection.execute(t.space.update().values(version=t.space.c.version + 2))


def test_erasing_a_gallery_leaves_no_rows(
    database: Database, enroller: Enroller, gallery: str, photos: dict[str, bytes]
) -> None:
    enroller.enrol(gallery, "Barack", [photos["obama1"], photos["obama2"]])
    with database.read() as connection:
        gallery_id = galleries.get(connection, gallery).id
    people.erase_gallery(database, gallery)
    with database.read() as connection:
        for table in ("identity", "image", "embedding"):
            left = connection.execute(
                text(f"SELECT count(*) FROM {table} WHERE gallery_id = :g"), {"g": gallery_id}
            ).scalar()
            assert left == 0, table
        orphans = connection.execute(
            text(
                "SELECT count(*) FROM face f LEFT JOIN image i ON i.id = f.image_id WHERE i.id IS NULL"
            )
        ).scalar()
        assert orphans == 0


def test_kept_uploads_are_erased_with_their_person(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    gallery: str,
    photos: dict[str, bytes],
) -> None:
    keeping = settings.model_copy(update={"keep_uploads": True})
    with database.write() as connection:
        galleries.ensure(connection, gallery)
    enroller = Enroller(database, Extractor(recognizer, keeping), keeping)
    image_id = enroller.enrol(gallery, "Joe", [photos["biden"]]).images[0].image_id
    count = text("SELECT count(*) FROM original WHERE image_id = :i")
    with database.read() as connection:
        assert connection.execute(count, {"i": image_id}).scalar() == 1
    assert image_id is not None
    people.erase_image(database, gallery, image_id)
    with database.read() as connection:
        assert connection.execute(count, {"i": image_id}).scalar() == 0
        with pytest.raises(NotFound):
            identities.find(connection, galleries.get(connection, gallery).id, "Joe")
