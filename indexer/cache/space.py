"""A space in memory: a settled base, what was erased from it since, and what came since.

One thread changes it, any number search it; a search works on the view of the moment it starts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.cache.base import Base, Mark, grown
from indexer.cache.rows import Ids, Mask, Rows
from indexer.cache.view import Part, View
from recognition.metrics import normalise
from recognition.types import Embeddings

FIRST_CAPACITY = 64


class Tail:
    """Faces in the order in which they came; grows by half when it is full."""

    def __init__(self, dimension: int) -> None:
        self._rows = Rows(
            np.empty(FIRST_CAPACITY, np.int64),
            np.empty(FIRST_CAPACITY, np.int64),
            np.empty((FIRST_CAPACITY, dimension), np.float32),
            np.empty(FIRST_CAPACITY, np.float32),
        )
        self._alive = np.empty(FIRST_CAPACITY, np.bool_)
        self._at: dict[int, int] = {}
        self.count = 0

    @property
    def living(self) -> int:
        return len(self._at)

    @property
    def bytes(self) -> int:
        return self._rows.bytes

    def part(self) -> Part:
        return Part(self._rows.cut(0, self.count), self._alive[: self.count].copy())

    def add(self, faces: Ids, people: Ids, raw: Embeddings) -> None:
        start, end = self.count, self.count + len(faces)
        self._reserve(end)
        rows = self._rows
        rows.faces[start:end], rows.people[start:end] = faces, people
        rows.unit[start:end] = normalise(raw)
        rows.norms[start:end] = np.linalg.norm(raw, axis=1)
        self._alive[start:end] = True
        self._at.update(zip(faces.tolist(), range(start, end), strict=True))
        self.count = end

    def drop(self, face: int) -> bool:
        row = self._at.pop(face, None)
        if row is None:
            return False
        self._alive[row] = False
        return True

    def _reserve(self, size: int) -> None:
        capacity = len(self._alive)
        if size <= capacity:
            return
        capacity = max(size, capacity * 3 // 2)
        rows = self._rows
        self._rows = Rows(
            grown(rows.faces, capacity),
            grown(rows.people, capacity),
            grown(rows.unit, capacity),
            grown(rows.norms, capacity),
        )
        self._alive = grown(self._alive, capacity)


class GalleryIndex:
    """One gallery: its rows of the base, with the marks of those that are gone, and a tail."""

    def __init__(self, settled: Part | None, dimension: int) -> None:
        """`settled.alive` may be changed in place, and is told with `lose`; searches see a copy."""
        self._settled = settled
        self._kept = 0 if settled is None else len(settled.rows)
        self._shown: Part | None = None
        self.tail = Tail(dimension)
        self.publish()

    @property
    def view(self) -> View:
        return self._view

    def lose(self, count: int) -> None:
        """That many rows of the base are gone."""
        self._kept -= count
        self._shown = None

    def publish(self) -> None:
        """Show searches the state of now."""
        if self._shown is None and self._settled is not None:
            self._shown = replace(self._settled, alive=self._settled.alive.copy())
        parts = [self._shown] if self._shown is not None else []
        if self.tail.count or not parts:
            parts.append(self.tail.part())
        self._view = View(tuple(parts), self._kept + self.tail.living)


class SpaceIndex:
    """All galleries of one space at one version."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.mark = base.mark
        self._alive: Mask = np.ones(len(base.rows), np.bool_)
        self._by_face = np.argsort(base.rows.faces)
        self._starts = np.asarray([block.start for block in base.blocks], np.int64)
        self._homes: dict[int, int] = {}
        self._dead = 0
        self._galleries = {
            block.gallery_id: GalleryIndex(
                Part(
                    base.rows.cut(block.start, block.stop),
                    self._alive[block.start : block.stop],
                    block.codes,
                    sorted=True,
                ),
                base.rows.dimension,
            )
            for block in base.blocks
        }

    @property
    def version(self) -> int:
        return self.mark.version

    @property
    def faces(self) -> int:
        return len(self._alive) - self._dead + len(self._homes)

    @property
    def unsettled(self) -> int:
        """Faces that came after the base, with those of them that are gone again."""
        return sum(gallery.tail.count for gallery in list(self._galleries.values()))

    @property
    def dead(self) -> int:
        """Faces of the base that are gone."""
        return self._dead

    @property
    def bytes(self) -> int:
        """Memory of our own: without what is mapped from a file."""
        own = self._alive.nbytes + self._by_face.nbytes + self.base.bytes
        return own + sum(gallery.tail.bytes for gallery in list(self._galleries.values()))

    @property
    def coded(self) -> bool:
        return any(block.codes is not None for block in self.base.blocks)

    def view(self, gallery_id: int) -> View | None:
        gallery = self._galleries.get(gallery_id)
        return None if gallery is None else gallery.view

    def views(self) -> dict[int, View]:
        return {gallery_id: gallery.view for gallery_id, gallery in self._galleries.items()}

    def put(self, faces: Ids, galleries: Ids, people: Ids, raw: Embeddings) -> None:
        """Add faces, or replace those that are there."""
        touched = self._drop(faces)
        for gallery_id in np.unique(galleries).tolist():
            rows = galleries == gallery_id
            gallery = self._galleries.get(gallery_id)
            if gallery is None:
                gallery = GalleryIndex(None, self.base.rows.dimension)
            gallery.tail.add(faces[rows], people[rows], raw[rows])
            self._homes.update(dict.fromkeys(faces[rows].tolist(), gallery_id))
            self._galleries[gallery_id] = gallery
            touched.add(gallery_id)
        self._publish(touched)

    def drop(self, faces: Ids) -> None:
        self._publish(self._drop(faces))

    def reached(self, mark: Mark) -> None:
        """Everything up to that version has been put and dropped."""
        self.mark = mark

    def _publish(self, galleries: set[int]) -> None:
        for gallery_id in galleries:
            self._galleries[gallery_id].publish()

    def _drop(self, faces: Ids) -> set[int]:
        """Mark faces as gone; returns the galleries they were in."""
        touched: set[int] = set()
        for face in faces.tolist():
            gallery_id = self._homes.pop(face, None)
            if gallery_id is not None and self._galleries[gallery_id].tail.drop(face):
                touched.add(gallery_id)
        if len(self._by_face):
            at = np.searchsorted(self.base.rows.faces, faces, sorter=self._by_face)
            rows = self._by_face[np.minimum(at, len(self._by_face) - 1)]
            gone = np.unique(rows[(self.base.rows.faces[rows] == faces) & self._alive[rows]])
            self._alive[gone] = False
            self._dead += len(gone)
            blocks, counts = np.unique(
                np.searchsorted(self._starts, gone, "right") - 1, return_counts=True
            )
            for block, count in zip(blocks.tolist(), counts.tolist(), strict=True):
                gallery_id = self.base.blocks[block].gallery_id
                self._galleries[gallery_id].lose(count)
                touched.add(gallery_id)
        return touched
