"""Pairs and folds: who is in which, and that the same data give the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recognition import protocol

people = st.lists(st.integers(0, 8), min_size=2, max_size=40).map(
    lambda names: np.unique(names, return_inverse=True)[1].astype(np.int64)
)


@given(people)
def test_all_pairs_of_one_person_once(owners: np.ndarray) -> None:
    found = {tuple(sorted(pair)) for pair in protocol.genuine_pairs(owners).tolist()}
    size = range(len(owners))
    assert found == {(i, j) for i in size for j in size if i < j and owners[i] == owners[j]}
    assert len(protocol.genuine_pairs(owners)) == len(found)


@given(people)
def test_strangers_are_of_one_fold_and_of_two_people(owners: np.ndarray) -> None:
    folds = protocol.folds_of_people(np.bincount(owners))[owners]
    pairs = protocol.impostor_pairs(owners, folds)
    assert (owners[pairs[:, 0]] != owners[pairs[:, 1]]).all()
    assert (folds[pairs[:, 0]] == folds[pairs[:, 1]]).all()
    size = range(len(owners))
    wanted = {
        (i, j) for i in size for j in size
        if i < j and owners[i] != owners[j] and folds[i] == folds[j]
    }  # fmt: skip
    assert {tuple(sorted(p)) for p in pairs.tolist()} == wanted


def test_bounds_hold_and_samples_repeat() -> None:
    owners = np.repeat(np.arange(40), 10)
    genuine = protocol.genuine_pairs(owners, 100)
    assert len({tuple(sorted(p)) for p in genuine.tolist()}) == 100
    assert (owners[genuine[:, 0]] == owners[genuine[:, 1]]).all()
    assert len(np.unique(owners[genuine[:, 0]])) > 30, "from everybody"
    assert np.array_equal(genuine, protocol.genuine_pairs(owners, 100))
    folds = protocol.folds_of_people(np.bincount(owners))[owners]
    strangers = protocol.impostor_pairs(owners, folds, 500)
    assert len({tuple(sorted(p)) for p in strangers.tolist()}) == 500
    assert np.bincount(folds[strangers[:, 0]]).tolist() == [50] * 10
    assert np.array_equal(strangers, protocol.impostor_pairs(owners, folds, 500))


def test_a_large_fold_is_sampled_without_listing_all_its_pairs() -> None:
    owners = np.arange(6000)
    pairs = protocol.impostor_pairs(owners, np.zeros(6000, np.int64), 1000)
    assert len({tuple(p) for p in pairs.tolist()}) == 1000
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_people_are_dealt_by_their_photographs() -> None:
    photos = np.array([9, 8, 7, 6, 1, 1, 1, 1])
    folds = protocol.folds_of_people(photos)
    assert np.bincount(folds).tolist() == [2, 2, 2, 2]
    assert len(set(folds[:4].tolist())) == 4, "everybody with two photographs in another fold"
    assert protocol.folds_of_people(np.array([3, 1])).tolist() == [0, 0]
    assert len(set(protocol.folds_of_people(np.full(100, 2)).tolist())) == 10


def test_pairs_that_share_people_share_a_fold() -> None:
    # Forty islands of two people: a pair of each kind.
    people = np.array([pair for n in range(40) for pair in ((2 * n, 2 * n), (2 * n, 2 * n + 1))])
    same = np.arange(80) % 2 == 0
    folds, apart = protocol.folds_of_pairs(same, people)
    assert apart
    assert np.bincount(folds).tolist() == [8] * 10
    assert np.array_equal(folds[::2], folds[1::2])


def test_pairs_that_join_everybody_are_dealt_by_kind() -> None:
    people = np.array([(n, n) for n in range(20)] + [(n, n + 1) for n in range(40)])
    same = np.arange(60) < 20
    for known in (people, None):
        folds, apart = protocol.folds_of_pairs(same, known)
        assert not apart
        assert np.bincount(folds[same]).tolist() == [2] * 10
        assert np.bincount(folds[~same]).tolist() == [4] * 10
    assert protocol.folds_of_pairs(same[19:], None)[0].tolist() == [0] * 41
