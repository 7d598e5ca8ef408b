"""A gallery's health: what is planted is found, and on LFW the label errors that are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import moving, runs
from indexer.commands import Tools
from indexer.errors import EmptyGallery, NotFound
from indexer.health import findings
from indexer.health.check import Checker
from indexer.health.findings import NEAR
from indexer.health.neighbours import neighbours
from indexer.moving import Asked
from indexer.settings import Settings
from indexer.store import galleries
from indexer.store.engine import Database
from recognition.metrics import normalise
from recognition.pipeline import Recognizer
from tests.indexer.conftest import RECIPE, variant, write_tree
from tests.indexer.test_cli import Command

DIMENSION = 128


@pytest.fixture
def tools(settings: Settings, recognizer: Recognizer, database: Database) -> Tools:
    return Tools(settings, recognizer, database)


def check(tools: Tools, gallery: str, limit: int = 50) -> dict[str, Any]:
    return Checker(tools.database, tools.recognizer, 2).check(gallery, limit)


def pairs(report: dict[str, Any]) -> list[set[str]]:
    return [{p["identity_a"], p["identity_b"]} for p in report["confusable"]["found"]]


def test_photographs(tools: Tools, gallery: str, tmp_path: Path, photos: dict[str, bytes]) -> None:
    tree = write_tree(
        tmp_path / "people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/2.jpg": photos["obama2"],
            "Barack/3.jpg": photos["biden"],
            "Obama/1.jpg": photos["obama3"],
            "Joe/again.jpg": variant(photos["biden"], 1.0),
            "Nobody/1.png": photos["nobody"],
            "Broken/1.jpg": b"no",
        },
    )
    runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    report = check(tools, gallery)
    assert (report["people"], report["faces"], report["recall"]) == (3, 5, 1.0)
    assert {"Barack", "Obama"} in pairs(report)
    worst = report["unlike"]["found"][0]
    assert (worst["identity"], worst["image"]) == ("Barack", "Barack/3.jpg")
    assert worst["looks_like"] == "Joe"
    (double,) = report["near_duplicates"]["found"]
    assert {double["image_a"], double["image_b"]} == {"Barack/3.jpg", "Joe/again.jpg"}
    assert report["without_faces"]["found"] == [
        {"identity": "Broken", "no_face": 0, "unreadable": 1},
        {"identity": "Nobody", "no_face": 1, "unreadable": 0},
    ]


@pytest.fixture
def planted(tools: Tools, gallery: str, tmp_path: Path) -> str:
    """300 people of three photographs, unlike one another: no model of ours made them, so no threshold is known."""
    random = np.random.default_rng(4)
    people = random.normal(size=(300, DIMENSION))
    people[1] = people[0] + 0.1 * random.normal(size=DIMENSION)  # one person under two names
    rows = np.repeat(people, 3, axis=0) + 0.6 * random.normal(size=(900, DIMENSION))
    rows[30] = people[20] + 0.6 * random.normal(size=DIMENSION)  # somebody else's photograph
    rows[61] = rows[60] + 1e-3  # a double
    names = np.array([f"p{n // 3:03}" for n in range(900)])
    np.savez(tmp_path / "a.npz", names=names, embeddings=rows)
    moving.restore(tools, Asked(tmp_path / "a.npz", gallery, made_by="health"), quiet=True)
    return gallery


def test_embeddings_without_a_threshold(tools: Tools, planted: str) -> None:
    report = check(tools, planted)
    assert pairs(report)[0] == {"p000", "p001"}
    assert pairs(report)[1:] == [{"p010", "p020"}], "the mislabelled photograph brings them near"
    found = report["unlike"]["found"]
    assert (found[0]["image"], found[0]["looks_like"]) == ("p010/1", "p020")
    (double,) = report["near_duplicates"]["found"]
    assert {double["image_a"], double["image_b"]} == {"p020/1", "p020/2"}
    few = check(tools, planted, limit=1)
    assert few["unlike"]["count"] == report["unlike"]["count"]
    assert len(few["unlike"]["found"]) == 1


def test_few_people_without_a_threshold_are_not_judged(
    tools: Tools, gallery: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", names=np.array(["a", "b"]), embeddings=np.ones((2, 8)))
    moving.restore(tools, Asked(tmp_path / "a.npz", gallery, made_by="few"), quiet=True)
    report = check(tools, gallery)
    assert report["one_person_within"] is None
    assert report["confusable"]["count"] == report["near_duplicates"]["count"] == 0


def test_no_gallery_no_faces(tools: Tools, gallery: str) -> None:
    with pytest.raises(NotFound):
        check(tools, gallery)
    with tools.database.write() as connection:
        galleries.ensure(connection, gallery)
    with pytest.raises(EmptyGallery):
        check(tools, gallery)


def test_by_index_as_by_comparing_all() -> None:
    random = np.random.default_rng(6)
    people = random.normal(size=(2500, 64)).astype(np.float32)
    rows = np.repeat(people, 2, axis=0) + 0.2 * random.normal(size=(5000, 64)).astype(np.float32)
    unit = normalise(rows)
    every, some = neighbours(unit, NEAR, 2), neighbours(unit, NEAR, 2, flat_work=0)
    assert every.recall == 1.0
    assert some.recall > 0.98
    assert (every.rows[:, 0] == some.rows[:, 0]).mean() > 0.98
    assert not (some.rows == np.arange(5000)[:, None]).any(), "nobody is his own neighbour"
    same = every.rows[:, 0] == some.rows[:, 0]
    assert np.allclose(every.distances[same, 0], some.distances[same, 0])
    truth = 1 - unit[:200] @ unit.T
    truth[np.arange(200), np.arange(200)] = np.inf
    assert np.allclose(every.distances[:200, 0], truth.min(axis=1), atol=1e-5)


@pytest.mark.parametrize("faces", [0, 1, 2, 5])
def test_hardly_any_faces(faces: int) -> None:
    found = neighbours(np.eye(5, dtype=np.float32)[:faces], 16, 1)
    assert found.rows.shape == (faces, 16)
    assert (found.rows >= 0).sum() == faces * max(faces - 1, 0)


def test_the_command(tools: Tools, settings: Settings, planted: str) -> None:
    run = Command(settings, planted)
    told = run("galleries", "health", planted)
    assert "p000" in told
    assert "People without a usable photograph: 0" in told
    assert run.json("galleries", "health", planted)["people"] == 300  # type: ignore[index]
    assert "no gallery" in run("galleries", "health", "nowhere", code=1)


def test_lfws_label_errors_are_named(
    tools: Tools, gallery: str, shared_data: Path, tmp_path: Path
) -> None:
    """Among 300 people of LFW and those of aliases.csv; docs/health.md has the figures on all."""
    with (shared_data / "aliases.csv").open() as file:
        known = [{row["identity_a"], row["identity_b"]} for row in csv.DictReader(file)]
    wanted = sorted({name for pair in known for name in pair})
    others = [p.name for p in sorted((shared_data / "faces").iterdir()) if p.name not in wanted]
    others = [name for name in others if "_" in name and name[0].isupper()][:300]
    for name in (*wanted, *others):
        folder = tmp_path / "people" / name
        folder.mkdir(parents=True)
        for photo in sorted((shared_data / "faces" / name).glob("*.jpg"))[:14]:
            (folder / photo.name).symlink_to(photo)
    runs.index(tools, tmp_path / "people", RECIPE, runs.Order(gallery, 20, quiet=True))
    report = check(tools, gallery)
    found = pairs(report)
    assert all(pair in found for pair in known), json.dumps(report["confusable"], indent=1)
    assert all(found.index(pair) < 8 for pair in known)


def test_a_crowd_of_look_alikes_does_not_hide_two_who_are_one() -> None:
    random = np.random.default_rng(8)
    crowd = random.normal(size=DIMENSION) + 0.4 * random.normal(size=(40, DIMENSION))
    apart = random.normal(size=(60, DIMENSION))
    apart[1] = apart[0] + 0.45 * random.normal(size=DIMENSION)
    means = normalise(np.concatenate([crowd, apart]).astype(np.float32))
    found = findings.confusable(neighbours(means, 16, 1), within=0.3)
    assert [(pair.a, pair.b) for pair in found] == [(40, 41)]
    closer = 1 - means[:40] @ means[:40].T
    assert np.median(closer) < 0.2, "many in the crowd are within the threshold"
