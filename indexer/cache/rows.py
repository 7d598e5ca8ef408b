"""Blocks of faces in memory, and the exact distances of some or all of them to probes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from recognition.metrics import from_cosines, normalise
from recognition.types import Embeddings, Metric

Ids = NDArray[np.int64]
Distances = NDArray[np.float64]
Mask = NDArray[np.bool_]

BLOCK_ROWS = 65_536
"""Rows whose distances are held at once when many probes look at all of them."""
TAKEN_ROWS = 16_384
"""Rows that are copied at once to be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n faces: ids of faces and people, unit vectors (n, d) float32, lengths (n,) of the raw ones."""

    faces: Ids
    people: Ids
    unit: Embeddings
    norms: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def dimension(self) -> int:
        return int(self.unit.shape[1])

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in (self.faces, self.people, self.unit, self.norms))

    def taken(self, which: Ids) -> Rows:
        """A copy of some rows."""
        return Rows(self.faces[which], self.people[which], self.unit[which], self.norms[which])

    def cut(self, start: int, stop: int) -> Rows:
        """A view of some rows."""
        part = slice(start, stop)
        return Rows(self.faces[part], self.people[part], self.unit[part], self.norms[part])


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Faces near one probe, nearest first; distances in the metric that was asked for."""

    faces: Ids
    people: Ids
    distances: Distances

    def __len__(self) -> int:
        return len(self.faces)

    def first(self, count: int) -> Hits:
        return Hits(self.faces[:count], self.people[:count], self.distances[:count])

    def chosen(self, which: NDArray[np.intp] | Mask) -> Hits:
        return Hits(self.faces[which], self.people[which], self.distances[which])

    @classmethod
    def merged(cls, parts: list[Hits]) -> Hits:
        """All hits of several blocks, nearest first; equal distances by face id."""
        faces = np.concatenate([p.faces for p in parts])
        people = np.concatenate([p.people for p in parts])
        distances = np.concatenate([p.distances for p in parts])
        order = np.lexsort((faces, distances))
        return cls(faces[order], people[order], distances[order])


def distances_to(
    rows: Rows, which: NDArray[np.integer] | slice, probe: NDArray[np.float32], metric: Metric
) -> Distances:
    """Exact distances of the chosen rows to one raw probe (d,), computed in float64."""
    unit = rows.unit[which].astype(np.float64)
    wide = probe.astype(np.float64)
    if metric == "euclidean":
        unit *= rows.norms[which, None].astype(np.float64)
        return np.asarray(np.linalg.norm(unit - wide, axis=1))
    length = float(np.linalg.norm(wide))
    unit -= wide / length if length > 0 else wide
    # Half the square of the difference is 1 - cosine, and loses nothing where that is nearly 0.
    cosine = np.einsum("ij,ij->i", unit, unit) / 2.0
    return from_cosines(np.clip(cosine, 0.0, 2.0), metric)


def nearest(
    rows: Rows, probes: Embeddings, metric: Metric, limit: int, alive: Mask | None
) -> list[Ids]:
    """For each probe the numbers of the `limit` nearest living rows, in no order; looks at all."""
    limit = min(limit, len(rows))
    if limit == 0:
        return [np.empty(0, np.int64) for _ in probes]
    if metric != "euclidean" and (alive is None or alive.all()):
        unit = normalise(probes)
        _, found = faiss.knn(unit, rows.unit, limit, metric=faiss.METRIC_INNER_PRODUCT)
        return [row[row >= 0] for row in found]
    blocks = (
        (np.arange(start, min(start + BLOCK_ROWS, len(rows))), rows.cut(start, start + BLOCK_ROWS))
        for start in range(0, len(rows), BLOCK_ROWS)
    )
    return _best(blocks, probes, metric, limit, alive)


def nearest_among(
    rows: Rows, which: Ids, probes: Embeddings, metric: Metric, limit: int
) -> list[Ids]:
    """As `nearest`, of the chosen rows only."""
    blocks = (
        (which[start : start + TAKEN_ROWS], rows.taken(which[start : start + TAKEN_ROWS]))
        for start in range(0, len(which), TAKEN_ROWS)
    )
    return _best(blocks, probes, metric, min(limit, len(which)), None)


def _best(
    blocks: Iterable[tuple[Ids, Rows]],
    probes: Embeddings,
    metric: Metric,
    limit: int,
    alive: Mask | None,
) -> list[Ids]:
    best = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in probes]
    for numbers, part in blocks:
        values = likeness(part, probes, metric)
        if alive is not None:
            values[:, ~alive[numbers]] = -np.inf
        best = [
            _longest(np.concatenate([n, numbers]), np.concatenate([v, new]), limit)
            for (n, v), new in zip(best, values, strict=True)
        ]
    return [numbers[np.isfinite(values)] for numbers, values in best]


def _longest(
    numbers: Ids, values: NDArray[np.float32], limit: int
) -> tuple[Ids, NDArray[np.float32]]:
    if len(values) <= limit:
        return numbers, values
    keep = np.argpartition(values, -limit)[-limit:] if limit else np.empty(0, np.int64)
    return numbers[keep], values[keep]


def likeness(rows: Rows, probes: Embeddings, metric: Metric) -> NDArray[np.float32]:
    """(probes, rows) numbers that order the rows of a probe as the metric does; larger is nearer."""
    if metric != "euclidean":
        return np.asarray(normalise(probes) @ rows.unit.T, np.float32)
    return _ordering(np.asarray(probes @ rows.unit.T, np.float32), rows.norms)


def likeness_of(
    rows: Rows, which: Ids, probe: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """As `likeness`, of the chosen rows to one probe (d,).

    Where the rows lie and by one thread: many searches at once would fight for those of BLAS.
    """
    query = np.ascontiguousarray(probe if metric == "euclidean" else normalise(probe[None, :])[0])
    values = np.empty(len(which), np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined] # missing in its stubs
        faiss.swig_ptr(values), faiss.swig_ptr(query), faiss.swig_ptr(rows.unit),
        faiss.swig_ptr(which), rows.dimension, 1, len(which),
    )  # fmt: skip
    return _ordering(values, rows.norms[which]) if metric == "euclidean" else values


def _ordering(products: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """2 r·p - |r|², from the products of p with the unit vectors of r; in place."""
    products *= 2.0 * norms
    products -= norms**2
    return products
