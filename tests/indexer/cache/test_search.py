"""What is found in memory is what comparing everything finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from indexer.cache.ask import Ask, search
from indexer.cache.space import SpaceIndex
from indexer.cache.view import View
from indexer.store.search import Scoring
from recognition.types import METRICS, Metric
from tests.indexer.cache.conftest import GALLERY, Faces, base_of, by_face, by_person, made_up

FACES = made_up(people=150, each=4, dimension=32)
PROBES = made_up(people=150, each=1, dimension=32, seed=0).raw[:5] + 0.01


def split(faces: Faces, engine: str = "flat") -> tuple[View, Faces]:
    """Two thirds settled, a third come since, some of both gone; and what is left."""
    settled, came = faces.chosen(np.arange(400)), faces.chosen(np.arange(400, 600))
    index = SpaceIndex(base_of(settled, engine))
    index.put(came.ids, came.owners.galleries, came.people, came.raw)
    gone = np.concatenate([settled.ids[::7], came.ids[::9]])
    index.drop(gone)
    view = index.view(GALLERY)
    assert view is not None
    return view, faces.chosen(~np.isin(faces.ids, gone))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("limit", [1, 10, 2000])
def test_faces(metric: Metric, limit: int) -> None:
    view, left = split(FACES)
    assert view.size == len(left.ids)
    answer = search(view, PROBES, Ask(metric=metric, limit=limit))
    assert answer.exact
    for probe, hits in zip(PROBES, answer.hits, strict=True):
        wanted = by_face(left, probe, metric)[:limit]
        assert hits.faces.tolist() == [face for face, _, _ in wanted]
        assert hits.people.tolist() == [person for _, person, _ in wanted]
        np.testing.assert_allclose(hits.distances, [d for _, _, d in wanted], atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["best", "mean", "centroid"])
def test_people(metric: Metric, kind: str) -> None:
    view, left = split(FACES)
    ask = Ask(metric=metric, limit=8, by="person", scoring=Scoring(kind, 3))
    answer = search(view, PROBES, ask)
    for probe, hits in zip(PROBES, answer.hits, strict=True):
        wanted = by_person(left, probe, metric, kind, 3)[:8]
        assert hits.people.tolist() == [person for person, _ in wanted]
        np.testing.assert_allclose(hits.distances, [score for _, score in wanted], atol=1e-6)
        for face, person in zip(hits.faces.tolist(), hits.people.tolist(), strict=True):
            own = left.chosen(left.people == person)
            assert face == by_face(own, probe, metric)[0][0]


@pytest.mark.parametrize("kind", ["best", "mean", "centroid"])
@pytest.mark.parametrize("by", ["face", "person"])
@pytest.mark.parametrize("engine", ["flat", "compressed"])
@pytest.mark.parametrize("count", [0, 1, 15, 75, 150])
def test_only_some_people(kind: str, by: str, engine: str, count: int) -> None:
    faces = made_up(people=150, each=40, dimension=32)
    view = SpaceIndex(base_of(faces, engine)).view(GALLERY)
    assert view is not None
    assert view.coded == (engine == "compressed")
    people = np.unique(faces.people)[np.linspace(0, 149, count).astype(int)]
    left = faces.chosen(np.isin(faces.people, people))
    limit = 10 if by == "person" else 400
    ask = Ask(limit=limit, by=by, scoring=Scoring(kind, 3), people=people)
    for probe in PROBES:
        hits = search(view, probe[None, :], ask).hits[0]
        if by == "face":
            found = hits.faces.tolist()
            wanted = [face for face, _, _ in by_face(left, probe, "cosine")[:limit]]
        else:
            found = hits.people.tolist()
            wanted = (
                [p for p, _ in by_person(left, probe, "cosine", kind, 3)[:limit]] if count else []
            )
        assert len(found) == len(wanted)
        assert len(set(found) & set(wanted)) >= 0.99 * len(wanted)


def test_a_person_with_a_thousand_faces_hides_nobody() -> None:
    crowd = made_up(people=1, each=5000, dimension=32, seed=3)
    others = made_up(people=40, each=2, dimension=32, seed=4)
    faces = Faces(
        np.arange(5080),
        np.concatenate([np.zeros(5000, np.int64), others.people]),
        np.concatenate([crowd.raw, others.raw]),
    )
    probe = crowd.raw[:1]
    for engine in ("flat", "compressed"):
        view = SpaceIndex(base_of(faces, engine)).view(GALLERY)
        assert view is not None
        hits = search(view, probe, Ask(limit=10, by="person")).hits[0]
        wanted = by_person(faces, probe[0], "cosine", "best", 1)[:10]
        assert hits.people.tolist() == [person for person, _ in wanted]


def test_nothing_beyond_the_distance() -> None:
    view, left = split(FACES)
    for by in ("face", "person"):
        hits = search(view, PROBES[:1], Ask(limit=500, by=by, within=0.35)).hits[0]
        near = [row for row in by_face(left, PROBES[0], "cosine") if row[2] <= 0.35]
        wanted = {row[0] for row in near} if by == "face" else {row[1] for row in near}
        assert wanted
        assert set((hits.faces if by == "face" else hits.people).tolist()) == wanted


def test_an_empty_gallery_finds_nobody() -> None:
    index = SpaceIndex(base_of(FACES))
    index.drop(FACES.ids)
    view = index.view(GALLERY)
    assert view is not None
    assert view.size == 0
    for kind in ("best", "mean", "centroid"):
        for by in ("face", "person"):
            answer = search(view, PROBES, Ask(by=by, scoring=Scoring(kind, 3), within=math.inf))
            assert [len(hits) for hits in answer.hits] == [0] * 5


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [32, 45, 128])
def test_compressed_search_finds_what_is_near_and_its_distances_are_exact(
    metric: Metric, dimension: int
) -> None:
    faces = made_up(people=4000, each=5, dimension=dimension)
    view = SpaceIndex(base_of(faces, "compressed")).view(GALLERY)
    assert view is not None
    assert view.coded
    probes = faces.raw[::997] * 1.1
    answer = search(view, probes, Ask(metric=metric, limit=10))
    assert (
        not answer.exact or metric == "euclidean"
    )  # whose order the codes may not know well enough
    found = wanted = 0
    for probe, hits in zip(probes, answer.hits, strict=True):
        truth = by_face(faces, probe, metric)
        distance = {face: d for face, _, d in truth}
        np.testing.assert_allclose(
            hits.distances, [distance[f] for f in hits.faces.tolist()], atol=1e-6
        )
        found += len({f for f, _, _ in truth[:10]} & set(hits.faces.tolist()))
        wanted += 10
    assert found >= 0.97 * wanted
