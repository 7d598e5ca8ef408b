"""An archive as a source of people: all is checked in a first reading, so that an import never stops half-way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from indexer.store.images import ImageRow
from indexer.transfer import npy, records
from indexer.transfer.archive import Archive
from indexer.transfer.errors import BadSource
from indexer.transfer.records import FaceRecord, IdentityRecord, ImageRecord, SpaceRecord
from indexer.transfer.source import Content, Person, Photo, Source, SpaceOf
from recognition.pipeline import Face, Recipe
from recognition.types import Box, Detection, Embeddings, Points

MOST_OF_A_PERSON = 100_000


@dataclass(frozen=True, slots=True)
class Places:
    """Where crawled files lie on this machine: `trees` in the order of the archive's roots, or none to keep no places;
    `photographs`: a folder with the files by locator."""

    trees: tuple[Path, ...] = ()
    photographs: Path | None = None


def source(archive: Archive, places: Places) -> Source:
    """Raises BadSource."""
    manifest = archive.manifest
    if places.trees and len(places.trees) != len(manifest.roots):
        named = ", ".join(manifest.roots) or "none"
        raise BadSource(
            f"the archive's files come from {len(manifest.roots)} folders ({named}); name a "
            f"--tree for each, in that order, or none; not {len(places.trees)}"
        )
    reader = _Reader(archive, places)
    reader.check()
    kinds = tuple(SpaceOf(_recipe(space), space.dimension) for space in manifest.spaces)
    kept = any(name.startswith("originals/") for name in manifest.files)
    at_hand = kept or bool(places.trees) or places.photographs is not None
    return Source(
        manifest.gallery,
        kinds,
        manifest.active_space,
        reader.people,
        manifest.images,
        at_hand,
        manifest.quality,
    )


def _recipe(space: SpaceRecord) -> Recipe:
    return Recipe(space.model, space.detector, space.align, space.normalization, space.version)


class _Reader:
    """Reads the records as often as is wanted; the vectors are mapped."""

    def __init__(self, archive: Archive, places: Places) -> None:
        self._archive = archive
        self._places = places
        spaces = archive.manifest.spaces
        active = archive.manifest.active_space
        if active is not None and active >= len(spaces):
            raise BadSource("the manifest's active space is none of its spaces")
        if len({_recipe(space) for space in spaces}) < len(spaces):
            raise BadSource("the manifest names a space twice")
        self._vectors = [self._mapped(number, space) for number, space in enumerate(spaces)]

    def _mapped(self, number: int, space: SpaceRecord) -> Embeddings:
        if (
            space.vectors != f"vectors/{number}.npy"
            or space.vectors not in self._archive.manifest.files
        ):
            raise BadSource(f"the vectors of space {number} are not in the archive")
        shape = (space.faces, space.dimension)
        return npy.rows(self._archive.folder / space.vectors, shape, space.vectors)

    def check(self) -> None:
        """Read everything once. Raises BadSource."""
        manifest, rows = self._archive.manifest, [0] * len(self._vectors)
        names: set[str] = set()
        photos = 0
        for identity, images in self._grouped():
            if identity.name in names:
                raise BadSource(f"{records.IDENTITIES} names an identity twice")
            names.add(identity.name)
            if len(images) > MOST_OF_A_PERSON:
                raise BadSource(f"an identity has more than {MOST_OF_A_PERSON} images")
            photos += len(images)
            for image in images:
                self._check_image(image, rows)
        if (len(names), photos) != (manifest.identities, manifest.images):
            raise BadSource(
                "the archive has not as many identities and images as its manifest says"
            )
        if rows != [len(vectors) for vectors in self._vectors]:
            raise BadSource("the archive has vectors that belong to no image")

    def _check_image(self, image: ImageRecord, rows: list[int]) -> None:
        if image.root is not None and (
            image.root >= len(self._archive.manifest.roots) or image.locator is None
        ):
            raise BadSource("an image lies in a folder that the manifest does not name")
        if image.original and f"originals/{image.sha256}" not in self._archive.manifest.files:
            raise BadSource("the original of an image is not in the archive")
        spaces = [outcome.space for outcome in image.outcomes]
        if len(set(spaces)) < len(spaces) or any(space >= len(rows) for space in spaces):
            raise BadSource("an image has an outcome in a space twice, or in an unknown one")
        for face in image.faces:
            if face.space not in spaces:
                raise BadSource("a face is in a space in which its image was not looked at")
            if face.row != rows[face.space]:
                raise BadSource("the faces' rows of vectors are not in the order of the images")
            rows[face.space] += 1

    def _grouped(self) -> Iterator[tuple[IdentityRecord, list[ImageRecord]]]:
        """Every identity with its images, which stand in the order of the identities."""
        folder = self._archive.folder
        every = records.lines(folder / records.IMAGES, ImageRecord)
        groups = groupby(every, key=lambda image: image.identity)
        group = next(groups, None)
        for identity in records.lines(folder / records.IDENTITIES, IdentityRecord):
            images: list[ImageRecord] = []
            if group is not None and group[0] == identity.name:
                images = list(group[1])
                group = next(groups, None)
            yield identity, images
        if group is not None:
            raise BadSource(f"{records.IMAGES} is not in the order of {records.IDENTITIES}")

    def people(self) -> Iterator[Person]:
        for identity, images in self._grouped():
            photos = tuple(self._photo(image) for image in images)
            yield Person(identity.name, photos, identity.metadata, identity.created_at)

    def _photo(self, image: ImageRecord) -> Photo:
        tree = None
        if self._places.trees and image.root is not None:
            tree = str(self._places.trees[image.root].resolve())
        row = ImageRow(
            gallery_id=0, identity_id=0, sha256=bytes.fromhex(image.sha256), size=image.size,
            state=image.state, reason=image.reason, root=tree, locator=image.locator,
            mtime_ns=None if tree is None else image.mtime_ns, width=image.width,
            height=image.height, uploaded=image.uploaded, flags=tuple(image.flags),
        )  # fmt: skip
        return Photo(
            row,
            image.locator or f"image {image.sha256[:12]}",
            self._faces(image.faces),
            {outcome.space: (outcome.state, outcome.reason) for outcome in image.outcomes},
            self._content(image, tree),
            image.original,
            created_at=image.created_at,
        )

    def _faces(self, found: Sequence[FaceRecord]) -> Mapping[int, tuple[Face, ...]]:
        faces: dict[int, list[Face]] = {}
        for face in found:
            vector = np.array(self._vectors[face.space][face.row], np.float32)
            detection = Detection(Box(*face.box), face.confidence, _points(face.landmarks))
            faces.setdefault(face.space, []).append(Face(detection, face.quality, vector))
        return {space: tuple(every) for space, every in faces.items()}

    def _content(self, image: ImageRecord, tree: str | None) -> Content | None:
        if image.original:
            return self._archive.original(image.sha256).read_bytes
        folder = tree or self._places.photographs
        if folder is None or image.locator is None:
            return None
        return partial(read_below, Path(folder), image.locator)


def read_below(folder: Path, locator: str) -> bytes | None:
    """The file of that path below the folder; None if it is not there, or elsewhere."""
    try:
        path = (folder / locator).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        return None


def _points(values: Sequence[float | None] | None) -> Points | None:
    if values is None:
        return None
    known = [float("nan") if value is None else value for value in values]
    return np.asarray(known, np.float32).reshape(5, 2)
