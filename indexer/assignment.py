"""Who is who in a group photograph, when nobody can be there twice; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexer.cache.rows import Hits

TIE = 1e-9
"""So that a person just at the threshold is worth more than nobody."""


def each_once(faces: Sequence[Hits], threshold: float) -> list[Hits]:
    """The people near each face, those taken out that another face is given.

    Faces and people are paired so that the sum of (threshold - distance) is largest: as many
    good pairs as possible, not the first face's pick first. A face's own person comes first in
    what is left for it. Exact if each face brings as many people as there are faces.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow to import, rarely used

    near = [hits.chosen(hits.distances <= threshold) for hits in faces]
    people = np.unique(np.concatenate([np.empty(0, np.int64), *(hits.people for hits in near)]))
    if not len(people):
        return near
    gain = np.zeros((len(near), len(people)))
    for n, hits in enumerate(near):
        gain[n, np.searchsorted(people, hits.people)] = threshold - hits.distances + TIE
    rows, columns = linear_sum_assignment(gain, maximize=True)
    given = {int(n): int(people[c]) for n, c in zip(rows, columns, strict=True) if gain[n, c] > 0}
    return [_left(hits, given.get(n), set(given.values())) for n, hits in enumerate(near)]


def _left(hits: Hits, own: int | None, taken: set[int]) -> Hits:
    order = [n for n, person in enumerate(hits.people.tolist()) if person == own]
    order += [n for n, person in enumerate(hits.people.tolist()) if person not in taken]
    return hits.chosen(np.asarray(order, np.intp))
