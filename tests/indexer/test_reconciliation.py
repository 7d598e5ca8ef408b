"""Whatever happens to a folder: after a run the gallery holds what is in it, and another run finds nothing to do."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase
from hypothesis import settings as tries
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image
from sqlalchemy import select

from indexer.index import Indexer
from indexer.progress import Run, Silent
from indexer.settings import Settings
from indexer.store import galleries, jobs
from indexer.store import tables as t
from indexer.store.engine import Database
from recognition.pipeline import Recognizer
from tests.indexer.conftest import RECIPE

PEOPLE, FILES = ("Ada", "Bob", "Åsa"), ("1.png", "2.png", "sub/3.png")
WHAT = ("write", "write", "copy", "copy", "move", "remove", "person")
PLACES = st.tuples(st.sampled_from(PEOPLE), st.sampled_from(FILES)).map("/".join)
CHANGES = st.tuples(st.sampled_from(WHAT), PLACES, PLACES, st.integers(0, 4))


def blank(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def small(jpeg: bytes) -> bytes:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((160, 160))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Folder(RuleBasedStateMachine):
    """A folder of people that changes, and the gallery that follows it."""

    database: Database
    recognizer: Recognizer
    settings: Settings
    contents: tuple[bytes, ...]
    made = 0

    @initialize()
    def begin(self) -> None:
        type(self).made += 1
        self.gallery = f"reconciled {self.made} {id(self)}"
        self.root = Path(tempfile.mkdtemp(prefix="facesearch-tree-"))

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=3))
    def change_and_index(self, changes: list[tuple[str, str, str, int]]) -> None:
        for change in changes:
            self.change(*change)
        self.run()
        assert self.stored() == self.lying()
        again = self.run()
        assert set(+again) <= {"unchanged"}
        self.whole()

    def change(self, what: str, source: str, goal: str, which: int) -> None:
        here, there = self.root / source, self.root / goal
        there.parent.mkdir(parents=True, exist_ok=True)
        if what == "write":
            there.write_bytes(self.contents[which])
        elif what == "person":
            shutil.rmtree(there.parent)
        elif here.exists() and here != there:
            if what == "copy":
                shutil.copyfile(here, there)
            elif what == "move":
                here.replace(there)
            else:
                here.unlink()

    @invariant()
    def files_are_few(self) -> None:
        if hasattr(self, "root"):
            assert len(self.lying()) <= len(PEOPLE) * len(FILES)

    def run(self) -> Counter[str]:
        with self.database.write() as connection:
            galleries.ensure(connection, self.gallery)
            job = jobs.create(connection, "command", self.gallery, {}, "running")
        with Run(self.database, job, Silent()) as run:
            Indexer(self.database, self.recognizer, self.settings, self.gallery).run(
                self.root, RECIPE, 100, run
            )
        return Counter(run.counts)

    def lying(self) -> dict[str, bytes]:
        """Hash of every file by its path."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).digest()
            for path in self.root.rglob("*.png")
        }

    def stored(self) -> dict[str, bytes]:
        i = t.image.c
        with self.database.read() as connection:
            held = galleries.get(connection, self.gallery)
            rows = connection.execute(
                select(i.locator, i.sha256, t.identity.c.name)
                .join_from(t.image, t.identity)
                .where(i.gallery_id == held.id)
            ).all()
        assert all(row.locator.partition("/")[0] == row.name for row in rows)
        return {row.locator: bytes(row.sha256) for row in rows}

    def whole(self) -> None:
        """Nobody without a photograph; each content of a person once with faces, its copies without."""
        i, f = t.image.c, t.face.c
        with self.database.read() as connection:
            held = galleries.get(connection, self.gallery)
            people = connection.scalars(
                select(t.identity.c.name).where(t.identity.c.gallery_id == held.id)
            ).all()
            rows = connection.execute(
                select(i.id, i.identity_id, i.sha256, i.state).where(i.gallery_id == held.id)
            ).all()
            faces = Counter(
                connection.scalars(
                    select(f.image_id).join_from(t.face, t.image).where(i.gallery_id == held.id)
                )
            )
        assert set(people) == {place.partition("/")[0] for place in self.lying()}
        readable = [r for r in rows if r.state != "unreadable"]
        kept = Counter((r.identity_id, r.sha256) for r in readable if r.state != "duplicate")
        assert set(kept.values()) <= {1}
        assert set(kept) == {(r.identity_id, r.sha256) for r in readable}
        assert all((faces[r.id] == 1) == (r.state == "ready") for r in rows)


def test_whatever_happens_to_a_folder(
    database: Database, recognizer: Recognizer, settings: Settings, photos: dict[str, bytes]
) -> None:
    portraits = (small(photos["obama1"]), small(photos["biden"]))
    held = {
        "database": database,
        "recognizer": recognizer,
        "settings": settings,
        "contents": (*portraits, blank(0), blank(90), b"no image"),
    }
    machine = type("Held", (Folder,), held)

    machine.TestCase.settings = few()
    machine.TestCase("runTest").runTest()


def few() -> tries:
    return tries(
        max_examples=10,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
