"""Moving a gallery to another detector while it is searched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from indexer.enrol import Enroller, Extractor
from indexer.errors import CannotReembed
from indexer.index import Indexer
from indexer.progress import Run, Silent
from indexer.reindex import Reindexer
from indexer.search import Query, Searcher
from indexer.settings import Settings
from indexer.store import galleries, jobs, spaces
from indexer.store.engine import Database
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recipe, Recognizer, Selection
from tests.indexer.conftest import write_tree

LATE = 1000
OLD, NEW = Recipe("Dlib", "mediapipe"), Recipe("Dlib", "mtcnn")


def start(database: Database, gallery: str) -> Run:
    with database.write() as connection:
        galleries.ensure(connection, gallery)
        job = jobs.create(connection, "command", gallery, {}, "running")
    return Run(database, job, Silent())


@pytest.fixture
def tree(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/2.jpg": photos["obama2"],
            "Joe/1.jpg": photos["biden"],
        },
    )


def test_reindex_switches_while_searches_go_on(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    gallery: str,
    tree: Path,
    photos: dict[str, bytes],
) -> None:
    with start(database, gallery) as run:
        Indexer(database, recognizer, settings, gallery).run(tree, OLD, 20, run)
    keeping = settings.model_copy(update={"keep_uploads": True})
    enroller = Enroller(database, Extractor(recognizer, keeping), keeping)
    enroller.enrol(gallery, "Barack", [photos["obama3"]])
    with database.write() as connection:
        galleries.lock(connection, gallery)
        spaces.raise_to(connection, _space(database, OLD), LATE)
    searcher = Searcher(database, None)
    image = decode(photos["obama3"], ImageLimits())
    probe = recognizer.embeddings(recognizer.represent([image], OLD, Selection())[0], OLD)
    answers: list[list[str]] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            found = searcher.find(
                searcher.target(gallery), probe, Query(gallery=gallery, threshold=0.0853)
            )
            answers.append([m.identity for m in found.matches[0]])

    watcher = threading.Thread(target=search)
    watcher.start()
    reindexer = Reindexer(database, recognizer, settings, gallery)
    with start(database, gallery) as run:
        reindexer.run(NEW, 20, run)
        old_space = _space(database, OLD)
        reindexer.drop_unused(run)
    stop.set()
    watcher.join()
    assert run.counts["embedded"] == 4
    assert run.counts["dropped"] == 4
    assert answers
    assert all(answer == ["Barack"] for answer in answers)
    assert searcher.target(gallery).space.recipe == NEW
    later = Query(gallery=gallery, threshold=0.0853, min_version=LATE)
    assert searcher.find(searcher.target(gallery), probe, later).engine.version >= LATE
    with database.read() as connection:
        counts = galleries.counts(connection, galleries.get(connection, gallery))
        assert (counts.faces, counts.images) == (4, 4)
        found = spaces.find(connection, OLD)
        assert found is None or found.id == old_space


def test_an_interrupted_reindex_carries_on(
    database: Database, recognizer: Recognizer, settings: Settings, gallery: str, tree: Path
) -> None:
    with start(database, gallery) as run:
        Indexer(database, recognizer, settings, gallery).run(tree, OLD, 20, run)
    stopped = start(database, gallery)
    stopped.interrupted = lambda: True
    with pytest.raises(Exception, match="run it again"), stopped as run:
        Reindexer(database, recognizer, settings, gallery).run(NEW, 20, run)
    assert Searcher(database, None).target(gallery).space.recipe == OLD
    with start(database, gallery) as run:
        Reindexer(database, recognizer, settings, gallery).run(NEW, 20, run)
    assert run.counts["embedded"] == 0, "all were embedded before the interruption was noticed"
    assert Searcher(database, None).target(gallery).space.recipe == NEW


def test_uploads_without_originals_stop_the_move(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    gallery: str,
    photos: dict[str, bytes],
) -> None:
    with database.write() as connection:
        galleries.ensure(connection, gallery)
    Enroller(database, Extractor(recognizer, settings), settings).enrol(
        gallery, "Joe", [photos["biden"]]
    )
    with pytest.raises(CannotReembed, match="1 of 1"), start(database, gallery) as run:
        Reindexer(database, recognizer, settings, gallery).run(NEW, 20, run)
    assert Searcher(database, None).target(gallery).space.recipe == OLD
    with database.read() as connection:
        assert galleries.get(connection, gallery).building_space_id is None


def test_new_faces_go_to_both_spaces_during_a_move(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    gallery: str,
    photos: dict[str, bytes],
) -> None:
    with database.write() as connection:
        made = galleries.ensure(connection, gallery)
        old, new = spaces.ensure(connection, OLD, 128), spaces.ensure(connection, NEW, 128)
        galleries.set_spaces(connection, made.id, active=old.id, building=new.id)
    Enroller(database, Extractor(recognizer, settings), settings).enrol(
        gallery, "Joe", [photos["biden"]]
    )
    with start(database, gallery) as run:
        Reindexer(database, recognizer, settings, gallery).run(NEW, 0, run)
    assert run.counts["embedded"] == 0
    with database.read() as connection:
        assert galleries.counts(connection, galleries.get(connection, gallery)).faces == 1


def _space(database: Database, recipe: Recipe) -> int | None:
    with database.read() as connection:
        found = spaces.find(connection, recipe)
    return found.id if found else None
