"""Which pairs are asked about, and in which fold: seeded, so that the same data give the same pairs; pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

FOLDS = 10
GENUINE = 30_000
"""Pairs of one person at most."""
IMPOSTORS = 300_000
"""Pairs of strangers at most: so many that 30 of them are accepted at a FAR of 1e-4 ("rule of 30", Doddington
et al. 2000: the true rate is then within 30 % of the measured one, with a confidence of 90 %)."""
ENUMERATED = 4_000_000
SEED = 7


def folds_of_people(photos: Ints) -> Ints:
    """A fold for everybody, by their numbers of photographs: at most ten, each of two people or more and with somebody
    who has two photographs. The ones with most photographs are dealt first."""
    count = min(FOLDS, len(photos) // 2, int((photos > 1).sum()))
    shuffled = np.random.default_rng(SEED).permutation(len(photos))
    order = shuffled[np.argsort(-photos[shuffled], kind="stable")]
    folds = np.zeros(len(photos), np.int64)
    folds[order] = np.arange(len(photos)) % max(count, 1)
    return folds


def folds_of_pairs(same: Flags, people: Ints | None) -> tuple[Ints, bool]:
    """A fold for every pair, and whether nobody is in two folds.

    People whom a pair joins have to be in one fold. Where that leaves no parts of fitting size, or people are not
    known, pairs are dealt, of each kind equally many to every fold.
    """
    count = min(FOLDS, int(same.sum()), int((~same).sum()))
    if count < 2:
        return np.zeros(len(same), np.int64), False
    if people is not None:
        parts = _parts(people)
        sizes = np.bincount(parts)
        if len(sizes) >= count and sizes.max() <= 2 * len(same) / count:
            folds = _packed(sizes, count)[parts]
            if all(same[folds == f].any() and not same[folds == f].all() for f in range(count)):
                return folds, True
    rng = np.random.default_rng(SEED)
    folds = np.zeros(len(same), np.int64)
    for kind in (same, ~same):
        folds[rng.permutation(np.flatnonzero(kind))] = np.arange(kind.sum()) % count
    return folds, False


def genuine_pairs(people: Ints, most: int = GENUINE) -> Ints:
    """(n, 2) numbers of photographs of one person: all such pairs, or so many of them."""
    order = np.argsort(people, kind="stable")
    counts = np.bincount(people)
    pairs = counts * (counts - 1) // 2
    before = np.concatenate([[0], np.cumsum(pairs)])
    starts = np.concatenate([[0], np.cumsum(counts)])
    total = int(before[-1])
    chosen = _sample(total, most)
    owner = np.searchsorted(before, chosen, "right") - 1
    # The k-th pair (i < j) of a person, in the order of j: j is the largest with j (j - 1) / 2 <= k.
    k = chosen - before[owner]
    j = ((1 + np.sqrt(1 + 8 * k.astype(np.float64))) / 2).astype(np.int64)
    i = k - j * (j - 1) // 2
    return np.column_stack([order[starts[owner] + i], order[starts[owner] + j]])


def impostor_pairs(people: Ints, folds: Ints, most: int = IMPOSTORS) -> Ints:
    """(n, 2) numbers of photographs of two people of one fold: all such pairs, or equally many of every fold."""
    rng = np.random.default_rng(SEED)
    names = np.unique(folds)
    found = [
        _strangers(np.flatnonzero(folds == name), people, -(-most // len(names)), rng)
        for name in names
    ]
    return np.concatenate(found)[:most]


def _strangers(photos: Ints, people: Ints, most: int, rng: np.random.Generator) -> Ints:
    size = len(photos)
    if size * (size - 1) // 2 <= ENUMERATED:
        i, j = (np.asarray(n, np.int64) for n in np.triu_indices(size, 1))
    else:
        i, j = rng.integers(0, size, (2, 4 * most))
        i, j = np.minimum(i, j), np.maximum(i, j)
        codes = np.unique(i[i < j] * size + j[i < j])
        i, j = codes // size, codes % size
    pairs: Ints = np.column_stack([photos[i], photos[j]])
    pairs = pairs[people[pairs[:, 0]] != people[pairs[:, 1]]]
    if len(pairs) > most:
        pairs = pairs[np.sort(rng.choice(len(pairs), most, replace=False))]
    return pairs


def _sample(total: int, most: int) -> Ints:
    if total <= most:
        return np.arange(total)
    chosen = np.random.default_rng(SEED).choice(total, most, replace=False, shuffle=False)
    return np.sort(chosen).astype(np.int64)


def _parts(people: Ints) -> Ints:
    """The number of each pair's part: people are in one part if pairs join them, directly or not."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - slow to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    size = int(people.max()) + 1
    graph = coo_array((np.ones(len(people)), (people[:, 0], people[:, 1])), (size, size))
    _, labels = connected_components(graph, directed=False)
    _, parts = np.unique(labels[people[:, 0]], return_inverse=True)
    return np.asarray(parts, np.int64)


def _packed(sizes: Ints, count: int) -> Ints:
    """The largest first, each to the fold that holds least."""
    folds, held = np.zeros(len(sizes), np.int64), np.zeros(count, np.int64)
    for part in np.argsort(-sizes, kind="stable"):
        folds[part] = held.argmin()
        held[folds[part]] += sizes[part]
    return folds
