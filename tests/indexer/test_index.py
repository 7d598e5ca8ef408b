"""Folders into galleries: real photographs, real database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from indexer import people
from indexer.crawl import NoSuchTree
from indexer.errors import Cancelled, Conflict, TooManyVanished
from indexer.index import Indexer
from indexer.progress import Run, Silent
from indexer.search import Query, Searcher
from indexer.settings import Settings
from indexer.store import galleries, images, jobs
from indexer.store.engine import Database
from recognition.pipeline import Recipe, Recognizer
from tests.indexer.conftest import write_tree


class Runner:
    """Runs the indexer over one gallery and tells what it counted."""

    def __init__(
        self, database: Database, recognizer: Recognizer, settings: Settings, gallery: str
    ) -> None:
        self.database, self.gallery = database, gallery
        self.indexer = Indexer(database, recognizer, settings, gallery)
        self.errors: list[dict[str, str]] = []
        self.stop = threading.Event()

    def __call__(
        self, tree: Path, recipe: Recipe | None = None, max_delete: float = 20
    ) -> dict[str, int]:
        with self.database.write() as connection:
            job = jobs.create(connection, "command", self.gallery, {}, "running")
        with Run(self.database, job, Silent()) as run:
            run.interrupted = self.stop.is_set
            self.indexer.run(tree, recipe or Recipe("Dlib", "mediapipe"), max_delete, run)
        self.errors = run.errors
        return {k: v for k, v in run.counts.items() if v}

    def people(self) -> dict[str, list[str]]:
        """Identity -> locators of its images with a face."""
        with self.database.read() as connection:
            gallery = galleries.get(connection, self.gallery)
            roots = galleries.roots(connection, gallery.id)
            known = [k for r in roots for k in images.known_files(connection, gallery.id, r)]
        found: dict[str, list[str]] = {}
        for row in known:
            if row.state == "ready":
                found.setdefault(row.identity, []).append(row.locator)
        return {name: sorted(locators) for name, locators in found.items()}


@pytest.fixture
def run(database: Database, recognizer: Recognizer, settings: Settings, gallery: str) -> Runner:
    return Runner(database, recognizer, settings, gallery)


@pytest.fixture
def tree(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "people",
        {
            "Ölga/1.jpg": photos["obama1"],
            "Ölga/deep/er/2.jpg": photos["obama2"],
            "Joe.jpg": photos["biden"],
        },
    )


def test_first_run_and_second_run(run: Runner, tree: Path) -> None:
    assert run(tree) == {"added": 3}
    assert run.people() == {"Ölga": ["Ölga/1.jpg", "Ölga/deep/er/2.jpg"], "Joe": ["Joe.jpg"]}
    assert run(tree) == {"unchanged": 3}


def test_a_touched_file_with_the_same_content_is_not_embedded_again(
    run: Runner, tree: Path
) -> None:
    run(tree)
    faces = _face_ids(run)
    os.utime(tree / "Joe.jpg", (1, 1))
    assert run(tree) == {"unchanged": 3}
    assert _face_ids(run) == faces


def test_changed_content_replaces_the_face(
    run: Runner, tree: Path, photos: dict[str, bytes]
) -> None:
    run(tree)
    before = _face_ids(run)
    (tree / "Joe.jpg").write_bytes(photos["biden_dark"])
    assert run(tree) == {"unchanged": 2, "changed": 1}
    after = _face_ids(run)
    assert len(after) == 3
    assert len(before & after) == 2


def test_moved_files_keep_their_faces(run: Runner, tree: Path) -> None:
    run(tree)
    faces = _face_ids(run)
    (tree / "Ölga").rename(tree / "Olga")
    (tree / "Joe").mkdir()
    (tree / "Joe.jpg").rename(tree / "Joe" / "portrait.jpg")
    assert run(tree) == {"moved": 3}
    assert run.people() == {
        "Olga": ["Olga/1.jpg", "Olga/deep/er/2.jpg"],
        "Joe": ["Joe/portrait.jpg"],
    }
    assert _face_ids(run) == faces


def test_a_whole_tree_that_moved_keeps_its_faces(run: Runner, tree: Path) -> None:
    run(tree)
    faces = _face_ids(run)
    tree.rename(tree.parent / "elsewhere")
    assert run(tree.parent / "elsewhere") == {"moved": 3}
    assert _face_ids(run) == faces


def test_a_copy_takes_the_place_of_its_vanished_original(run: Runner, tree: Path) -> None:
    shutil.copy(tree / "Ölga" / "1.jpg", tree / "Ölga" / "copy.jpg")
    assert run(tree) == {"added": 3, "duplicate": 1}
    faces = _face_ids(run)
    stored = run.people()["Ölga"]
    original = next(name for name in stored if "deep" not in name)
    (tree / original).unlink()
    assert run(tree)["moved"] == 1
    assert _face_ids(run) == faces
    assert set(run.people()["Ölga"]) == {"Ölga/1.jpg", "Ölga/copy.jpg", "Ölga/deep/er/2.jpg"} - {
        original
    }


def test_a_copy_stands_for_a_file_that_changed(
    run: Runner, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    """Found by fuzzing: the copy had no face of its own, and the person none any more."""
    files = {"Joe/1.jpg": photos["biden"], "Joe/2.jpg": photos["biden"]}
    tree = write_tree(tmp_path / "people", files)
    assert run(tree) == {"added": 1, "duplicate": 1}
    (tree / "Joe" / "1.jpg").write_bytes(b"no image")
    run(tree)
    assert run.people() == {"Joe": ["Joe/2.jpg"]}
    assert run(tree) == {"unchanged": 2}


def test_vanished_files_go_with_their_faces_below_the_guard(run: Runner, tree: Path) -> None:
    run(tree)
    shutil.rmtree(tree / "Ölga")
    with pytest.raises(TooManyVanished, match="2 of 3"):
        run(tree)
    assert len(_face_ids(run)) == 3
    assert run(tree, max_delete=70) == {"unchanged": 1, "removed": 2}
    assert run.people() == {"Joe": ["Joe.jpg"]}
    assert len(_face_ids(run)) == 1


def test_an_unmounted_tree_changes_nothing(run: Runner, tree: Path) -> None:
    run(tree)
    shutil.rmtree(tree)
    with pytest.raises(NoSuchTree):
        run(tree)
    tree.mkdir()
    with pytest.raises(TooManyVanished):
        run(tree)
    assert len(_face_ids(run)) == 3


def test_bad_files_are_recorded_with_reasons(
    run: Runner, tree: Path, photos: dict[str, bytes]
) -> None:
    half = photos["obama3"][: len(photos["obama3"]) // 2]
    write_tree(
        tree,
        {
            "Ann/white.png": photos["nobody"],
            "Ann/half.jpg": half,
            "Ann/text.jpg": b"hello",
            "Ann/0.jpg": b"",
        },
    )
    assert run(tree) == {"added": 3, "no_face": 1, "unreadable": 3}
    reasons = {error["path"]: error["reason"] for error in run.errors}
    assert reasons["Ann/white.png"] == "no face found"
    assert "damaged" in reasons["Ann/half.jpg"]
    assert "not an image" in reasons["Ann/text.jpg"]
    assert "empty" in reasons["Ann/0.jpg"]
    assert run(tree) == {"unchanged": 7}
    assert len(_face_ids(run)) == 3


def test_a_known_file_that_cannot_be_read_keeps_its_face(run: Runner, tree: Path) -> None:
    """As when a network mount fails for a moment; here a link to what not even root can read."""
    run(tree)
    faces = _face_ids(run)
    data = (tree / "Joe.jpg").read_bytes()
    (tree / "Joe.jpg").unlink()
    (tree / "Joe.jpg").symlink_to("/proc/self/mem")
    counts = run(tree)
    assert counts == {"unchanged": 2, "unreadable": 1}
    assert "cannot be read" in run.errors[0]["reason"]
    assert _face_ids(run) == faces
    (tree / "Joe.jpg").unlink()
    (tree / "Joe.jpg").write_bytes(data)
    assert run(tree) == {"unchanged": 3}


def test_a_huge_file_is_not_read(
    database: Database, recognizer: Recognizer, settings: Settings, gallery: str, tree: Path
) -> None:
    with (tree / "Joe.jpg").open("r+b") as file:
        file.truncate(10**11)
    run = Runner(database, recognizer, settings, gallery)
    assert run(tree) == {"added": 2, "unreadable": 1}
    assert "100000000000 bytes" in run.errors[0]["reason"]


def test_a_dry_run_changes_nothing(run: Runner, tree: Path) -> None:
    assert run.indexer.diff(tree).counts()["new"] == 3
    run(tree)
    (tree / "Joe.jpg").rename(tree / "Joseph.jpg")
    (tree / "Ölga" / "1.jpg").unlink()
    difference = run.indexer.diff(tree)
    assert difference.counts() == {
        "unchanged": 1, "new": 0, "changed": 0, "moved": 1, "vanished": 1, "skipped": 0,
    }  # fmt: skip
    assert len(_face_ids(run)) == 3


def test_a_renamed_person_keeps_the_name_over_runs(
    run: Runner, tree: Path, photos: dict[str, bytes]
) -> None:
    run(tree)
    people.change_identity(
        run.database, run.gallery, "Ölga", people.Change(name="Olga K.", metadata=None, merge=False)
    )
    write_tree(tree, {"Ölga/3.jpg": photos["obama3"]})
    assert run(tree) == {"unchanged": 3, "added": 1}
    assert len(run.people()["Olga K."]) == 3


def test_another_model_or_detector_is_refused(run: Runner, tree: Path) -> None:
    run(tree)
    with pytest.raises(Conflict, match="facesearch reindex"):
        run(tree, Recipe("Dlib", "mtcnn"))


def test_two_runs_at_once_do_not_double_anything(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    gallery: str,
    tree: Path,
) -> None:
    counts: list[dict[str, int]] = []

    def go() -> None:
        counts.append(Runner(database, recognizer, settings, gallery)(tree))

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Counter[str]()
    for count in counts:
        total.update(count)
    assert total == {"added": 3, "unchanged": 6}
    assert len(_face_ids(Runner(database, recognizer, settings, gallery))) == 3


def test_cancelled_run_keeps_what_it_has_and_carries_on(
    run: Runner, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    files = {f"P{n}/{n}.jpg": photos["biden"] + bytes([n]) for n in range(70)}
    tree = write_tree(tmp_path / "many", files)
    run.stop.set()
    with pytest.raises(Cancelled):
        run(tree)
    first = len(_face_ids(run))
    assert first == 32, "one batch is committed before the run notices"
    run.stop.clear()
    assert run(tree) == {"unchanged": 32, "added": 38}


def test_kill_9_in_the_middle_loses_nothing(
    settings: Settings, run: Runner, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    files = {f"P{n}/{n}.jpg": photos["obama1"] + n.to_bytes(2, "big") for n in range(150)}
    tree = write_tree(tmp_path / "many", files)
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.cli", "index", str(tree), "--gallery", run.gallery,
         "--detector", "mediapipe", "--json"],
        env={**os.environ, "FACESEARCH_HOME": str(settings.home)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and _count(run) < 32:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _count(run)
    assert 32 <= done < 150
    assert done % 32 == 0, "batches are whole"
    counts = run(tree)
    assert counts == {"unchanged": done, "added": 150 - done}
    assert _count(run) == 150


def test_the_indexed_people_are_found(
    run: Runner, tree: Path, recognizer: Recognizer, photos: dict[str, bytes]
) -> None:
    run(tree)
    searcher = Searcher(run.database, None)
    target = searcher.target(run.gallery)
    from recognition.images import ImageLimits, decode
    from recognition.pipeline import Selection

    image = decode(photos["obama3"], ImageLimits())
    faces = recognizer.represent([image], target.space.recipe, Selection())[0]
    probes = recognizer.embeddings(faces, target.space.recipe)
    found = searcher.find(target, probes, Query(gallery=run.gallery, threshold=0.0853))
    assert [m.identity for m in found.matches[0]] == ["Ölga"]
    assert found.engine.name == "pgvector"
    assert found.engine.size == 3


def _face_ids(run: Runner) -> set[int]:
    with run.database.read() as connection:
        try:
            gallery = galleries.get(connection, run.gallery)
        except Exception:
            return set()
        from indexer.store import tables as t

        found = images.faces_of(connection, t.image.c.gallery_id == gallery.id)
    return {face for faces in found.values() for face in faces}


def _count(run: Runner) -> int:
    return len(_face_ids(run))
