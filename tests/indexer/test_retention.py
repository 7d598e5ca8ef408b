"""What is erased by itself, and all that is held about one person."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from indexer import commands, moving, people, retention
from indexer.audit import COMMAND
from indexer.enrol import Enroller, Extractor
from indexer.errors import NotFound
from indexer.settings import Settings
from indexer.store import audit, galleries, identities
from indexer.store import retention as store
from indexer.store.engine import Database
from indexer.store.retention import Consent
from recognition.pipeline import Recognizer
from tests.world import World

NOW = datetime.now(UTC)


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    made = World(database, people=12)
    made.enrol(*range(6))
    yield made
    people.erase_gallery(database, made.name)


def names(database: Database, world: World) -> list[str]:
    with database.read() as connection:
        return [
            row.name
            for row in identities.page(connection, world.gallery, None, after="", limit=100)
        ]


def test_people_whose_consent_has_ended_are_erased(database: Database, world: World) -> None:
    before = {
        "p1": Consent("employment", NOW - timedelta(days=400), NOW - timedelta(seconds=1)),
        "p2": Consent("employment", NOW, NOW + timedelta(days=1)),
        "p3": Consent("a contract"),
    }
    for name, consent in before.items():
        retention.set_consent(database, world.name, name, consent)
    assert retention.sweep(database).people == 1
    assert names(database, world) == ["p0", "p2", "p3", "p4", "p5"]
    with database.read() as connection:
        (entry,) = [
            r.entry
            for r in audit.latest(connection, world.name, 100)
            if r.entry.action == "identity.erase"
        ]
        assert entry.key == "retention"
    assert retention.sweep(database) == retention.Swept(0, 0)
    retention.set_consent(database, world.name, "p2", Consent("withdrawn", None, NOW))
    assert retention.sweep(database).people == 1
    with pytest.raises(NotFound):
        retention.set_consent(database, world.name, "p1", Consent("x"))


def test_old_uploads_are_erased(database: Database, world: World) -> None:
    with database.write() as connection:
        store.set_days(connection, world.gallery, 30)
        connection.execute(
            text(
                "UPDATE image SET created_at = now() - make_interval(days => CASE"
                " WHEN i.name IN ('p0', 'p1', 'p2') THEN 31 ELSE 29 END)"
                " FROM identity i WHERE i.id = identity_id AND i.gallery_id = :g"
            ),
            {"g": world.gallery},
        )
        connection.execute(
            text(
                "UPDATE image SET uploaded = false, source = 'tree', root = '/r', locator = 'p2/1.jpg', mtime_ns = 1"
                " FROM identity i WHERE i.id = identity_id AND i.name = 'p2' AND i.gallery_id = :g"
            ),
            {"g": world.gallery},
        )
    assert retention.sweep(database).images == 2
    assert names(database, world) == ["p2", "p3", "p4", "p5"], "what lies in a folder stays"
    with database.write() as connection:
        store.set_days(connection, world.gallery, None)
        assert store.days_of(connection, world.gallery) is None
        connection.execute(
            text("UPDATE image SET created_at = '2001-01-01' WHERE gallery_id = :g"),
            {"g": world.gallery},
        )
    assert retention.sweep(database).images == 0


def test_everything_about_one_person(
    database: Database,
    recognizer: Recognizer,
    settings: Settings,
    tmp_path: Path,
    photos: dict[str, bytes],
) -> None:
    tools = commands.Tools(settings, recognizer, database)
    name = f"about {uuid.uuid4()}"
    with database.write() as connection:
        galleries.ensure(connection, name)
    keeping = settings.model_copy(update={"keep_uploads": True})
    enroller = Enroller(database, Extractor(recognizer, keeping), keeping)
    enroller.enrol(name, "Joe", [photos["biden"], photos["biden_dark"]])
    enroller.enrol(name, "Barack", [photos["obama1"]])
    retention.set_consent(database, name, "Joe", Consent("he asked for it", NOW))
    with database.read() as connection:
        held = galleries.get(connection, name)
        joe, barack = (identities.find(connection, held.id, who) for who in ("Joe", "Barack"))
    with database.write() as connection:
        COMMAND.record(connection, "search.find", name, results=[[barack], [joe]])
        COMMAND.record(connection, "search.find", name, results=[[barack]])
    made = moving.export(tools, name, tmp_path / "joe", quiet=True, person="Joe")
    assert (made["identities"], made["images"], made["faces"], made["originals"]) == (1, 2, 2, 2)
    lines = [
        json.loads(line) for line in (tmp_path / "joe" / "held.jsonl").read_text().splitlines()
    ]
    assert lines[0]["consent"]["basis"] == "he asked for it"
    assert [line["action"] for line in lines[1:]] == [
        "identity.enrol",
        "identity.consent",
        "search.find",
    ]
    everything = "".join(p.read_text(errors="replace") for p in (tmp_path / "joe").rglob("*.json*"))
    assert "Barack" not in everything
    assert np.load(tmp_path / "joe" / "vectors" / "0.npy").shape == (2, 128)
    other = f"moved {uuid.uuid4()}"
    moving.restore(tools, moving.Asked(tmp_path / "joe", gallery=other), quiet=True)
    found = {p["identity"]: p["faces"] for p in commands.list_identities(tools, other)}
    assert found == {"Joe": 2}
    with pytest.raises(NotFound):
        moving.export(tools, name, tmp_path / "x", quiet=True, person="nobody")
    for each in (name, other):
        people.erase_gallery(database, each)
