"""Which FAISS index reaches which recall at which speed: what the choice of engine rests on.

    python -m benchmarks.indexes --faces 1000000 --dimension 128 --kind real-like --which flat,pq4,ivf,hnsw

Every compressed index gives a shortlist that is compared exactly, as the search cache does it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.machine import this_machine
from benchmarks.vectors import Case, Faces, Ids, Matrix, own_photos, prepare, recall

PROBES = 300
TRAINING = 100_000
NEAREST = 10
LISTS = 4096


@dataclass(frozen=True, slots=True)
class Way:
    """One way to search: `look` gives row numbers for a probe (1, d)."""

    name: str
    build_seconds: float
    look: Callable[[Matrix], Ids]


def shortlisted(index: faiss.Index, unit: Matrix, count: int) -> Callable[[Matrix], Ids]:
    """The nearest of a shortlist, by exact products."""

    def look(probe: Matrix) -> Ids:
        rows = index.search(probe, count)[1][0]
        rows = rows[rows >= 0]
        likeness = unit[rows] @ probe[0]
        best = np.argpartition(-likeness, NEAREST)[:NEAREST]
        return np.asarray(rows[best[np.argsort(-likeness[best])]], np.int64)

    return look


def built(index: faiss.Index, unit: Matrix) -> float:
    """Train and fill the index with all cores; returns the seconds it took."""
    faiss.omp_set_num_threads(this_machine().cores)
    started = time.perf_counter()
    index.train(unit[:: max(1, len(unit) // TRAINING)])
    index.add(unit)
    seconds = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    return seconds


def flat(unit: Matrix) -> Iterator[Way]:
    index = faiss.IndexFlatIP(unit.shape[1])
    seconds = built(index, unit)
    yield Way("flat float32", seconds, lambda probe: index.search(probe, NEAREST)[1][0])


def pq4(unit: Matrix) -> Iterator[Way]:
    dimension = unit.shape[1]
    for numbers in (4, 2):
        index = faiss.IndexPQFastScan(dimension, dimension // numbers, 4, faiss.METRIC_L2)
        seconds = built(index, unit)
        for count in (250, 500, 1000, 2000):
            name = f"4-bit codes of {numbers} numbers, shortlist {count}"
            yield Way(name, seconds, shortlisted(index, unit, count))


def rabitq(unit: Matrix) -> Iterator[Way]:
    index = faiss.IndexRaBitQFastScan(unit.shape[1], faiss.METRIC_L2)
    seconds = built(index, unit)
    for count in (1000, 4000):
        yield Way(f"RaBitQ 1 bit, shortlist {count}", seconds, shortlisted(index, unit, count))


def ivf(unit: Matrix) -> Iterator[Way]:
    dimension = unit.shape[1]
    index: Any = faiss.index_factory(
        dimension, f"IVF{LISTS},PQ{dimension // 2}x4fs", faiss.METRIC_L2
    )
    seconds = built(index, unit)
    for probed in (256, 512, 1024):
        name = f"4-bit codes of 2 numbers in {LISTS} lists, {probed} probed, shortlist 400"
        look = shortlisted(index, unit, 400)

        def probing(
            probe: Matrix, probed: int = probed, look: Callable[[Matrix], Ids] = look
        ) -> Ids:
            index.nprobe = probed
            return look(probe)

        yield Way(name, seconds, probing)


def hnsw(unit: Matrix) -> Iterator[Way]:
    index = faiss.IndexHNSWFlat(unit.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    seconds = built(index, unit)
    for ef in (128, 256, 512, 1024):

        def look(probe: Matrix, ef: int = ef) -> Ids:
            index.hnsw.efSearch = ef
            return np.asarray(index.search(probe, NEAREST)[1][0], np.int64)

        yield Way(f"HNSW 32 float32, ef {ef}", seconds, look)


WAYS = {"flat": flat, "pq4": pq4, "rabitq": rabitq, "ivf": ivf, "hnsw": hnsw}


def row(way: Way, faces: Faces) -> str:
    times, answers = [], []
    for probe in faces.probes[:PROBES]:
        started = time.perf_counter()
        answers.append(way.look(probe[None, :]).tolist())
        times.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times, [50, 99])
    return (
        f"| {way.name} | {way.build_seconds:.1f} | {p50:.2f} | {p99:.2f} "
        f"| {recall(answers, faces):.4f} | {own_photos(answers, faces):.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--kind", choices=["real-like", "isotropic"], default="real-like")
    parser.add_argument("--which", default="flat,pq4,rabitq,ivf,hnsw")
    given = parser.parse_args()
    print(this_machine())
    print(
        f"{given.faces} {given.kind} faces, {given.dimension} numbers; one thread, one probe at a time"
    )
    print(
        "| index | build s | p50 ms | p99 ms | recall@10 | own-photos@5 |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        faces = prepare(Path(folder), Case(given.kind, given.faces, given.dimension))
        unit = np.array(faces.unit)
        for name in given.which.split(","):
            for way in WAYS[name](unit):
                print(row(way, faces), flush=True)


if __name__ == "__main__":
    main()
