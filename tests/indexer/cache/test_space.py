"""Putting, replacing and dropping: the index holds what a plain dictionary would."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.cache.ask import Ask, search
from indexer.cache.space import SpaceIndex
from tests.indexer.cache.conftest import Faces, base_of, made_up

STEPS = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True)),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 20), steps=STEPS, seed=st.integers(0, 1000))
def test_any_order_of_changes(first: int, steps: list[tuple[bool, list[int]]], seed: int) -> None:
    random = np.random.default_rng(seed)
    start = made_up(people=max(first, 1), each=1, dimension=8, seed=seed).chosen(np.arange(first))
    start = Faces(np.arange(first), start.people, start.raw)
    index = SpaceIndex(base_of(start))
    known = {
        int(face): (7, int(person), raw)
        for face, person, raw in zip(start.ids, start.people, start.raw, strict=True)
    }
    for putting, ids in steps:
        faces = np.asarray(ids, np.int64)
        if putting:
            galleries, people = random.integers(6, 9, len(ids)), random.integers(0, 5, len(ids))
            raw = random.normal(size=(len(ids), 8)).astype(np.float32)
            index.put(faces, galleries, people, raw)
            rows = zip(galleries.tolist(), people.tolist(), raw, strict=True)
            known.update(zip(ids, rows, strict=True))
        else:
            index.drop(faces)
            for face in ids:
                known.pop(face, None)
    assert index.faces == len(known)
    for gallery in (6, 7, 8):
        wanted = {face: row for face, row in known.items() if row[0] == gallery}
        view = index.view(gallery)
        if view is None:
            assert not wanted
            continue
        assert view.size == len(wanted)
        hits = search(view, np.ones((1, 8), np.float32), Ask(limit=100)).hits[0]
        assert sorted(hits.faces.tolist()) == sorted(wanted)
        assert all(
            wanted[face][1] == person
            for face, person in zip(hits.faces.tolist(), hits.people.tolist(), strict=True)
        )
        assert view.people == len({row[1] for row in wanted.values()})


def test_a_search_goes_on_in_the_view_it_started_with() -> None:
    faces = made_up(people=10, each=2, dimension=8)
    index = SpaceIndex(base_of(faces))
    before = index.view(7)
    more = made_up(people=200, each=2, dimension=8, seed=1)
    index.put(more.ids + 10_000, np.full(400, 7), more.people, more.raw)
    assert before is not None
    assert before.size == 20
    assert len(search(before, more.raw[:1], Ask(limit=1000)).hits[0]) == 20
    after = index.view(7)
    assert after is not None
    assert len(search(after, more.raw[:1], Ask(limit=1000)).hits[0]) == 420
