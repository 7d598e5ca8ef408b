"""A gallery of people with made-up embeddings, written as the project writes them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping

from indexer import people
from indexer.cache.ask import Ask, search
from indexer.cache.space import SpaceIndex
from indexer.enrol import Extracted, store_faces
from indexer.store import galleries, identities, images, spaces
from indexer.store.engine import Database
from indexer.store.images import ImageRow
from indexer.store.spaces import Space
from recognition.pipeline import Face, Recipe
from recognition.types import Box, Detection, Embeddings
from tests.indexer.cache.conftest import made_up

NUMBERS = itertools.count(9000)


def enrol(world: World, database: Database, named: Mapping[str, Embeddings]) -> int:
    """People by name with an embedding each, in one transaction; returns the version."""
    with database.write() as connection:
        held = galleries.hold(connection, world.name)
        owners = identities.ensure(connection, held.id, named)
        items = []
        for name, vector in named.items():
            sha = hashlib.sha256(f"{world.number} {name}".encode()).digest()
            row = ImageRow(
                gallery_id=held.id, identity_id=owners[name], sha256=sha, size=1,
                state="ready", uploaded=True,
            )  # fmt: skip
            face = Face(Detection(Box(0, 0, 9, 9), 1.0), 1.0, vector)
            faces = {world.space.id: (face,)}
            items.append(
                (images.add(connection, row), Extracted(sha, 1, "ready", None, 9, 9, faces))
            )
        changes: dict[int, list[tuple[int, str]]] = {}
        store_faces(connection, held.id, items, changes)
        return spaces.publish(connection, changes)[world.space.id]


class World:
    """A gallery in a space of its own, with people whose embeddings are made up."""

    def __init__(self, database: Database, people: int = 1500) -> None:
        self.database = database
        self.version = 0
        self.number = next(NUMBERS)
        self.name = f"world {self.number}"
        self.vectors = made_up(people, each=1, dimension=128, seed=self.number).raw
        recipe = Recipe("Dlib", "mediapipe", version=self.number)
        with database.write() as connection:
            self.space: Space = spaces.ensure(connection, recipe, 128)
            galleries.ensure(connection, self.name)
            self.gallery = galleries.get(connection, self.name).id
            galleries.set_spaces(connection, self.gallery, active=self.space.id, building=None)

    def enrol(self, *numbers: int) -> int:
        """Those people, in one transaction; returns the version."""
        return enrol(self, self.database, {f"p{n}": self.vectors[n] for n in numbers})

    def erase(self, number: int) -> int:
        return people.erase_identity(self.database, self.name, f"p{number}").version

    def found(self, index: SpaceIndex, number: int) -> bool:
        view = index.view(self.gallery)
        if view is None:
            return False
        hits = search(view, self.vectors[number : number + 1], Ask(limit=1, within=1e-6)).hits[0]
        return len(hits) == 1
