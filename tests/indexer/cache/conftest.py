"""Made-up faces: people as directions, their photographs as noise around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.cache.base import Base, BaseWriter, Mark
from indexer.cache.rows import Ids
from indexer.store.spaces import Engine
from indexer.store.vectors import Owners
from recognition.metrics import distances, normalise
from recognition.types import Embeddings, Metric

GALLERY = 7
MARK = Mark(space_id=3, version=5, stamp=77, epoch="epoch")


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """ids, people and raw embeddings, row by row."""

    ids: Ids
    people: Ids
    raw: Embeddings

    @property
    def owners(self) -> Owners:
        return Owners(self.ids, np.full(len(self.ids), GALLERY), self.people)

    def chosen(self, which: np.ndarray) -> Faces:
        return Faces(self.ids[which], self.people[which], self.raw[which])


def made_up(people: int, each: int, dimension: int, seed: int = 0) -> Faces:
    """Lengths of the raw embeddings vary by a tenth, as those of real networks do."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, dimension))
    owner = np.repeat(np.arange(people), each)
    raw = normalise(centres[owner] + 0.6 * random.normal(size=(len(owner), dimension)))
    raw *= random.normal(1.4, 0.14, (len(owner), 1)).clip(1.0, 1.8).astype(np.float32)
    order = random.permutation(len(owner))
    return Faces(np.arange(len(owner)) * 3 + 11, owner[order] * 2 + 100, raw[order])


def base_of(faces: Faces, engine: Engine = "flat", mark: Mark = MARK) -> Base:
    unit = np.empty_like(faces.raw)
    writer = BaseWriter(faces.owners, unit)
    norms = np.linalg.norm(faces.raw, axis=1).astype(np.float32)
    writer.put(faces.ids, normalise(faces.raw), norms)
    return writer.finish(mark, engine, 1)


def by_face(faces: Faces, probe: Embeddings, metric: Metric) -> list[tuple[int, int, float]]:
    """Everything, nearest first: (face, person, distance), by the plainest means."""
    found = distances(probe[None, :], faces.raw, metric)[0]
    rows = sorted(zip(found.tolist(), faces.ids.tolist(), faces.people.tolist(), strict=True))
    return [(face, person, distance) for distance, face, person in rows]


def by_person(
    faces: Faces, probe: Embeddings, metric: Metric, kind: str, best: int
) -> list[tuple[int, float]]:
    """Everybody, nearest first: (person, score), by the plainest means."""
    scores = []
    for person in np.unique(faces.people).tolist():
        own = faces.chosen(faces.people == person)
        if kind == "centroid":
            rows = own.raw if metric == "euclidean" else normalise(own.raw)
            score = float(distances(probe[None, :], rows.mean(0, keepdims=True), metric)[0, 0])
        else:
            near = np.sort(distances(probe[None, :], own.raw, metric)[0])
            score = float(near[: 1 if kind == "best" else best].mean())
        scores.append((person, score))
    return sorted(scores, key=lambda pair: pair[1])
