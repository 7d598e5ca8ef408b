"""What requests leave in the audit log: who, what, when, which rows; no names, images or embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from indexer import audit
from indexer.settings import Settings
from indexer.store import audit as store
from indexer.store.engine import Database
from tests.service.conftest import Server, quoted

WAIT_S = 30.0
PERSON = "Zaphod Quuxname"


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    opened = Database.open(Settings(home=home))
    yield opened
    opened.close()


def entries(database: Database, gallery: str, number: int) -> list[store.Entry]:
    """The gallery's, the oldest first, when there are so many."""
    end = time.monotonic() + WAIT_S
    while True:
        with database.read() as connection:
            rows = store.latest(connection, gallery, 1000)
        if len(rows) >= number:
            return [row.entry for row in reversed(rows)]
        assert time.monotonic() < end, [row.entry.action for row in rows]
        time.sleep(0.1)


def test_what_a_gallery_saw(
    client: httpx.Client, database: Database, gallery: str, photos: dict[str, bytes]
) -> None:
    base = f"/galleries/{quoted(gallery)}"
    person = f"{base}/identities/{quoted(PERSON)}"
    made = client.post(f"{person}/images", files={"files": photos["obama"]}).json()
    image = made["files"][0]["image_id"]
    headers = {"X-Request-ID": "of-this-search"}
    found = client.post(
        "/find", files={"img": photos["obama2"]}, data={"gallery": gallery}, headers=headers
    )
    person_id = found.json()["results"][0]["matches"][0]["identity_id"]
    fields = {"gallery": gallery, "identity": PERSON}
    assert client.post("/verify", files={"img": photos["obama2"]}, data=fields).json()["verified"]
    assert not client.post("/verify", files={"img": photos["biden"]}, data=fields).json()[
        "verified"
    ]
    assert client.patch(person, json={"metadata": {"a": 1}}).status_code == 200
    erased = client.delete(f"{base}/images/{image}")
    assert erased.status_code == 200
    seen = entries(database, gallery, 7)
    told = {(e.action, str(sorted(e.detail.items()))) for e in seen}
    version = made["version"]
    assert (
        "identity.enrol",
        str([("identity_id", person_id), ("images", [image]), ("version", version)]),
    ) in told
    assert ("search.find", str([("results", [[person_id]])])) in told
    assert ("search.verify", str([("results", [[person_id]])])) in told
    assert ("search.verify", str([("results", [[]])])) in told
    receipt = erased.json()
    gone = [
        ("erasure_id", receipt["erasure_id"]), ("image_id", image), ("version", receipt["version"]),
    ]  # fmt: skip
    assert ("image.erase", str(gone)) in told
    assert {e.action for e in seen} >= {"gallery.make", "identity.change"}
    assert {e.key for e in seen} == {"local"}
    assert "of-this-search" in {e.request_id for e in seen}
    assert audit.verify(database).broken is None
    with database.read() as connection:
        everything = str(connection.execute(text("SELECT * FROM audit_log")).all())
    assert "Quuxname" not in everything


def test_a_failed_change_is_not_there(
    client: httpx.Client, database: Database, gallery: str
) -> None:
    base = f"/galleries/{quoted(gallery)}"
    assert client.delete(f"{base}/identities/nobody").status_code == 404
    assert client.delete(f"{base}/images/1").status_code == 404
    assert [e.action for e in entries(database, gallery, 1)] == ["gallery.make"]


def test_logs_hold_no_names(
    client: httpx.Client, server: Server, gallery: str, photos: dict[str, bytes]
) -> None:
    person = f"/galleries/{quoted(gallery)}/identities/{quoted(PERSON)}"
    client.post(f"{person}/images", files={"files": photos["obama"]})
    client.get(person)
    client.post("/find", json={"embedding": [0.123456] * 128, "gallery": gallery})
    client.delete(person)
    lines = server.lines()
    assert "/galleries/{gallery}/identities/{identity}" in lines
    for secret in ("Quuxname", "0.123456", gallery):
        assert secret not in lines
