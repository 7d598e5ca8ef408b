"""The search cache as the benchmarks use it: the only place that knows its parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.timing import Work
from benchmarks.vectors import FACES_EACH, NEAREST, Faces, Matrix, blocks
from indexer.cache.ask import Ask, search
from indexer.cache.base import BaseWriter, Mark
from indexer.cache.build import Options
from indexer.cache.codes import Codes
from indexer.cache.follower import SearchCache
from indexer.cache.space import SpaceIndex
from indexer.cache.view import LONGEST_SHORTLIST, PER_MATCH, SCAN_SHARE, View
from indexer.search import Query, Searcher
from indexer.settings import SNAPSHOT_FROM
from indexer.store.engine import Database
from indexer.store.vectors import Owners
from service.settings import ServiceSettings

__all__ = ["SNAPSHOT_FROM"]

GALLERY = 1
ENOUGH_MEMORY = 2**40
POLL_S = 0.02
FURTHEST = 2.0
"""The largest cosine distance there is: the nearest ten are answered however far they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """An index in memory; face ids are row numbers. `shortlist` is 0 where all rows are compared."""

    index: SpaceIndex
    view: View
    codes: Codes | None
    shortlist: int

    @property
    def name(self) -> str:
        return "faiss-pq4" if self.shortlist else "faiss-flat"


def build(unit: Matrix, threads: int) -> Built:
    """What a process makes of a space's embeddings once they are read from the database."""
    rows = np.arange(len(unit))
    owners = Owners(rows, np.full(len(unit), GALLERY), rows // FACES_EACH)
    writer = BaseWriter(owners, np.empty(unit.shape, np.float32))
    for start, block in blocks(unit):
        which = rows[start : start + len(block)]
        writer.put(which, block, np.ones(len(block), np.float32))
    index = SpaceIndex(writer.finish(Mark(1, 1, 1, ""), "auto", threads))
    view = index.view(GALLERY)
    assert view is not None
    codes = view.parts[0].codes
    return Built(index, view, codes, _shortlist(codes, len(unit)))


def ours(built: Built, faces: Faces) -> Work:
    """The search of the index, without the database that names who was found."""
    ask = Ask(metric="cosine", limit=NEAREST, by="face")

    def work(probe: int) -> list[int]:
        faiss.omp_set_num_threads(1)  # as Searcher does
        answer = search(built.view, faces.probes[probe : probe + 1], ask)
        found: list[int] = answer.hits[0].faces.tolist()
        return found

    return work


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """FAISS alone: the same codes and as long a shortlist, or the same flat search, all in C++.

    `flat` and `codes` are held because the index does not own them.
    """

    index: Any
    flat: faiss.IndexFlat
    codes: Codes | None

    @classmethod
    def of(cls, built: Built, unit: Matrix) -> Raw:
        refined = built.codes is not None and built.shortlist > 0
        metric = faiss.METRIC_L2 if refined else faiss.METRIC_INNER_PRODUCT
        flat = faiss.IndexFlat(unit.shape[1], metric)
        for _, block in blocks(unit):
            flat.add(block)
        index: Any = flat
        if refined and built.codes is not None:
            index = faiss.IndexRefine(built.codes.index, flat)
            index.k_factor = built.shortlist / NEAREST
            index.ntotal = flat.ntotal
        return cls(index, flat, built.codes)

    def work(self, faces: Faces) -> Work:
        return faiss_work(self.index, faces)


def faiss_work(index: Any, faces: Faces) -> Work:  # noqa: ANN401 - FAISS has no types
    def work(probe: int) -> list[int]:
        faiss.omp_set_num_threads(1)
        found: list[int] = index.search(faces.probes[probe : probe + 1], NEAREST)[1][0].tolist()
        return found

    return work


@contextmanager
def searcher(database: Database, home: Path) -> Iterator[Searcher]:
    """As the service has it, from the home's snapshots if there are any; loaded."""
    settings = ServiceSettings(home=home)
    threads = settings.threads_per_run
    cache = SearchCache(database, Options(ENOUGH_MEMORY, settings.snapshots_folder, threads))
    cache.start()
    try:
        while not cache.ready:
            time.sleep(POLL_S)
        yield Searcher(database, cache, threads=threads)
    finally:
        cache.close()


def found_by(searching: Searcher, gallery: str, faces: Faces) -> Work:
    """The whole of a search in process: index, database, names. Ids of faces count from 1."""
    target = searching.target(gallery)
    query = Query(gallery=gallery, k=NEAREST, threshold=FURTHEST, group_by="face")

    def work(probe: int) -> list[int]:
        found = searching.find(target, faces.probes[probe : probe + 1], query)
        assert found.engine.name != "pgvector"
        return [match.face_id - 1 for match in found.matches[0]]

    return work


def snapshot(home: Path) -> Path | None:
    """The folder of the home's snapshots; None as long as there is no whole one."""
    folder = ServiceSettings(home=home).snapshots_folder
    whole = folder is not None and any(folder.rglob("meta.json"))
    return folder if whole else None


def _shortlist(codes: Codes | None, faces: int) -> int:
    """How many candidates a search for ten faces compares exactly."""
    if codes is None or not codes.shortlists.cosine:
        return 0
    count = max(codes.shortlists.cosine, PER_MATCH * NEAREST)
    return count if count <= min(LONGEST_SHORTLIST, faces // SCAN_SHARE) else 0
