"""A compressed copy of a block of faces that is scanned in place of it to find a shortlist.

Product quantization to 4 bits for every two numbers (Jégou et al. 2011; the scan within registers
is André et al. 2015), as FAISS implements it: sixteen times smaller than float32. The scan is
exhaustive, so recall depends only on how many candidates are compared exactly afterwards, and that
number is measured when the codes are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.cache.rows import Rows, distances_to, nearest
from recognition.metrics import normalise
from recognition.types import Embeddings, Metric

BITS = 4
PER_CODE = 2
"""Numbers of a vector that share one code."""
TRAINING_ROWS = 100_000
LEAST_ROWS = 1_000
"""Fewer cannot train sixteen centroids for each pair of numbers."""
TRIALS = 128
NEAREST = 10
RECALL = 0.995
SHORTLISTS = (250, 500, 1000, 2000, 4000, 8000)
SEED = 7


@dataclass(frozen=True, slots=True)
class Shortlists:
    """Candidates to compare exactly for a probe; 0 where no number is enough and all are compared."""

    cosine: int
    euclidean: int

    def of(self, metric: Metric) -> int:
        return self.euclidean if metric == "euclidean" else self.cosine


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """`index` holds one code per row, in the rows' order."""

    index: faiss.IndexPQFastScan
    shortlists: Shortlists

    @property
    def bytes(self) -> int:
        return int(self.index.codes.size())

    def candidates(self, probes: Embeddings, count: int) -> NDArray[np.int64]:
        """(n, count) row numbers of the likely nearest, -1 where there are no more."""
        _, found = self.index.search(_padded(normalise(probes)), count)
        return np.asarray(found, np.int64)


def encode(rows: Rows, threads: int) -> Codes:
    """Train on a sample, encode all rows, and measure how long the shortlists must be."""
    faiss.omp_set_num_threads(threads)
    dimension = -(-rows.dimension // PER_CODE) * PER_CODE
    index = faiss.IndexPQFastScan(dimension, dimension // PER_CODE, BITS, faiss.METRIC_L2)
    random = np.random.default_rng(SEED)
    count = min(len(rows), TRAINING_ROWS)
    sample = np.sort(random.choice(len(rows), count, replace=False))
    index.train(_padded(rows.unit[sample]))
    for start in range(0, len(rows), TRAINING_ROWS):
        index.add(_padded(rows.unit[start : start + TRAINING_ROWS]))
    codes = Codes(index, Shortlists(0, 0))
    probes = np.sort(random.choice(len(rows), min(TRIALS, len(rows)), replace=False))
    lengths = rows.norms[sample]
    uneven = float(lengths.std()) > 1e-3 * float(lengths.mean())
    cosine = _enough(rows, codes, probes, "cosine")
    return Codes(
        index, Shortlists(cosine, _enough(rows, codes, probes, "euclidean") if uneven else cosine)
    )


def _enough(rows: Rows, codes: Codes, probes: NDArray[np.int64], metric: Metric) -> int:
    """The shortest shortlist that holds the nearest ten of stored faces; 0 if none does."""
    raw = rows.unit[probes] * rows.norms[probes, None]
    exact = nearest(rows, raw, metric, NEAREST + 1, None)
    longest = min(SHORTLISTS[-1], len(rows))
    likely = codes.candidates(raw, longest)
    ranks = np.concatenate(
        [
            _ranks(likely[n], _true(rows, exact[n], raw[n], int(own), metric), longest)
            for n, own in enumerate(probes)
        ]
    )
    for length in SHORTLISTS:
        if np.mean(ranks < length) >= RECALL:
            return length
    return 0


def _true(
    rows: Rows, found: NDArray[np.int64], probe: NDArray[np.float32], own: int, metric: Metric
) -> NDArray[np.int64]:
    """The ten nearest rows other than the probe's own."""
    others = found[found != own]
    order = np.argsort(distances_to(rows, others, probe, metric), kind="stable")
    return np.asarray(others[order[:NEAREST]], np.int64)


def _ranks(likely: NDArray[np.int64], wanted: NDArray[np.int64], none: int) -> NDArray[np.int64]:
    """Where each wanted row stands in the shortlist; `none` where it does not."""
    order = np.argsort(likely)
    at = np.minimum(np.searchsorted(likely, wanted, sorter=order), len(likely) - 1)
    return np.asarray(np.where(likely[order[at]] == wanted, order[at], none), np.int64)


def _padded(unit: Embeddings) -> Embeddings:
    """With a zero at the end where the dimension is odd."""
    odd = unit.shape[1] % PER_CODE
    wide = np.pad(unit, ((0, 0), (0, PER_CODE - odd))) if odd else unit
    return np.ascontiguousarray(wide, np.float32)
