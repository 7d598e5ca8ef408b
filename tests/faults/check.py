"""What must hold after every fault; each finding is a line."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from sqlalchemy import text

from indexer.audit import verify
from indexer.maintain import maintain
from indexer.store import tables
from indexer.store.engine import Database
from tests.faults.service import READY_S
from tests.faults.world import World, until

SETTLE_S = 60.0
NEAREST = 5
AT_ONCE = 100
CLOSE = 1e-4

STRAY = {
    "image of another gallery than its person's": (
        "SELECT m.id FROM image m JOIN identity p ON p.id = m.identity_id"
        " WHERE m.gallery_id <> p.gallery_id"
    ),
    "person without an image": (
        "SELECT p.id FROM identity p WHERE NOT EXISTS"
        " (SELECT FROM image m WHERE m.identity_id = p.id)"
    ),
    "usable image without a face": (
        "SELECT m.id FROM image m JOIN gallery g ON g.id = m.gallery_id WHERE m.state = 'ready'"
        " AND NOT EXISTS (SELECT FROM face f WHERE f.image_id = m.id"
        " AND f.space_id = g.active_space_id)"
    ),
    "usable image that was never looked at": (
        "SELECT m.id FROM image m JOIN gallery g ON g.id = m.gallery_id WHERE m.state = 'ready'"
        " AND NOT EXISTS (SELECT FROM extraction x WHERE x.image_id = m.id"
        " AND x.space_id = g.active_space_id)"
    ),
    "face of an image that cannot have one": (
        "SELECT f.id FROM face f JOIN image m ON m.id = f.image_id WHERE m.state <> 'ready'"
    ),
    "face without an embedding": (
        "SELECT f.id FROM face f WHERE NOT EXISTS (SELECT FROM embedding e"
        " WHERE e.face_id = f.id AND e.space_id = f.space_id)"
    ),
    "embedding without its face": (
        "SELECT e.face_id FROM embedding e WHERE NOT EXISTS (SELECT FROM face f"
        " JOIN image m ON m.id = f.image_id WHERE f.id = e.face_id AND f.space_id = e.space_id"
        " AND m.gallery_id = e.gallery_id)"
    ),
    "upload that was not kept": (
        "SELECT m.id FROM image m WHERE m.uploaded AND m.root IS NULL"
        " AND NOT EXISTS (SELECT FROM original o WHERE o.image_id = m.id)"
    ),
    "kept upload that is another file": (
        "SELECT m.id FROM image m JOIN original o ON o.image_id = m.id"
        " WHERE sha256(o.data) <> m.sha256 OR length(o.data) <> m.size"
    ),
    "space whose log ends elsewhere": (
        "SELECT s.id FROM space s WHERE s.version <> greatest(s.trimmed_to,"
        " (SELECT coalesce(max(version), 0) FROM change_log c WHERE c.space_id = s.id))"
    ),
    "embedding that the log says is gone": (
        "SELECT e.face_id FROM embedding e WHERE (SELECT c.op FROM change_log c"
        " WHERE c.space_id = e.space_id AND c.face_id = e.face_id"
        " ORDER BY c.version DESC LIMIT 1) = 'D'"
    ),
    "partition without a space": (
        "SELECT i.inhrelid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent"
        " WHERE p.relname = 'embedding' AND (SELECT count(*) FROM pg_inherits"
        " WHERE inhparent = i.inhparent) <> (SELECT count(*) FROM space)"
    ),
    "erased person who is there": (
        "SELECT e.subject_id FROM erasure e JOIN identity p ON p.id = e.subject_id"
        " WHERE e.kind = 'identity'"
    ),
    "forgotten transaction": (
        "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        " AND state_change < clock_timestamp() - interval '30 seconds'"
    ),
}
"""Rows that must not be, by what they would be."""


def check(world: World) -> list[str]:
    """Everything that is wrong. The service comes first: nobody else may start the database for it."""
    try:
        world.service.until_ready(READY_S)
    except (TimeoutError, AssertionError) as error:
        return [*world.ledger.told(), *world.service.complaints(), str(error)]
    found = world.ledger.told()
    with world.database() as database:
        maintain(database, world.settings)
        found += stray_rows(database)
        found += partial_people(database, world)
        found += wrong_answers(database, world)
        found += stray_files(database, world)
        found += unwritten_searches(database, world)
        verdict = verify(database)
        if verdict.broken is not None:
            found.append(f"the audit log is broken at {verdict.broken}")
    return found + world.service.complaints()


def stray_rows(database: Database) -> list[str]:
    with database.read() as connection:
        found = []
        for what, query in {**STRAY, **dict(_dangling())}.items():
            rows = [row[0] for row in connection.execute(text(query))]
            if rows:
                found.append(f"{len(rows)} x {what}: {rows[:5]}")
        return found


def _dangling() -> Iterator[tuple[str, str]]:
    """For every foreign key of every table; the database watches them too, if its files are whole."""
    for table in tables.metadata.sorted_tables:
        for key in table.foreign_keys:
            here, there = key.parent.name, key.column
            yield (
                f"{table.name}.{here} that leads nowhere",
                f"SELECT c.{here} FROM {table.name} c WHERE c.{here} IS NOT NULL AND NOT EXISTS"
                f" (SELECT FROM {there.table.name} p WHERE p.{there.name} = c.{here})",
            )


def partial_people(database: Database, world: World) -> list[str]:
    """Against what clients were told."""
    stored: dict[tuple[str, str], list[bytes]] = {}
    with database.read() as connection:
        rows = connection.execute(
            text(
                "SELECT g.name, p.name, m.sha256 FROM identity p"
                " JOIN gallery g ON g.id = p.gallery_id JOIN image m ON m.identity_id = p.id"
            )
        )
        for gallery, name, sha256 in rows:
            stored.setdefault((gallery, name), []).append(bytes(sha256))
    told = (
        person.wrong(stored.get((person.gallery, person.name), []))
        for person in list(world.ledger.people)
    )
    return [wrong for wrong in told if wrong is not None]


def unwritten_searches(database: Database, world: World) -> list[str]:
    """Searches still reach the audit log."""
    mark = f"check-{secrets.token_hex(8)}"
    body = {"embedding": [1.0] * 128, "gallery": world.gallery}
    with world.service.client() as client:
        client.post("/find", json=body, headers={"X-Request-ID": mark})

    def written() -> bool:
        with database.read() as connection:
            query = text("SELECT 1 FROM audit_log WHERE request_id = :mark")
            return connection.scalar(query, {"mark": mark}) is not None

    return [] if until(written, SETTLE_S) else ["searches do not reach the audit log any more"]


def stray_files(database: Database, world: World) -> list[str]:
    """Snapshots are written and swept beside the searches, so they are given a moment."""
    with database.read() as connection:
        spaces = {f"space-{row[0]}" for row in connection.execute(text("SELECT id FROM space"))}
    found: list[str] = []

    def none() -> bool:
        found[:] = _stray_files(world, spaces)
        return not found

    until(none, SETTLE_S)
    return found


def _stray_files(world: World, spaces: set[str]) -> list[str]:
    home, found = world.home, []
    expected = {"postgres", "weights", "cache"}
    found += [f"file {p.name}" for p in home.iterdir() if p.name not in expected]
    for pattern in ("initdb-*", "binaries-*.partial"):
        found += [f"file {p.name}" for p in (home / "postgres").glob(pattern)]
    for folder in (home / "cache").glob("*"):
        if folder.name not in spaces:
            found.append(f"snapshot of no space: {folder.name}")
        inside = [p.name for p in folder.iterdir() if p.name != "lock"]
        if len(inside) > 1 or any(name.startswith("draft-") for name in inside):
            found.append(f"snapshots in {folder.name}: {sorted(inside)}")
    return found


def wrong_answers(database: Database, world: World) -> list[str]:
    """The service's memory against the rows: for every embedding the nearest faces, by numpy."""
    found: list[str] = []
    with database.read() as connection:
        galleries = connection.execute(
            text(
                "SELECT g.id, g.name, s.id, s.version FROM gallery g"
                " JOIN space s ON s.id = g.active_space_id"
            )
        ).all()
        stored = {row[0]: _rows(connection, row[0], row[2]) for row in galleries}
    with world.service.client() as client:
        for gallery, name, _, version in galleries:
            faces, people, unit = stored[gallery]
            for start in range(0, len(faces), AT_ONCE):
                part = unit[start : start + AT_ONCE]
                try:
                    answer = _from_memory(client, name, part, version)
                except TimeoutError as error:
                    return [*found, str(error)]
                for probe, told in zip(part, answer["results"], strict=True):
                    found += _compared(told["matches"], 1 - unit @ probe, (faces, people))
    return found[:20]


def _rows(connection: Any, gallery: int, space: int) -> tuple[list[int], list[str], np.ndarray]:
    rows = connection.execute(
        text(
            "SELECT e.face_id, p.name, e.vec::text FROM embedding e JOIN face f ON f.id = e.face_id"
            " JOIN image m ON m.id = f.image_id JOIN identity p ON p.id = m.identity_id"
            " WHERE e.gallery_id = :gallery AND e.space_id = :space"
        ),
        {"gallery": gallery, "space": space},
    ).all()
    raw = np.array([np.fromstring(row[2].strip("[]"), np.float64, sep=",") for row in rows])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True) if len(rows) else raw
    return [row[0] for row in rows], [row[1] for row in rows], unit


def _from_memory(
    client: httpx.Client, gallery: str, probes: np.ndarray, version: int
) -> dict[str, Any]:
    """Raises TimeoutError when the cache does not come to that version."""
    body = {
        "embedding": probes.tolist(), "gallery": gallery, "k": NEAREST, "group_by": "face",
        "distance_metric": "cosine", "threshold": 2, "min_version": version,
    }  # fmt: skip
    deadline, told = time.monotonic() + SETTLE_S, "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = client.post("/find", json=body)
            told = answer.text[:300]
            if answer.is_success:
                engine = answer.json()["engine"]
                told = f"{engine['name']} at {engine['version']}"
                if engine["name"].startswith("faiss") and engine["version"] >= version:
                    found: dict[str, Any] = answer.json()
                    return found
        time.sleep(0.2)
    raise TimeoutError(f"the cache did not come to version {version} of {gallery}: {told}")


def _compared(
    matches: list[dict[str, Any]], distances: np.ndarray, rows: tuple[list[int], list[str]]
) -> list[str]:
    faces, people = rows
    place = {face: n for n, face in enumerate(faces)}
    nearest = np.sort(distances)[:NEAREST]
    said = np.array([match["distance"] for match in matches])
    if said.shape != nearest.shape or not np.allclose(said, nearest, atol=CLOSE):
        return [f"/find says {said.tolist()}, by the rows it is {nearest.tolist()}"]
    for match in matches:
        at = place.get(match["face_id"])
        if at is None or people[at] != match["identity"]:
            return [f"/find says face {match['face_id']} is {match['identity']!r}'s"]
        if abs(match["distance"] - distances[at]) > CLOSE:
            return [f"/find says face {match['face_id']} is at {match['distance']}"]
    return []
