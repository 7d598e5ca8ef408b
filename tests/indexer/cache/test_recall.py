"""Sampled recall: what the compressed search misses is counted."""

from __future__ import annotations

import time

import numpy as np

from indexer.cache.ask import Answer, Ask, search
from indexer.cache.recall import RecallSampler
from indexer.cache.rows import Hits
from indexer.cache.space import SpaceIndex
from indexer.cache.view import View
from tests.indexer.cache.conftest import GALLERY, base_of, made_up

FACES = made_up(people=2000, each=5, dimension=32)


def view(engine: str) -> View:
    found = SpaceIndex(base_of(FACES, engine)).view(GALLERY)
    assert found is not None
    return found


def counted(sampler: RecallSampler, searches: int) -> None:
    deadline = time.monotonic() + 20
    while sampler.searches < searches:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_missing_faces_lower_it() -> None:
    coded, ask = view("compressed"), Ask(limit=10)
    sampler = RecallSampler(1)
    sampler.start()
    answer = search(coded, FACES.raw[:1], ask)
    assert not answer.exact
    sampler.offer(coded, FACES.raw[:1], ask, answer)
    counted(sampler, 1)
    assert sampler.expected == 10
    assert sampler.found >= 9
    before = sampler.found
    hits = answer.hits[0]
    worse = Hits(np.concatenate([hits.faces[:6], [-1, -2, -3, -4]]), hits.people, hits.distances)
    sampler.offer(coded, FACES.raw[:1], ask, Answer((worse,), False))
    counted(sampler, 2)
    assert sampler.found - before == 6
    sampler.close()


def test_exact_answers_are_not_repeated_and_a_share_is_a_share() -> None:
    coded, ask = view("compressed"), Ask(limit=5, by="person")
    answer = search(coded, FACES.raw[:1], ask)
    sampler = RecallSampler(0.25)
    sampler.start()
    for n in range(8):
        sampler.offer(coded, FACES.raw[:1], ask, answer)
        if n % 4 == 0:
            counted(sampler, n // 4 + 1)
    plain = view("flat")
    for _ in range(8):
        sampler.offer(plain, FACES.raw[:1], ask, search(plain, FACES.raw[:1], ask))
    sampler.close()
    assert sampler.searches == 2
    off = RecallSampler(0)
    off.start()
    off.offer(coded, FACES.raw[:1], ask, answer)
    off.close()
    assert off.searches == 0
