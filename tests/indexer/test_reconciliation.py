"""Whatever happens to a folder: after a run the gallery holds what is in it, and another run finds nothing to do."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck
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
PLACES = st.tuples(st.sampled_from(PEOPLE), st.sampled_from(FILES)).map("/".join)


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

    @rule(place=PLACES, which=st.integers(0, 4))
    def write(self, place: str, which: int) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[which])

    @rule(place=PLACES)
    def remove(self, place: str) -> None:
        (self.root / place).unlink(missing_ok=True)

    @rule(source=PLACES, goal=PLACES)
    def move(self, source: str, goal: str) -> None:
        if (self.root / source).exists():
            (self.root / goal).parent.mkdir(parents=True, exist_ok=True)
            (self.root / source).replace(self.root / goal)

    @rule(person=st.sampled_from(PEOPLE))
    def remove_person(self, person: str) -> None:
        shutil.rmtree(self.root / person, ignore_errors=True)

    @rule()
    def index(self) -> None:
        self.run()
        assert self.stored() == self.lying()
        again = self.run()
        assert set(+again) <= {"unchanged"}
        self.whole()

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
        kept = Counter((r.identity_id, r.sha256) for r in rows if r.state != "duplicate")
        assert set(kept.values()) <= {1}
        assert set(kept) == {(r.identity_id, r.sha256) for r in rows}
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
        max_examples=40,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
