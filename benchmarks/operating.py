"""Whether `target_fpir` keeps its promise: the rate of false alarms of people who are not enrolled.

    python -m benchmarks.operating [GALLERY]

Takes the embeddings of an indexed gallery, enrols a random half of its people, derives the threshold
from that half alone, and searches for the other half. Repeated with other halves.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from indexer import own_models
from indexer.cache.ask import Ask, search
from indexer.cache.base import BaseWriter, Mark
from indexer.cache.rows import Ids
from indexer.cache.space import SpaceIndex
from indexer.cache.view import View
from indexer.operating import Impostors, estimate
from indexer.settings import Settings
from indexer.store import galleries, spaces, vectors
from indexer.store.engine import Database
from indexer.store.search import Scoring
from indexer.store.vectors import Owners
from recognition.metrics import normalise
from recognition.types import Embeddings

RATES = (0.1, 0.03, 0.01, 0.003)
REPEATS = 10


def read(gallery: str) -> tuple[Owners, Embeddings, float]:
    """The gallery's faces with their raw embeddings, and the space's own threshold."""
    database = Database.open(Settings())
    with database.read() as connection:
        held = galleries.get(connection, gallery)
        space = spaces.get(connection, held.active_space_id or 0)
        owned = vectors.owners(connection, space)
        found: dict[int, NDArray[np.float32]] = {}

        def take(faces: Ids, raw: Embeddings) -> None:
            found.update(zip(faces.tolist(), raw, strict=True))

        vectors.each(connection, space, take)
    mine = owned.galleries == held.id
    chosen = Owners(owned.faces[mine], owned.galleries[mine], owned.people[mine])
    models = own_models.load(Settings().models_folder)
    own = models.installed(space.recipe.model).threshold(space.recipe.detector, "cosine")
    return chosen, np.stack([found[face] for face in chosen.faces.tolist()]), own.value


def enrolled(owners: Owners, raw: Embeddings) -> View:
    writer = BaseWriter(owners, np.empty_like(raw))
    writer.put(owners.faces, normalise(raw), np.linalg.norm(raw, axis=1).astype(np.float32))
    index = SpaceIndex(writer.finish(Mark(0, 0, 0, ""), "flat", 1))
    view = index.view(int(owners.galleries[0]))
    assert view is not None
    return view


def trial(
    owners: Owners, raw: Embeddings, random: np.random.Generator
) -> tuple[Impostors, NDArray[np.float64], NDArray[np.float64]]:
    """The estimate; distances of strangers to the nearest person; of known people to themselves."""
    people = np.unique(owners.people)
    inside = np.isin(owners.people, random.permutation(people)[: len(people) // 2])
    _, first = np.unique(np.where(inside, owners.people, -1), return_index=True)
    probe = np.zeros(len(raw), np.bool_)
    more = np.flatnonzero(inside & (np.bincount(owners.people)[owners.people] > 1))
    probe[np.intersect1d(first, more)] = True  # one photograph of each who has several
    kept = inside & ~probe
    part = Owners(owners.faces[kept], owners.galleries[kept], owners.people[kept])
    view = enrolled(part, raw[kept])
    _, each = np.unique(np.where(inside, -1, owners.people), return_index=True)
    strangers = each[~inside[each]]
    ask = Ask(limit=1, by="person")
    alarms = [h.distances[0] for h in search(view, raw[strangers], ask).hits]
    answered = search(view, raw[probe], ask).hits
    own = [
        hits.distances[0] if hits.people[0] == person else np.inf
        for hits, person in zip(answered, owners.people[probe], strict=True)
    ]
    return estimate(view, "cosine", Scoring(), 0), np.asarray(alarms), np.asarray(own)


def main() -> None:
    gallery = sys.argv[1] if len(sys.argv) > 1 else "default"
    owners, raw, own = read(gallery)
    random = np.random.default_rng(3)
    trials = [trial(owners, raw, random) for _ in range(REPEATS)]
    print(f"{len(np.unique(owners.people))} people, {len(raw)} faces, {REPEATS} random halves")
    print("| asked for | threshold | strangers taken for somebody | lowest to highest half "
          "| known people found |")  # fmt: skip
    print("|---|---|---|---|---|")
    for rate in (*RATES, None):
        limits = [own if rate is None else known.threshold(rate) for known, _, _ in trials]
        alarms = [float(np.mean(t[1] <= at)) for t, at in zip(trials, limits, strict=True)]
        hits = [float(np.mean(t[2] <= at)) for t, at in zip(trials, limits, strict=True)]
        asked = "(the 1:1 threshold)" if rate is None else f"{rate:g}"
        print(
            f"| {asked} | {np.mean(limits):.4f} | {np.mean(alarms):.4f} "
            f"| {min(alarms):.4f} to {max(alarms):.4f} | {np.mean(hits):.3f} |"
        )


if __name__ == "__main__":
    main()
