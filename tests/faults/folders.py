"""Folders of people, and the indexer as a process that can be killed while it reads one."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlalchemy import text

from tests.faults.service import environment
from tests.faults.world import World
from tests.service.conftest import REPOSITORY

PEOPLE, EACH = 18, 2
"""More than one batch of the indexer."""
INDEX_S = 300.0


def folder(world: World, chance: random.Random) -> Path:
    """People of two photographs each."""
    made = Path(tempfile.mkdtemp(prefix="tree-", dir=world.outside))
    for person in range(PEOPLE):
        home = made / f"person {person:02}"
        home.mkdir()
        for number in range(EACH):
            (home / f"{number}.jpg").write_bytes(world.photos.take(chance))
    return made


def indexer(world: World, tree: Path) -> subprocess.Popen[bytes]:
    """`facesearch index` of the folder, into a gallery of its name."""
    command = [sys.executable, "-m", "indexer.cli", "index", str(tree), "--gallery", tree.name]
    with (world.outside / "indexer.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment(world.home, downloads="false"), cwd=REPOSITORY,
            stdout=log, stderr=log,
        )  # fmt: skip


def finish(world: World, tree: Path) -> None:
    """Run it to its end, and look that everything of the folder is there, once."""
    process = indexer(world, tree)
    try:
        code = process.wait(INDEX_S)
    finally:
        process.kill()
    if code:
        said = (world.outside / "indexer.log").read_text(errors="replace")[-500:]
        world.ledger.violation(f"the indexer ended with code {code}: {said}")
    files = sorted(str(path.relative_to(tree)) for path in tree.rglob("*.jpg"))
    if stored(world, tree) != files:
        world.ledger.violation(f"{len(stored(world, tree))} of {len(files)} files are indexed")


def begun(world: World, tree: Path) -> bool:
    """Whether a run has come so far as to make the gallery."""
    with world.database() as database, database.read() as connection:
        query = text("SELECT 1 FROM gallery WHERE name = :gallery")
        return connection.scalar(query, {"gallery": tree.name}) is not None


def stored(world: World, tree: Path) -> list[str]:
    """The folder's files that are indexed and can be found."""
    with world.database() as database, database.read() as connection:
        rows = connection.execute(
            text(
                "SELECT m.locator FROM image m JOIN gallery g ON g.id = m.gallery_id"
                " WHERE g.name = :gallery AND m.state = 'ready' ORDER BY m.locator"
            ),
            {"gallery": tree.name},
        )
        return sorted(row[0] for row in rows)
