"""A person once over the faces of a photograph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.assignment import each_once
from indexer.cache.rows import Hits


def hits(**people: float) -> Hits:
    """Names are p1, p2, ..."""
    rows = sorted((distance, int(name[1:])) for name, distance in people.items())
    ids = np.asarray([person for _, person in rows], np.int64)
    return Hits(ids * 10, ids, np.asarray([distance for distance, _ in rows], np.float64))


def test_not_the_first_face_s_pick_first() -> None:
    """Face 1 is a little nearer to p1 than to p2; face 2 could be p1 only."""
    first, second = hits(p1=0.20, p2=0.21), hits(p1=0.22, p2=0.90)
    found = each_once([first, second], 0.5)
    assert [h.people.tolist() for h in found] == [[2], [1]]
    assert found[0].distances.tolist() == [0.21]


def test_who_is_left_over_stays_unknown_and_spare_people_are_listed() -> None:
    found = each_once([hits(p1=0.1, p3=0.4), hits(p1=0.2)], 0.5)
    assert [h.people.tolist() for h in found] == [[1, 3], []] or [
        h.people.tolist() for h in found
    ] == [[3], [1]]
    total = sum(0.5 - h.distances[0] for h in found if len(h))
    assert total == pytest.approx(
        0.4
    )  # p1 to the second, p3 to the first; the greedy way gives 0.4 too


def test_nobody_near() -> None:
    assert [len(h) for h in each_once([hits(p1=0.9), hits()], 0.5)] == [0, 0]
    assert each_once([], 0.5) == []


def test_at_the_threshold_counts() -> None:
    assert each_once([hits(p1=0.5)], 0.5)[0].people.tolist() == [1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=4))
def test_no_pairing_is_better(distances: list[list[float]]) -> None:
    faces = [hits(**{f"p{n}": d for n, d in enumerate(row, 1)}) for row in distances]
    found = each_once(faces, 0.6)
    given_ = [(h.people[0], h.distances[0]) for h in found if len(h)]
    assert len({person for person, _ in given_}) == len(given_)
    gained = sum(0.6 - distance for _, distance in given_)
    best = 0.0
    for people in itertools.permutations(range(4), len(distances)):
        rows = zip(distances, people, strict=True)
        best = max(best, sum(max(0.0, 0.6 - row[person]) for row, person in rows))
    assert gained == pytest.approx(best, abs=1e-6)
