"""All faces of a space at one version, settled: ordered by gallery and person, with codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.cache.codes import LEAST_ROWS, Codes, encode
from indexer.cache.rows import Ids, Rows
from indexer.store.spaces import Engine
from indexer.store.vectors import Owners
from recognition.types import Embeddings

T = TypeVar("T", bound=np.generic)

FLAT_NUMBERS = 4_000_000
"""Up to so many numbers (faces times dimension) looking at all of them is fastest."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which state of which space: versions of two histories differ in their stamp."""

    space_id: int
    version: int
    stamp: int
    epoch: str


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A gallery's rows in the base: those from `start` to `stop`."""

    gallery_id: int
    start: int
    stop: int
    codes: Codes | None


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """`mapped`: the vectors are those of a file and not in memory of our own."""

    mark: Mark
    engine: Engine
    rows: Rows
    blocks: tuple[Block, ...]
    mapped: bool = False

    @property
    def bytes(self) -> int:
        """Memory of our own."""
        codes = sum(block.codes.bytes for block in self.blocks if block.codes is not None)
        return codes + self.rows.bytes - (self.rows.unit.nbytes if self.mapped else 0)


def wants_codes(engine: Engine, faces: int, dimension: int) -> bool:
    """Whether a gallery of that size is searched by way of codes."""
    if engine == "compressed":
        return faces >= LEAST_ROWS
    return engine == "auto" and faces * dimension > FLAT_NUMBERS and faces >= LEAST_ROWS


class BaseWriter:
    """Puts faces where they belong, in whatever order they come; then `finish`.

    `unit` is the place for the vectors, in memory or mapped from a file.
    """

    def __init__(self, owners: Owners, unit: Embeddings) -> None:
        order = np.lexsort((owners.faces, owners.people, owners.galleries))
        self._galleries = owners.galleries[order]
        norms = np.zeros(len(order), np.float32)
        self.rows = Rows(owners.faces[order], owners.people[order], unit, norms)
        self._by_face = np.argsort(self.rows.faces)
        self.done = 0

    def put(self, faces: Ids, unit: Embeddings, norms: NDArray[np.float32]) -> None:
        """Unit vectors of some of the faces, with the lengths of the raw ones."""
        at = self._by_face[np.searchsorted(self.rows.faces, faces, sorter=self._by_face)]
        self.rows.unit[at], self.rows.norms[at] = unit, norms
        self.done += len(faces)

    def finish(self, mark: Mark, engine: Engine, threads: int) -> Base:
        """Train the codes of the galleries that want them."""
        blocks = tuple(
            Block(gallery_id, start, stop, _codes(self.rows.cut(start, stop), engine, threads))
            for gallery_id, start, stop in _runs(self._galleries)
        )
        return Base(mark, engine, self.rows, blocks)


def _codes(rows: Rows, engine: Engine, threads: int) -> Codes | None:
    if not wants_codes(engine, len(rows), rows.dimension):
        return None
    return encode(rows, threads)


def _runs(sorted_ids: Ids) -> Sequence[tuple[int, int, int]]:
    """(value, start, stop) of each run of equal ids."""
    ids, starts = np.unique(sorted_ids, return_index=True)
    stops = np.append(starts, len(sorted_ids))[1:]
    return [(int(i), int(a), int(b)) for i, a, b in zip(ids, starts, stops, strict=True)]


def grown(array: NDArray[T], capacity: int) -> NDArray[T]:
    """A copy with room for `capacity` rows."""
    larger = np.empty((capacity, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
