"""The one way into the database for a photograph of a person, whether uploaded or crawled.

Pixels are turned into faces outside any transaction (`Extractor`); rows are written in one
(`store_faces`), under locks that keep a gallery from switching its space in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from indexer.audit import COMMAND, Actor
from indexer.errors import Conflict
from indexer.gate import Concern, Gate, reason, threshold
from indexer.settings import Settings
from indexer.store import galleries, identities, images, spaces
from indexer.store.engine import Database, WriteConnection
from indexer.store.galleries import Gallery
from indexer.store.images import FaceRow, ImageRow
from indexer.store.search import Scope
from indexer.store.spaces import Space
from indexer.store.transfer import names
from recognition.errors import ImageTooLarge, UndecodableImage
from recognition.images import ImageLimits
from recognition.pipeline import Face, Recipe, Recognizer, Selection
from recognition.registry import Models

NO_FACE = "no face found"
RETRIES = 5


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """What one file gave: `state` is ready, no_face or unreadable; faces by space id."""

    sha256: bytes
    size: int
    state: str
    reason: str | None
    width: int | None
    height: int | None
    faces: Mapping[int, tuple[Face, ...]]
    original: bytes | None = None
    """The file itself, where it is to be kept."""
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class EnrolledImage:
    """`status` is enrolled, exists (the person has this very file already) or rejected."""

    sha256: str
    status: Literal["enrolled", "exists", "rejected"]
    reason: str | None = None
    image_id: int | None = None
    faces: tuple[FaceRow, ...] = ()
    width: int | None = None
    height: int | None = None
    too_large: bool = False
    concerns: tuple[Concern, ...] = ()
    """What is doubtful, if the gallery minds."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """`version` is the one from which a search sees it."""

    images: tuple[EnrolledImage, ...]
    version: int


class Extractor:
    """Files to faces, in every space that a gallery needs."""

    def __init__(self, recognizer: Recognizer, settings: Settings) -> None:
        self.recognizer = recognizer
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._selection = Selection(max_faces=settings.enrol_max_faces)

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        """Never raises for a bad image: the reason is part of the result. There is at least one target."""
        sha256 = hashlib.sha256(data).digest()
        faces = {}
        try:
            for space in targets:
                recipe = space.recipe
                sight = self.recognizer.see(data, self._limits, recipe, self._selection)
                faces[space.id] = self.recognizer.describe_seen(sight, recipe)
        except (UndecodableImage, ImageTooLarge) as error:
            large = isinstance(error, ImageTooLarge)
            return Extracted(
                sha256, len(data), "unreadable", str(error), None, None, {}, too_large=large
            )
        size = sight.picture.width, sight.picture.height
        state, reason = ("ready", None) if faces[targets[0].id] else ("no_face", NO_FACE)
        return Extracted(sha256, len(data), state, reason, *size, faces)


@dataclass(frozen=True, slots=True)
class _Order:
    gallery: str
    identity: str
    by: Actor


class Enroller:
    """Uploads: idempotent by content, whole or not at all."""

    def __init__(self, database: Database, extractor: Extractor, settings: Settings) -> None:
        self._database = database
        self._extractor = extractor
        self._settings = settings
        self._keep = settings.keep_uploads

    def enrol(
        self, gallery: str, identity: str, files: Sequence[bytes], by: Actor = COMMAND
    ) -> Enrolment:
        """Store every file with a face under the identity, in one transaction.

        Raises NotFound for the gallery and InvalidName. A file that cannot be used is rejected with
        its reason; the identity is made only if a file is stored.
        """
        galleries.clean_name(identity, "an identity")
        for _ in range(RETRIES):
            targets = prepare_gallery(
                self._database, self._extractor.recognizer, gallery, self._default
            )
            each = self._extractor.recognizer.resources.idle.each
            extracted = each(partial(self._extract, targets=targets), files)
            done = self._store(_Order(gallery, identity, by), extracted, targets)
            if done is not None:
                return done
        raise Conflict(f"gallery {gallery!r} keeps changing its model; try again")

    def _default(self) -> Recipe:
        """Of a gallery that is still empty. Raises ModelUnavailable."""
        models = self._extractor.recognizer.models
        return Recipe.usual(models.installed(self._settings.model), self._settings.detector)

    def _extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        extracted = self._extractor.extract(data, targets)
        return replace(extracted, original=data) if self._keep else extracted

    def _store(
        self, order: _Order, extracted: Sequence[Extracted], targets: Sequence[Space]
    ) -> Enrolment | None:
        """None if the gallery's spaces are no longer those that the files were extracted for."""
        with self._database.write() as connection:
            held = galleries.hold(connection, order.gallery)
            if held.target_spaces != tuple(space.id for space in targets):
                return None
            usable = any(item.state == "ready" for item in extracted)
            name = galleries.clean_name(order.identity, "an identity")
            new = not names(connection, held.id, [name])
            owner = _owner(connection, held, name) if usable else None
            changes: dict[int, list[tuple[int, str]]] = {}
            gate = gate_of(connection, held, targets[0], self._extractor.recognizer.models)
            results = tuple(
                self._store_one(_Place(connection, held, owner, gate), item, changes)
                for item in extracted
            )
            if new and owner is not None:
                identities.prune(connection, [owner])
            published = spaces.publish(connection, changes)
            version = published.get(targets[0].id, targets[0].version)
            order.by.record(
                connection, "identity.enrol", held.name, identity_id=owner, version=version,
                images=[result.image_id for result in results if result.status == "enrolled"],
            )  # fmt: skip
        return Enrolment(results, version)

    def _store_one(
        self, place: _Place, item: Extracted, changes: dict[int, list[tuple[int, str]]]
    ) -> EnrolledImage:
        connection, gallery, owner = place.connection, place.gallery, place.owner
        result = EnrolledImage(
            item.sha256.hex(), "rejected", item.reason,
            width=item.width, height=item.height, too_large=item.too_large,
        )  # fmt: skip
        if owner is None or item.state != "ready":
            return result
        active = gallery.target_spaces[0]
        known = images.with_content(connection, owner, item.sha256)
        if known is not None:
            images.update_image(connection, known.id, {"uploaded": True})
            faces = images.faces_of_image(connection, known.id, active)
            return replace(result, status="exists", image_id=known.id, faces=tuple(faces))
        concerns: tuple[Concern, ...] = ()
        if place.gate is not None:
            concerns = place.gate.concerns(owner, item.faces.get(active, ()))
        if concerns and gallery.quality == "reject":
            return replace(result, reason=reason(concerns), concerns=concerns)
        row = ImageRow(
            gallery_id=gallery.id, identity_id=owner, sha256=item.sha256, size=item.size,
            state=item.state, width=item.width, height=item.height, uploaded=True,
            flags=tuple(concern.check for concern in concerns),
        )  # fmt: skip
        image_id = images.add(connection, row)
        if item.original is not None:
            images.keep_original(connection, image_id, item.original)
        stored = store_faces(connection, gallery.id, [(image_id, item)], changes)
        new = tuple(stored.get(active, ()))
        return replace(result, status="enrolled", image_id=image_id, faces=new, concerns=concerns)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an upload goes; `gate` is None where the gallery minds nothing."""

    connection: WriteConnection
    gallery: Gallery
    owner: int | None
    gate: Gate | None


def gate_of(
    connection: WriteConnection, gallery: Gallery, space: Space, models: Models
) -> Gate | None:
    """None for a gallery that accepts everything."""
    if gallery.quality == "accept":
        return None
    return Gate(connection, Scope(space, gallery.id), threshold(models, space.recipe))


def _owner(connection: WriteConnection, gallery: Gallery, identity: str) -> int:
    (identity_id,) = identities.ensure(connection, gallery.id, [identity]).values()
    return identity_id


def prepare_gallery(
    database: Database, recognizer: Recognizer, gallery: str, default: Callable[[], Recipe]
) -> tuple[Space, ...]:
    """The spaces that a new face of the gallery goes to; an empty gallery gets the default recipe's.

    Raises NotFound.
    """
    with database.read() as connection:
        found = galleries.get(connection, gallery)
        if found.active_space_id is not None:
            return tuple(spaces.get(connection, s) for s in found.target_spaces)
    recipe = default()
    dimension = recognizer.spec(recipe).dimension
    with database.write() as connection:
        locked = galleries.lock(connection, gallery)
        if locked.active_space_id is None:
            seal = galleries.protected(connection, locked).seal
            space = spaces.ensure(connection, recipe, dimension, seal)
            galleries.set_spaces(connection, locked.id, active=space.id, building=None)
            return (space,)
        return tuple(spaces.get(connection, s) for s in locked.target_spaces)


def store_faces(
    connection: WriteConnection,
    gallery_id: int,
    items: Sequence[tuple[int, Extracted]],
    changes: dict[int, list[tuple[int, str]]],
) -> dict[int, list[FaceRow]]:
    """Store the faces of images ((image id, what it gave)) in every space they were extracted for.

    Adds what a follower must be told to `changes`; returns the rows by space id.
    """
    stored: dict[int, list[FaceRow]] = {}
    for space_id in sorted({s for _, item in items for s in item.faces}):
        faces = [(i, face) for i, item in items for face in item.faces.get(space_id, ())]
        rows = images.add_faces(connection, space_id, gallery_id, faces)
        images.record_extractions(
            connection,
            space_id,
            [
                (i, "ready" if item.faces[space_id] else "no_face")
                for i, item in items
                if space_id in item.faces
            ],
        )
        changes.setdefault(space_id, []).extend((row.id, "I") for row in rows)
        stored[space_id] = rows
    return {space_id: rows for space_id, rows in stored.items() if rows}
