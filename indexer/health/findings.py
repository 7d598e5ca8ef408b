"""What looks wrong in a gallery, from its vectors alone; pure functions.

Distances are cosine distances. They are judged by a scale: what `verify` takes for one person (the space's threshold),
and how close other people are (local scaling: L. Zelnik-Manor and P. Perona, Self-tuning spectral clustering, 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recognition.types import Embeddings

if TYPE_CHECKING:
    from indexer.health.neighbours import Neighbours

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

NEAR = 7
"""The neighbour whose distance says how close together people are around somebody (Zelnik-Manor and Perona's)."""
LEAST_PEOPLE = 20
"""Fewer are no surroundings; the threshold is the scale then."""
CONFUSABLE = 0.65
"""Largest distance of two people's mean embeddings, over the scale.

On 1,699 people of LFW (Dlib, mediapipe) it names the five pairs known to be one person under two names, at ranks 1 to 5
(0.14, 0.28, 0.37, 0.41, 0.53), and 12 to 13 other pairs behind them, which are look-alikes. **The measure and the cut
were chosen on these same five pairs**, of which there are no others to check them with; with a cut of 0.5 the last
of the five is lost. Without the local scale, the five are at ranks 1 to 4 and 65.
"""
UNLIKE = 0.9
"""Smallest distance of a photograph to the mean of the person's others that is reported, over the threshold.

On LFW (Dlib, mediapipe): of 1,000 photographs put into a wrong person's folder of two and more, 98.8 % are found; of
1,781 as they are labelled, in folders of three and more, 4 are reported, and 6 of 231 folders of two. Where a large
part of a folder is somebody else's, the mean is no longer the person's, and less is found.
"""
ALIKE = 0.1
"""Largest distance of two photographs that count as one, over the threshold.

Of 80 photographs of LFW (Dlib, mediapipe) all were found when saved again as JPEG of quality 50 or 90, halved in size,
mirrored, or cut by 4 % on each side. Of LFW's 8,849 pairs of one person, 4 are so close.
"""


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """`ids` (p,) ascending, their unit mean embeddings (p, d), and for each of n faces the row of its person."""

    ids: Ids
    means: Embeddings
    of_faces: Ids


@dataclass(frozen=True, slots=True)
class Pair:
    """Rows of two people, or of two faces; `score` is the distance over its scale."""

    a: int
    b: int
    distance: float
    score: float


def reach(near: Neighbours, threshold: float | None) -> float | None:
    """The distance within which two faces may be one person's: the threshold, or where nobody knows one how close
    together people are; None where there are too few of them."""
    if threshold is not None:
        return threshold
    if len(near.rows) < LEAST_PEOPLE:
        return None
    return float(np.median(near.distances[:, NEAR - 1]))


def confusable(near: Neighbours, within: float) -> list[Pair]:
    """Pairs of people who are much closer to one another than to the others around them, worst first."""
    count = len(near.rows)
    scale = np.full(count, within, np.float64)
    if count >= LEAST_PEOPLE:
        scale = near.distances[:, NEAR - 1].astype(np.float64)
    a = np.repeat(np.arange(count), near.rows.shape[1])
    b, distances = near.rows.ravel(), near.distances.ravel()
    there = b >= 0
    a, b, distances = a[there], b[there], distances[there]
    score = distances / np.maximum(np.sqrt(scale[a] * scale[b]), 1e-12)
    return _pairs(a, b, distances, score, CONFUSABLE)


def unlike(unit: Embeddings, people: People, within: float, block: int) -> tuple[Ids, Floats]:
    """Faces that are far from the mean of their person's others, worst first, with that distance.

    Of two photographs of a person that are unlike, both are named: either may be the wrong one.
    """
    counts = np.bincount(people.of_faces, minlength=len(people.ids))
    sums = np.zeros_like(people.means)
    for start in range(0, len(unit), block):
        part = slice(start, start + block)
        np.add.at(sums, people.of_faces[part], unit[part])
    distances = np.zeros(len(unit), np.float32)
    for start in range(0, len(unit), block):
        part = slice(start, start + block)
        own, rows = people.of_faces[part], unit[part]
        others = sums[own] - rows
        lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-9)
        distances[part] = np.where(
            counts[own] > 1, 1 - np.einsum("nd,nd->n", others, rows) / lengths, 0
        )
    found = np.flatnonzero(distances > UNLIKE * within)
    order = np.argsort(-distances[found], kind="stable")
    return found[order], distances[found[order]]


def alike(near: Neighbours, images: Ids, within: float) -> list[Pair]:
    """Pairs of faces of different images that are nearly the same, the closest first."""
    count = len(near.rows)
    a = np.repeat(np.arange(count), near.rows.shape[1])
    b, distances = near.rows.ravel(), near.distances.ravel()
    there = (b >= 0) & (images[a] != images[b])
    a, b, distances = a[there], b[there], distances[there]
    return _pairs(a, b, distances, distances / within, ALIKE)


def _pairs(
    a: Ids, b: Ids, distances: Floats, score: NDArray[np.floating], most: float
) -> list[Pair]:
    """Each once."""
    close = np.flatnonzero(score <= most)
    low, high = np.minimum(a[close], b[close]), np.maximum(a[close], b[close])
    _, first = np.unique(np.stack([low, high]), axis=1, return_index=True)
    chosen = close[first]
    order = chosen[np.argsort(score[chosen], kind="stable")]
    return [
        Pair(int(min(a[n], b[n])), int(max(a[n], b[n])), float(distances[n]), float(score[n]))
        for n in order.tolist()
    ]
