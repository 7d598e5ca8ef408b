"""POST /find beyond the nearest faces: people, decisions, operating points, filters, metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from indexer import people
from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.metrics import normalise
from tests.service.conftest import Start, problem
from tests.world import World

PEOPLE = 400
AHEAD = 1_000_000


@pytest.fixture(scope="module")
def database(home: Path) -> Iterator[Database]:
    opened = Database.open(Settings(home=home))
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def world(database: Database) -> Iterator[World]:
    """Four hundred people with a photograph each, the first hundred on teams and of an age."""
    made = World(database)
    made.version = made.enrol(*range(PEOPLE))
    with database.write() as connection:
        connection.execute(
            text(
                "UPDATE identity SET metadata = jsonb_build_object('team', CASE WHEN n < 50"
                " THEN 'A' ELSE 'B' END, 'age', 20 + n)"
                " FROM (SELECT id, substr(name, 2)::int AS n FROM identity"
                "  WHERE gallery_id = :g) AS known"
                " WHERE known.id = identity.id AND n < 100"
            ),
            {"g": made.gallery},
        )
    yield made
    people.erase_gallery(database, made.name)


def ask(client: httpx.Client, world: World, probes: Any, **fields: Any) -> dict[str, Any]:
    body = {
        "embedding": np.asarray(probes).tolist(),
        "gallery": world.name,
        "min_version": world.version,
        **fields,
    }
    response = client.post("/find", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def names(face: dict[str, Any]) -> list[str]:
    return [match["identity"] for match in face["matches"]]


def cached(client: httpx.Client, world: World) -> None:
    """Waits until the process answers from its cache; until then it asks the database."""
    end = time.monotonic() + 60
    while not ask(client, world, world.vectors[:1])["engine"]["name"].startswith("faiss"):
        assert time.monotonic() < end, "the cache never loaded the space"
        time.sleep(0.05)


def between(world: World, a: int, b: int, share: float) -> np.ndarray:
    """A probe on the way from one person to another."""
    unit = normalise(world.vectors[[a, b]])
    return unit[0] * (1 - share) + unit[1] * share


def test_decisions(client: httpx.Client, world: World) -> None:
    stranger = world.vectors[1400]
    probes = [world.vectors[3], stranger, between(world, 5, 6, 0.49)]
    found = ask(client, world, probes, threshold=0.5)
    assert [face["decision"] for face in found["results"]] == ["match", "unknown", "ambiguous"]
    assert names(found["results"][0])[0] == "p3"
    assert names(found["results"][1]) == []
    assert names(found["results"][2])[:2] == ["p5", "p6"]
    assert found["threshold"] == 0.5
    one = ask(client, world, probes[2:], threshold=0.5, k=1)
    assert one["results"][0]["decision"] == "ambiguous"
    assert len(one["results"][0]["matches"]) == 1


def test_a_person_once(client: httpx.Client, world: World) -> None:
    """Both faces are nearest to p7; only the second could be nobody else."""
    probes = [between(world, 7, 8, 0.45), between(world, 7, 9, 0.1)]
    plain = ask(client, world, probes, threshold=0.6)
    assert [names(face)[0] for face in plain["results"]] == ["p7", "p7"]
    once = ask(client, world, probes, threshold=0.6, person_once=True)
    assert [names(face)[0] for face in once["results"]] == ["p8", "p7"]


def test_target_fpir(client: httpx.Client, world: World) -> None:
    cached(client, world)
    found = ask(client, world, world.vectors[:1], target_fpir=0.05)
    estimate = found["fpir_estimate"]
    assert found["target_fpir"] == 0.05
    assert estimate["value"] == pytest.approx(0.05, abs=0.003)
    assert estimate["low"] < 0.05 < estimate["high"]
    assert (estimate["people"], estimate["sample"]) == (PEOPLE, PEOPLE)
    assert estimate["extrapolated"] is False
    assert found["results"][0]["decision"] == "match"
    strangers = ask(client, world, world.vectors[PEOPLE : PEOPLE + 1000], target_fpir=0.05, k=1)
    alarms = sum(face["decision"] != "unknown" for face in strangers["results"])
    assert 15 <= alarms <= 110
    stricter = ask(client, world, world.vectors[:1], target_fpir=0.001)
    assert stricter["threshold"] < found["threshold"]
    assert stricter["fpir_estimate"]["extrapolated"] is True


def test_target_fpir_and_its_limits(client: httpx.Client, world: World, gallery: str) -> None:
    body = {"embedding": world.vectors[0].tolist(), "gallery": world.name}
    both = client.post("/find", json={**body, "threshold": 0.1, "target_fpir": 0.1})
    problem(both, 422, "invalid-request")
    for rate in (0, 1, -1, "x"):
        problem(client.post("/find", json={**body, "target_fpir": rate}), 422, "invalid-request")
    empty = client.post("/find", json={**body, "gallery": gallery, "target_fpir": 0.1})
    assert empty.status_code == 200
    assert empty.json()["results"][0]["matches"] == []


def test_a_gallery_that_is_made_anew_is_empty(client: httpx.Client, database: Database) -> None:
    """The process has known it with people in it."""
    was = World(database)
    was.version = was.enrol(0, 1)
    assert names(ask(client, was, was.vectors[:1], threshold=0.1)["results"][0]) == ["p0"]
    path = "/galleries/" + was.name.replace(" ", "%20")
    assert client.delete(path).status_code == 200
    assert client.put(path).status_code == 201
    for _ in range(2):
        found = ask(client, was, was.vectors[:1], threshold=0.1, min_version=0)
        assert names(found["results"][0]) == []
        assert found["engine"]["name"] == "empty"
    client.delete(path)


def test_too_few_people_for_an_estimate(client: httpx.Client, database: Database) -> None:
    few = World(database)
    few.version = few.enrol(*range(10))
    body = {
        "embedding": few.vectors[0].tolist(), "gallery": few.name, "target_fpir": 0.1,
        "min_version": few.version,
    }  # fmt: skip
    detail = problem(client.post("/find", json=body), 409, "conflict")["detail"]
    assert "at least 50 people" in str(detail)
    people.erase_gallery(database, few.name)


@pytest.mark.parametrize("kind", ["best", "mean", "centroid"])
def test_people_are_ranked_as_asked(client: httpx.Client, world: World, kind: str) -> None:
    found = ask(client, world, world.vectors[11:12], score_by=kind, score_faces=2, threshold=2, k=3)
    assert names(found["results"][0])[0] == "p11"
    assert len(set(names(found["results"][0]))) == 3


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ({"team": "A"}, range(50)),
        ({"age": {"gte": 30, "lt": 33}}, [10, 11, 12]),
        ({"age": {"in": [25, 119, 1000]}}, [5, 99]),
        ({"age": {"exists": False}}, range(100, PEOPLE)),
        ({"team": "B", "age": {"$gt": 117}}, [98, 99]),
        ({"team": "C"}, []),
    ],
)
@pytest.mark.parametrize("engine", ["flat", "database"])
def test_filters(
    client: httpx.Client,
    database: Database,
    world: World,
    conditions: dict[str, Any],
    wanted: Any,
    engine: str,
) -> None:
    with database.write() as connection:
        connection.execute(
            text("UPDATE space SET engine = :e WHERE id = :s"), {"e": engine, "s": world.space.id}
        )
    fields: dict[str, Any] = {"filter": {"metadata": conditions}, "threshold": 2, "k": 1000}
    found = ask(client, world, world.vectors[:1], **fields)
    assert sorted(names(found["results"][0])) == sorted(f"p{n}" for n in wanted)


def test_a_filter_that_cannot_be_understood(client: httpx.Client, world: World) -> None:
    body = {
        "embedding": world.vectors[0].tolist(), "gallery": world.name,
        "filter": {"metadata": {"age": {"in": 3}}},
    }  # fmt: skip
    detail = problem(client.post("/find", json=body), 422, "invalid-filter")["detail"]
    assert "takes a list" in str(detail)


def test_many_embeddings_at_once(client: httpx.Client, world: World) -> None:
    found = ask(client, world, world.vectors[:PEOPLE], threshold=1e-6, k=1)
    assert [names(face) for face in found["results"]] == [[f"p{n}"] for n in range(PEOPLE)]


def test_metrics_tell_of_the_cache(start: Start, database: Database, world: World) -> None:
    with database.write() as connection:
        connection.execute(
            text("UPDATE space SET engine = 'auto' WHERE id = :s"), {"s": world.space.id}
        )
    big = World(database, people=4000)
    big.version = big.enrol(*range(4000))
    with database.write() as connection:
        connection.execute(
            text("UPDATE space SET engine = 'compressed' WHERE id = :s"), {"s": big.space.id}
        )
    with start(recall_sample="1", cache_memory="1GiB") as server, server.client() as client:
        for n in range(20):
            found = ask(client, big, big.vectors[n : n + 1], k=3, threshold=2)
            assert found["engine"]["name"] == "faiss-pq4"
            assert names(found["results"][0])[0] == f"p{n}"
        told = client.get("/metrics").text
    space = f'space="{big.space.id}"'
    lines = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
    assert float(lines[f"facesearch_cache_faces{{{space}}}"]) == 4000
    assert float(lines[f"facesearch_cache_version{{{space}}}"]) == big.version
    assert float(lines[f"facesearch_cache_lag_versions{{{space}}}"]) == 0
    assert float(lines[f"facesearch_cache_bytes{{{space}}}"]) > 4000 * 128 * 4
    assert float(lines[f'facesearch_cache_engine{{engine="faiss-pq4",{space}}}']) == 1
    assert float(lines[f"facesearch_cache_builds_total{{{space}}}"]) >= 1
    assert float(lines['facesearch_search_seconds_count{engine="faiss-pq4"}']) >= 20
    assert float(lines["facesearch_recall_searches_total"]) >= 1
    assert 0.9 <= float(lines["facesearch_recall_ratio"]) <= 1
    people.erase_gallery(database, big.name)


def test_a_version_that_the_database_has_not_reached(
    client: httpx.Client, world: World, gallery: str
) -> None:
    """As after the database was put back to a backup: told, instead of answered from before."""
    body = {"embedding": world.vectors[1].tolist(), "gallery": world.name}
    for name in (world.name, gallery):
        response = client.post("/find", json={**body, "gallery": name, "min_version": AHEAD})
        told = problem(response, 409, "version-ahead")
        assert str(AHEAD) in told["detail"]
    assert ask(client, world, world.vectors[:1])["engine"]["version"] >= world.version
    answer = client.post("/find", json={**body, "gallery": gallery}).json()
    assert answer["engine"] == {"name": "empty", "exact": True, "version": 0, "size": 0}
