"""Threads, processes and a Ray cluster give the same faces; a worker that is killed loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from indexer import engines
from indexer.enrol import prepare_gallery
from indexer.ray_engine import RayCluster, wait_ready
from indexer.settings import Settings
from indexer.store import galleries
from indexer.store.engine import Database
from indexer.store.spaces import Space
from indexer.workshop import WorkerFailed
from recognition.pipeline import Recipe, Recognizer
from tests.indexer.conftest import variant, write_tree

PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="looks for workers in /proc")
WAIT_S = 120.0


@pytest.fixture(scope="module")
def tree(portraits: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen files of four people, and two that are none."""
    files = {
        f"{name.removesuffix('.jpg')}/{n}.jpg": variant(data, 0.8 + 0.1 * n)
        for name, data in portraits.items()
        for n in range(4)
    }
    return write_tree(
        tmp_path_factory.mktemp("tree"), {**files, "x/bad.jpg": b"no", "x/e.png": b""}
    )


@pytest.fixture
def targets(
    database: Database, recognizer: Recognizer, gallery: str, recipe: Recipe
) -> tuple[Space, ...]:
    with database.write() as connection:
        galleries.ensure(connection, gallery)
    return prepare_gallery(database, recognizer, gallery, lambda: recipe)


def command(settings: Settings, tree: Path, gallery: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "indexer.cli", "index", str(tree), "--gallery", gallery, "--json", *options],
        env={**os.environ, "FACESEARCH_HOME": str(settings.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def counts(process: subprocess.Popen[str]) -> Mapping[str, int]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found: Mapping[str, int] = json.loads(out)["counts"]
    return found


def stored(database: Database, gallery: str) -> dict[str, NDArray[np.float32]]:
    """Embeddings by path."""
    with database.read() as connection:
        rows = connection.execute(
            text(
                "SELECT i.locator, e.vec::text FROM embedding e JOIN face f ON f.id = e.face_id"
                " JOIN image i ON i.id = f.image_id JOIN gallery g ON g.id = i.gallery_id"
                " WHERE g.name = :name"
            ),
            {"name": gallery},
        ).all()
    return {path: np.array(json.loads(values), np.float32) for path, values in rows}


def same(a: dict[str, NDArray[np.float32]], b: dict[str, NDArray[np.float32]]) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[path], b[path], atol=1e-5) for path in a)


def workers(settings: Settings, name: str) -> list[int]:
    """Processes over this home whose command line has the name in it."""
    found = []
    for entry in PROC.iterdir():
        try:
            line = (entry / "cmdline").read_bytes()
            home = f"FACESEARCH_HOME={settings.home}\0".encode()
            if (
                entry.name.isdigit()
                and name.encode() in line
                and home in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_one(settings: Settings, name: str) -> None:
    end = time.monotonic() + WAIT_S
    while not (found := workers(settings, name)):
        assert time.monotonic() < end, f"no process {name}"
        time.sleep(0.05)
    os.kill(found[0], signal.SIGKILL)


@pytest.fixture(scope="module")
def local(database: Database, settings: Settings, tree: Path) -> dict[str, NDArray[np.float32]]:
    gallery = f"engines {uuid.uuid4()}"
    assert counts(command(settings, tree, gallery)) == EXPECTED
    return stored(database, gallery)


EXPECTED = {"unchanged": 0, "skipped": 0, "added": 16, "unreadable": 2}


def test_processes_give_the_same(
    database: Database, settings: Settings, tree: Path, gallery: str,
    local: dict[str, NDArray[np.float32]],
) -> None:  # fmt: skip
    done = command(settings, tree, gallery, "--engine", "processes", "--workers", "2")
    assert counts(done) == EXPECTED
    assert same(stored(database, gallery), local)
    assert len(local) == 16


@needs_proc
def test_ray_gives_the_same_though_a_worker_is_killed(
    database: Database, settings: Settings, tree: Path, gallery: str,
    local: dict[str, NDArray[np.float32]],
) -> None:  # fmt: skip
    pytest.importorskip("ray")
    running = command(settings, tree, gallery, "--engine", "ray", "--workers", "2")
    kill_one(settings, "ray::RemoteExtractor")
    assert counts(running) == EXPECTED
    assert same(stored(database, gallery), local)


class EndsOnce:
    """A worker whose process ends as it is asked whether it is ready, and does not when it is started again."""

    def __init__(self, ended: Path) -> None:
        self._ended = ended

    def ready(self) -> bool:
        if not self._ended.exists():
            self._ended.touch()
            os._exit(1)
        return True


def test_a_worker_that_ends_as_it_starts_is_waited_for(settings: Settings, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    cluster = RayCluster(settings, 1, None)
    try:
        remote = ray.remote(num_cpus=0)(EndsOnce)
        with pytest.raises(WorkerFailed, match="gives no workers"):
            wait_ready(ray, [remote.remote(tmp_path / "a")], WAIT_S)
        wait_ready(ray, [remote.options(max_restarts=-1).remote(tmp_path / "b")], WAIT_S)
    finally:
        cluster.close()


def test_a_cluster_that_is_not_there(settings: Settings, tree: Path, gallery: str) -> None:
    pytest.importorskip("ray")
    running = command(settings, tree, gallery, "--engine", "ray", "--address", "127.0.0.1:1")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in err
    assert "Traceback" not in err


def test_an_address_without_ray_is_refused(settings: Settings, tree: Path, gallery: str) -> None:
    running = command(settings, tree, gallery, "--address", "127.0.0.1:1")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "goes with --engine ray" in err


@pytest.fixture
def one(settings: Settings) -> Iterator[engines.WorkerProcess]:
    worker = engines.WorkerProcess(settings)
    yield worker
    worker.close()


def test_a_killed_worker_is_replaced(
    one: engines.WorkerProcess, targets: tuple[Space, ...], photos: dict[str, bytes]
) -> None:
    before = one.extract(photos["biden"], targets)
    pid = one.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    after = one.extract(photos["biden"], targets)
    assert one.pid != pid
    (space,) = targets
    assert np.array_equal(before.faces[space.id][0].embedding, after.faces[space.id][0].embedding)


class Poison:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_what_ends_every_worker_is_reported(
    one: engines.WorkerProcess, targets: tuple[Space, ...], photos: dict[str, bytes]
) -> None:
    found = one.extract(photos["biden"], (Poison(),))  # type: ignore[arg-type]
    assert (found.state, found.faces) == ("unreadable", {})
    assert found.reason == "reading it ended 2 worker processes"
    assert one.extract(photos["biden"], targets).state == "ready"


def test_what_ends_every_worker_of_a_cluster_is_reported(
    settings: Settings, targets: tuple[Space, ...], photos: dict[str, bytes]
) -> None:
    pytest.importorskip("ray")
    cluster = RayCluster(settings, 1, None)
    try:
        found = cluster.extract(photos["biden"], (Poison(),))  # type: ignore[arg-type]
        assert found.reason == "reading it ended 2 worker processes"
        assert cluster.extract(photos["biden"], targets).state == "ready"
    finally:
        cluster.close()


def test_a_worker_says_what_it_lacks(
    one: engines.WorkerProcess, targets: tuple[Space, ...], photos: dict[str, bytes]
) -> None:
    (space,) = targets
    other = replace(space, recipe=replace(space.recipe, version=space.recipe.version + 1))
    with pytest.raises(WorkerFailed, match="no longer what these embeddings were made with"):
        one.extract(photos["biden"], (other,))
    assert one.extract(photos["biden"], targets).state == "ready"
