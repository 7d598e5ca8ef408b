"""Searching the cache in process, beside raw FAISS and a numpy product over the same vectors.

    python -m benchmarks.search

Vectors: people as Gaussian centres in 128 dimensions, five faces each at a cosine of 0.7 to each other.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.cache import GalleryIndex
from recognition.metrics import normalise

DIMENSION = 128
FACES_EACH = 5
SIZES = (10_000, 100_000)
PROBES = 200


def people(count: int) -> NDArray[np.float32]:
    """(count, 128) float32."""
    random = np.random.default_rng(1)
    centres = np.repeat(random.normal(size=(count // FACES_EACH, DIMENSION)), FACES_EACH, axis=0)
    noise = random.normal(size=centres.shape) * np.sqrt(1 / 0.7 - 1)
    return np.asarray(centres + noise, np.float32)


def percentiles(work: Callable[[int], object]) -> tuple[float, float]:
    """p50 and p99 in milliseconds over the probes, one after another."""
    times = []
    for probe in range(PROBES):
        started = time.perf_counter()
        work(probe)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times), float(np.percentile(times, 99))


def main() -> None:
    faiss.omp_set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {DIMENSION} dimensions, k = 10, one thread"
    )
    print("| faces | engine | p50 ms | p99 ms |")
    print("|---|---|---|---|")
    for size in SIZES:
        for name, work in contenders(people(size)).items():
            p50, p99 = percentiles(work)
            print(f"| {size:,} | {name} | {p50:.2f} | {p99:.2f} |")


def contenders(rows: NDArray[np.float32]) -> dict[str, Callable[[int], object]]:
    """Each answers the nearest ten of the probe of that number."""
    unit = normalise(rows)
    index = GalleryIndex(DIMENSION)
    index.put(np.arange(len(rows)), np.arange(len(rows)) // FACES_EACH, rows)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(unit)

    def cache(probe: int) -> object:
        return index.search(rows[probe], "cosine", 10, None)

    def raw(probe: int) -> object:
        return flat.search(unit[probe : probe + 1], 10)

    def product(probe: int) -> object:
        return np.argpartition(-(unit @ unit[probe]), 10)[:10]

    return {"search cache": cache, "raw FAISS IndexFlatIP": raw, "numpy product": product}


if __name__ == "__main__":
    main()
