"""Images that one transaction adds: looked up and written together, though each is judged after those before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from indexer.store import images
from indexer.store.engine import WriteConnection
from indexer.store.images import USABLE, ImageRow, Twin

T = TypeVar("T")


class Additions(Generic[T]):
    """Rows of new images, written by `flush`; `twin` knows those that still wait.

    `contents` are the (identity, SHA-256) that `twin` will be asked for, whose identities are locked.
    """

    def __init__(self, connection: WriteConnection, contents: Iterable[tuple[int, bytes]]) -> None:
        self._connection = connection
        self._twins = images.twins(connection, contents)
        self._waiting: list[tuple[ImageRow, T]] = []

    def twin(self, identity_id: int, sha256: bytes) -> Twin | None:
        """The identity's usable image of that content."""
        return self._twins.get((identity_id, sha256))

    def remove(self, image_id: int) -> None:
        """Remove an image that was written before."""
        images.remove_images(self._connection, [image_id])
        self._twins = {k: twin for k, twin in self._twins.items() if twin.id != image_id}

    def place(self, twin: Twin, row: ImageRow) -> None:
        """Say that an uploaded image lies where the row says."""
        values: dict[str, str | int | None] = {"root": row.root, "locator": row.locator}
        values |= {"size": row.size, "mtime_ns": row.mtime_ns, "source": "tree"}
        images.update_image(self._connection, twin.id, values)
        moved = replace(twin, root=row.root, locator=row.locator)
        self._twins = {k: moved if t.id == twin.id else t for k, t in self._twins.items()}

    def add(self, row: ImageRow, belongs: T) -> None:
        self._waiting.append((row, belongs))
        if row.state in USABLE:
            key = row.identity_id, row.sha256
            self._twins[key] = Twin(0, row.gallery_id, row.root, row.locator)

    def flush(self) -> list[tuple[int, T]]:
        """Write what waits; the new images' ids with what belongs to them."""
        waiting, self._waiting = self._waiting, []
        ids = images.add_all(self._connection, [row for row, _ in waiting])
        return [(i, belongs) for i, (_, belongs) in zip(ids, waiting, strict=True)]
