"""An import that is killed leaves whole people, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from indexer import moving
from indexer.commands import Tools
from indexer.errors import NotFound
from indexer.moving import Asked
from indexer.store import galleries

PEOPLE, EACH = 1500, 3
WAIT_S = 120.0
ATTEMPTS = 5


@pytest.fixture
def large(tmp_path: Path) -> Path:
    rows = np.random.default_rng(3).normal(size=(PEOPLE * EACH, 128))
    names = [f"person {n // EACH:05}" for n in range(len(rows))]
    path = tmp_path / "large.npz"
    np.savez(path, names=np.array(names), embeddings=rows)
    return path


def state(tools: Tools, gallery: str) -> tuple[int, set[int], int]:
    """People, how many images they have, and faces with an embedding."""
    with tools.database.read() as connection:
        try:
            held = galleries.get(connection, gallery)
        except NotFound:
            return 0, set(), 0
        each = connection.execute(
            text(
                "SELECT count(i.id) FROM identity p LEFT JOIN image i ON i.identity_id = p.id"
                " WHERE p.gallery_id = :id GROUP BY p.id"
            ),
            {"id": held.id},
        ).all()
        faces = connection.scalar(
            text("SELECT count(*) FROM embedding WHERE gallery_id = :id"), {"id": held.id}
        )
        return len(each), {row[0] for row in each}, int(faces or 0)


def kill_in_the_middle(tools: Tools, gallery: str, archive: Path) -> None:
    """Kill an import as soon as the first people are there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.cli", "import", str(archive), "--gallery", gallery],
        env={**os.environ, "FACESEARCH_HOME": str(tools.settings.home)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + WAIT_S
    while state(tools, gallery)[0] == 0 and time.monotonic() < deadline:
        assert process.poll() in (None, 0)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_in_the_middle(tools: Tools, gallery: str, large: Path, tmp_path: Path) -> None:
    moving.restore(tools, Asked(large, gallery="whole", made_by="test"), quiet=True)
    moving.export(tools, "whole", tmp_path / "whole.zip", quiet=True)
    for attempt in range(ATTEMPTS):
        name = f"{gallery} {attempt}"
        kill_in_the_middle(tools, name, tmp_path / "whole.zip")
        people, images, faces = state(tools, name)
        if people < PEOPLE:
            break
    assert 0 < people < PEOPLE, "it was never killed in the middle"
    assert (images, faces) == ({EACH}, EACH * people)
    done = moving.restore(tools, Asked(tmp_path / "whole.zip", gallery=name), quiet=True)
    assert done["counts"]["identities"] == PEOPLE - people
    assert done["counts"]["exists"] == EACH * people
    assert state(tools, name) == (PEOPLE, {EACH}, PEOPLE * EACH)


def test_an_export_that_is_killed_leaves_no_archive(
    tools: Tools, large: Path, tmp_path: Path
) -> None:
    moving.restore(tools, Asked(large, gallery="whole", made_by="test"), quiet=True)
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "indexer.cli", "export", "whole", "--to", str(folder / "a")]
    process = subprocess.Popen(
        command, env={**os.environ, "FACESEARCH_HOME": str(tools.settings.home)}
    )
    deadline = time.monotonic() + WAIT_S
    while not list(folder.glob(".a-*/images.jsonl")) and time.monotonic() < deadline:
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (folder / "a").exists():  # it was quicker: then it is whole
        moving.restore(tools, Asked(folder / "a", gallery="whole"), quiet=True)
    moving.export(tools, "whole", folder / "b", quiet=True)
    again = moving.restore(tools, Asked(folder / "b"), quiet=True)
    assert again["counts"] == {"exists": PEOPLE * EACH, "faces": 0}
