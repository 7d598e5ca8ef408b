"""The nearest other faces of every face of a gallery: all compared where that is quick, otherwise by an index."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from recognition.types import Embeddings

FLAT_WORK = 3e11
"""Multiplications (faces squared times dimension) up to which all are compared."""
BLOCK_BYTES = 64 * 2**20
"""Of vectors that are compared exactly at once."""
PROBED = 24
"""Lists that are looked at for a face, of 4 times the square root of the faces."""
PER_LIST = 64
"""Faces to train on, for each list."""
SHORTLIST = 2
"""Faces compared exactly, for each one that is wanted."""
TRIALS = 500
TIE = 1e-5
SEED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """For each of n faces k row numbers, nearest first, -1 where there are no more, and their cosine distances.

    `recall`: the share of a sample whose nearest of all was found; 1 where all were compared.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    recall: float


def neighbours(
    unit: Embeddings, count: int, threads: int, flat_work: float = FLAT_WORK
) -> Neighbours:
    """`unit` is (n, d) of unit length and may be mapped from a file; memory is n times d bytes and n times `count`
    numbers, time grows with n squared up to `flat_work` and with n to the power of 1.5 beyond."""
    faiss.omp_set_num_threads(threads)
    faces, dimension = unit.shape
    if float(faces) ** 2 * dimension <= flat_work:
        return _ranked(unit, count, _flat(unit), 1.0)
    index = _index(unit)
    found = _ranked(unit, count, index, 1.0)
    return Neighbours(found.rows, found.distances, _recall(unit, found))


def _flat(unit: Embeddings) -> faiss.Index:
    index = faiss.IndexFlatIP(unit.shape[1])
    _add(index, unit)
    return index


def _index(unit: Embeddings) -> faiss.Index:
    """Lists around centroids, a byte per number."""
    faces, dimension = unit.shape
    lists = int(4 * faces**0.5)
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFScalarQuantizer(
        coarse, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    random = np.random.default_rng(SEED)
    sample = random.choice(faces, min(faces, PER_LIST * lists), replace=False)
    index.train(np.ascontiguousarray(unit[np.sort(sample)]))
    _add(index, unit)
    index.nprobe = PROBED
    return index


def _add(index: faiss.Index, unit: Embeddings) -> None:
    rows = max(1, BLOCK_BYTES // (4 * unit.shape[1]))
    for start in range(0, len(unit), rows):
        index.add(np.ascontiguousarray(unit[start : start + rows]))


def _ranked(unit: Embeddings, count: int, index: faiss.Index, recall: float) -> Neighbours:
    """The index's candidates, compared exactly; nobody is a neighbour of his own."""
    faces, dimension = unit.shape
    wanted = max(1, min(SHORTLIST * count + 1, faces))
    rows = np.full((faces, count), -1, np.int64)
    distances = np.full((faces, count), np.inf, np.float32)
    block = max(1, BLOCK_BYTES // (4 * dimension * wanted))
    for start in range(0, faces, block):
        probes = np.ascontiguousarray(unit[start : start + block])
        _, near = index.search(probes, wanted)
        exact = exact_distances(unit[near], probes)
        exact[(near < 0) | (near == np.arange(start, start + len(probes))[:, None])] = np.inf
        order = np.argsort(exact, axis=1, kind="stable")[:, :count]
        at = slice(start, start + len(probes))
        distances[at, : order.shape[1]] = np.take_along_axis(exact, order, axis=1)
        rows[at, : order.shape[1]] = np.take_along_axis(near, order, axis=1)
    rows[~np.isfinite(distances)] = -1
    return Neighbours(rows, distances, recall)


def exact_distances(others: Embeddings, probes: Embeddings) -> NDArray[np.float32]:
    """(n, k, d) against (n, d): cosine distances (n, k), precise where faces are nearly the same."""
    difference = others - probes[:, None, :]
    return np.asarray(np.einsum("nkd,nkd->nk", difference, difference) / 2, np.float32)


def _recall(unit: Embeddings, found: Neighbours) -> float:
    """How many of a sample have the nearest of all as their nearest."""
    random = np.random.default_rng(SEED)
    sample = np.sort(random.choice(len(unit), min(TRIALS, len(unit)), replace=False))
    probes = np.ascontiguousarray(unit[sample])
    block = max(1, BLOCK_BYTES // (4 * max(unit.shape[1], TRIALS)))
    nearest = np.full(len(sample), np.inf, np.float32)
    for start in range(0, len(unit), block):
        distances = 1 - probes @ unit[start : start + block].T
        own = np.flatnonzero((sample >= start) & (sample < start + block))
        distances[own, sample[own] - start] = np.inf
        nearest = np.minimum(nearest, distances.min(axis=1))
    return float((found.distances[sample, 0] <= nearest + TIE).mean())
