"""Images that one transaction adds: each is judged after those before it, though all are written at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from indexer.store import galleries, identities, images
from indexer.store.additions import Additions
from indexer.store.engine import Database
from indexer.store.images import ImageRow, Known

ONE, TWO = (hashlib.sha256(name).digest() for name in (b"one", b"two"))


class Shelf:
    """A gallery with two people, under one transaction at a time."""

    def __init__(self, database: Database, gallery: str) -> None:
        self._database, self._gallery = database, gallery
        with database.write() as connection:
            galleries.ensure(connection, gallery)
            self.gallery = galleries.get(connection, gallery).id
            made = identities.ensure(connection, self.gallery, ["Ann", "Bob"])
        self.ann, self.bob = made["Ann"], made["Bob"]

    @contextmanager
    def open(self) -> Iterator[Additions[str]]:
        contents = [(owner, sha) for owner in (self.ann, self.bob) for sha in (ONE, TWO)]
        with self._database.write() as connection:
            yield Additions(connection, contents)

    def row(self, locator: str, owner: int, sha256: bytes, state: str = "ready") -> ImageRow:
        return ImageRow(
            gallery_id=self.gallery, identity_id=owner, sha256=sha256, size=1, state=state,
            root="/people", locator=locator, mtime_ns=1,
        )  # fmt: skip

    def upload(self, owner: int, sha256: bytes) -> None:
        row = self.row("", owner, sha256)
        with self._database.write() as connection:
            images.add(connection, replace(row, root=None, locator=None, uploaded=True))

    def known(self) -> dict[str, Known]:
        with self._database.read() as connection:
            return {k.locator: k for k in images.known_files(connection, self.gallery, "/people")}


@pytest.fixture
def shelf(database: Database, gallery: str) -> Shelf:
    return Shelf(database, gallery)


def test_rows_get_their_ids_in_the_order_of_adding(shelf: Shelf) -> None:
    with shelf.open() as additions:
        for number in range(40):
            owner = shelf.ann if number % 3 else shelf.bob
            sha256 = hashlib.sha256(b"%d" % number).digest()
            additions.add(shelf.row(f"{number}.jpg", owner, sha256), f"{number}.jpg")
        written = additions.flush()
        assert additions.flush() == []
    assert {belongs: i for i, belongs in written} == {
        k.locator: k.id for k in shelf.known().values()
    }
    assert [belongs for _, belongs in written] == [f"{number}.jpg" for number in range(40)]


def test_a_waiting_image_is_the_twin_of_those_after_it(shelf: Shelf) -> None:
    with shelf.open() as additions:
        assert additions.twin(shelf.ann, ONE) is None
        additions.add(shelf.row("broken.jpg", shelf.ann, ONE, state="unreadable"), "")
        assert additions.twin(shelf.ann, ONE) is None
        additions.add(shelf.row("1.jpg", shelf.ann, ONE), "")
        found = additions.twin(shelf.ann, ONE)
        assert found is not None
        assert found.locator == "1.jpg"
        assert additions.twin(shelf.bob, ONE) is None
        assert additions.twin(shelf.ann, TWO) is None
        additions.flush()
    assert set(shelf.known()) == {"broken.jpg", "1.jpg"}


def test_a_written_image_is_a_twin_until_it_is_removed(shelf: Shelf) -> None:
    with shelf.open() as additions:
        additions.add(shelf.row("1.jpg", shelf.ann, ONE), "")
        additions.add(shelf.row("2.jpg", shelf.ann, TWO), "")
        additions.flush()
    before = shelf.known()
    with shelf.open() as additions:
        found = additions.twin(shelf.ann, ONE)
        assert found == images.Twin(before["1.jpg"].id, shelf.gallery, "/people", "1.jpg")
        additions.remove(before["1.jpg"].id)
        assert additions.twin(shelf.ann, ONE) is None
        assert additions.twin(shelf.ann, TWO) is not None
        additions.add(shelf.row("1.jpg", shelf.ann, ONE), "")  # the place is free again
        additions.flush()
    after = shelf.known()
    assert after["1.jpg"].id != before["1.jpg"].id
    assert after["2.jpg"].id == before["2.jpg"].id


def test_an_upload_gets_the_place_of_the_first_file_only(shelf: Shelf) -> None:
    shelf.upload(shelf.ann, ONE)
    with shelf.open() as additions:
        found = additions.twin(shelf.ann, ONE)
        assert found is not None
        assert found.root is None
        additions.place(found, shelf.row("1.jpg", shelf.ann, ONE))
        again = additions.twin(shelf.ann, ONE)
        assert again is not None
        assert (again.root, again.locator) == ("/people", "1.jpg")
    assert shelf.known()["1.jpg"].uploaded
