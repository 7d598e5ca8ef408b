"""A report on a gallery's health: people who may be one, photographs that may be somebody else's, doubles, nobody."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import EmptyGallery
from indexer.health import findings
from indexer.health.findings import People
from indexer.health.neighbours import BLOCK_BYTES, Neighbours, neighbours
from indexer.store import galleries, spaces, vectors
from indexer.store import health as store
from indexer.store.engine import Database, ReadConnection
from indexer.store.galleries import Gallery
from indexer.store.spaces import Space
from recognition.errors import NoThreshold
from recognition.metrics import normalise
from recognition.pipeline import Recognizer
from recognition.types import Embeddings

Ids = NDArray[np.int64]

MAPPED_BYTES = 256 * 2**20
"""Of vectors from which on they lie in a file."""
PEOPLE_NEAR = 16
FACES_NEAR = 16
"""Neighbours looked at, of a person and of a face."""


@dataclass(frozen=True, slots=True, eq=False)
class _Faces:
    """By row: ids, and unit vectors (n, d)."""

    images: Ids
    people: Ids
    unit: Embeddings


class Checker:
    """Reads a gallery's vectors and changes nothing."""

    def __init__(self, database: Database, recognizer: Recognizer, threads: int) -> None:
        self._database = database
        self._recognizer = recognizer
        self._threads = threads

    def check(self, gallery: str, limit: int) -> dict[str, Any]:
        """At most `limit` of each kind of finding are told, all are counted. Raises NotFound, EmptyGallery."""
        with tempfile.TemporaryDirectory(prefix="facesearch-health-") as name:
            with self._database.read() as connection:
                held = galleries.get(connection, gallery)
                if held.active_space_id is None:
                    raise EmptyGallery(
                        f"gallery {gallery!r} is empty; index a folder or enrol somebody"
                    )
                space = spaces.get(connection, held.active_space_id)
                faces = _read(connection, held, space, Path(name))
            people = _people(faces, Path(name))
            near_people = neighbours(people.means, PEOPLE_NEAR, self._threads)
            near_faces = neighbours(faces.unit, FACES_NEAR, self._threads)
            within = findings.reach(near_people, self._threshold(space))
            told = _Told(self._database, faces, people, limit)
            return {
                "gallery": held.name,
                "space": str(space.recipe),
                "people": len(people.ids),
                "faces": len(faces.unit),
                "one_person_within": within,
                "recall": min(near_people.recall, near_faces.recall),
                **told.all(near_people, near_faces, within),
                "without_faces": _faceless(self._database, held.id, limit),
            }

    def _threshold(self, space: Space) -> float | None:
        recipe = space.recipe
        try:
            spec = self._recognizer.models.installed(recipe.model)
            return spec.threshold(recipe.detector, "cosine", recipe.align).value
        except NoThreshold:
            return None


class _Told:
    """Findings with names in place of rows."""

    def __init__(self, database: Database, faces: _Faces, people: People, limit: int) -> None:
        self._database = database
        self._faces = faces
        self._people = people
        self._limit = limit

    def all(
        self, near_people: Neighbours, near_faces: Neighbours, within: float | None
    ) -> dict[str, Any]:
        """Nothing is judged where no scale is known."""
        if within is None:
            none = {"count": 0, "found": []}
            return {"confusable": none, "unlike": none, "near_duplicates": none}
        return {
            "confusable": self._confusable(findings.confusable(near_people, within)),
            "unlike": self._unlike(within),
            "near_duplicates": self._alike(findings.alike(near_faces, self._faces.images, within)),
        }

    def _confusable(self, pairs: Sequence[findings.Pair]) -> dict[str, Any]:
        shown = pairs[: self._limit]
        ids = self._people.ids
        with self._database.read() as connection:
            known = store.people(connection, [int(ids[row]) for p in shown for row in (p.a, p.b)])
        found = []
        for pair in shown:
            a, b = known.get(int(ids[pair.a])), known.get(int(ids[pair.b]))
            if a is None or b is None:
                continue  # erased meanwhile
            found.append(
                {
                    "identity_a": a.name,
                    "identity_b": b.name,
                    "images_a": a[2],
                    "images_b": b[2],
                    "distance": round(pair.distance, 6),
                    "score": round(pair.score, 4),
                }
            )
        return {"count": len(pairs), "found": found}

    def _unlike(self, within: float) -> dict[str, Any]:
        block = _block(self._faces.unit.shape[1])
        rows, distances = findings.unlike(self._faces.unit, self._people, within, block)
        shown = rows[: self._limit]
        others = [self._nearest_other(int(row)) for row in shown]
        with self._database.read() as connection:
            images = store.images(connection, self._faces.images[shown].tolist())
            names = store.people(connection, [int(self._people.ids[other]) for other, _ in others])
        found = []
        for row, distance, (other, other_distance) in zip(shown, distances, others, strict=False):
            image = images.get(int(self._faces.images[row]))
            name = names.get(int(self._people.ids[other]))
            if image is None:
                continue
            likely = name is not None and other_distance <= within
            found.append(
                {
                    "identity": image.identity,
                    "image_id": image.id,
                    "image": image.locator,
                    "distance": round(float(distance), 6),
                    "looks_like": name.name if likely and name is not None else None,
                    "looks_like_distance": round(other_distance, 6) if likely else None,
                }
            )
        return {"count": len(rows), "found": found}

    def _nearest_other(self, row: int) -> tuple[int, float]:
        """The other person whose mean is nearest to a face, with its distance."""
        distances = 1 - self._people.means @ self._faces.unit[row]
        distances[self._people.of_faces[row]] = np.inf
        best = int(distances.argmin())
        return best, float(distances[best])

    def _alike(self, pairs: Sequence[findings.Pair]) -> dict[str, Any]:
        shown = pairs[: self._limit]
        ids = self._faces.images
        with self._database.read() as connection:
            known = store.images(connection, [int(ids[row]) for p in shown for row in (p.a, p.b)])
        found = []
        for pair in shown:
            a, b = known.get(int(ids[pair.a])), known.get(int(ids[pair.b]))
            if a is None or b is None:
                continue
            found.append(
                {
                    "identity_a": a.identity,
                    "image_a": a.locator,
                    "image_id_a": a.id,
                    "identity_b": b.identity,
                    "image_b": b.locator,
                    "image_id_b": b.id,
                    "distance": round(pair.distance, 6),
                }
            )
        return {"count": len(pairs), "found": found}


def _faceless(database: Database, gallery_id: int, limit: int) -> dict[str, Any]:
    with database.read() as connection:
        count, rows = store.faceless(connection, gallery_id, limit)
    return {
        "count": count,
        "found": [
            {"identity": row.name, "no_face": row.no_face, "unreadable": row.unreadable}
            for row in rows
        ],
    }


def _read(connection: ReadConnection, gallery: Gallery, space: Space, folder: Path) -> _Faces:
    count = store.faces(connection, gallery.id, space.id)
    unit = _room(count, space.dimension, folder / "faces")
    images, people = np.zeros(count, np.int64), np.zeros(count, np.int64)
    done = 0

    def take(_: Ids, image_ids: Ids, person_ids: Ids, raw: Embeddings) -> None:
        nonlocal done
        part = slice(done, done + len(raw))
        images[part], people[part], unit[part] = image_ids, person_ids, normalise(raw)
        done += len(raw)

    vectors.of_gallery(connection, space, gallery.id, take)
    return _Faces(images, people, unit)


def _people(faces: _Faces, folder: Path) -> People:
    ids, of_faces = np.unique(faces.people, return_inverse=True)
    means = _room(len(ids), faces.unit.shape[1], folder / "people")
    block = _block(faces.unit.shape[1])
    for start in range(0, len(faces.unit), block):
        part = slice(start, start + block)
        np.add.at(means, of_faces[part], faces.unit[part])
    for start in range(0, len(means), block):
        part = slice(start, start + block)
        means[part] = normalise(means[part])
    return People(ids, means, of_faces)


def _room(rows: int, dimension: int, file: Path) -> Embeddings:
    """(rows, dimension) of zeros, in a file where they are large."""
    if 4 * rows * dimension <= MAPPED_BYTES:
        return np.zeros((rows, dimension), np.float32)
    return np.memmap(file, np.float32, "w+", shape=(rows, dimension))


def _block(dimension: int) -> int:
    return max(1, BLOCK_BYTES // (4 * dimension))
