"""What the stores of other programs have in common: rows of (person, photograph, vector) in one space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from indexer.crawl import folder_of
from indexer.errors import InvalidName
from indexer.store.galleries import clean_name
from indexer.store.images import ImageRow
from indexer.transfer.errors import BadSource
from indexer.transfer.source import Content, Person, Photo, Source, SpaceOf
from recognition.models import foreign
from recognition.pipeline import FOREIGN_VERSION, Face, Recipe
from recognition.types import Box, Detection

UNKNOWN = 0.0
"""Stored as score and quality of a face whose photograph was not seen."""
NOWHERE = Box(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One face of a photograph, or a photograph without one (`vector` None).

    `photo` names the photograph in its store; `sha256` is the file's, None if it is not known.
    """

    person: str
    photo: str
    vector: NDArray[np.float32] | None
    box: Box = NOWHERE
    content: Content | None = None
    sha256: bytes | None = None
    size: int = 0


def unrepeatable(program: str, maker: str, dimension: int) -> Recipe:
    """Of embeddings that can only be compared with others of the same make. Raises BadSource."""
    try:
        name = foreign.name(program, maker, dimension)
    except ValueError as error:
        raise BadSource(str(error)) from error
    return Recipe(name, "skip", "none", "base", FOREIGN_VERSION)


def source(recipe: Recipe, dimension: int, entries: Iterable[Entry]) -> Source:
    """People in the order in which they come first. Raises BadSource."""
    people: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        name = _clean(entry.person)
        people.setdefault(name, {}).setdefault(entry.photo, []).append(entry)
    if not people:
        raise BadSource("there is nobody in it")
    made = [
        Person(name, tuple(_photo(recipe, photo, rows) for photo, rows in photos.items()))
        for name, photos in people.items()
    ]
    every = [photo for person in made for photo in person.photos]
    at_hand = any(photo.content is not None for photo in every)
    space = SpaceOf(recipe, dimension)
    return Source(None, (space,), 0, lambda: iter(made), len(every), at_hand)


def vectors(values: object, what: str) -> NDArray[np.float32]:
    """(n, dimension) float32 of numbers. Raises BadSource for other shapes, and for what is no embedding."""
    try:
        wide = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSource(f"{what} are not vectors of one length") from error
    if wide.ndim != 2 or not 1 <= wide.shape[1] <= foreign.DIMENSIONS:
        raise BadSource(f"{what} have the shape {wide.shape}, not that of vectors")
    with np.errstate(over="ignore", under="ignore"):
        rows = wide.astype(np.float32)
    if not np.isfinite(rows).all() or (len(rows) and not np.abs(rows).max(axis=1).min() > 0):
        raise BadSource(f"{what} hold numbers that are not finite, or vectors of zeros")
    return rows


def below(paths: Sequence[str], folder: str) -> list[str]:
    """The paths of photographs relative to the folder of people that they lie in.

    `folder` is the name of the one that the store lies in, which is that of the people, unless it was moved.
    Otherwise it is the folder that all have in common.
    """
    parts = [PurePosixPath(path.replace("\\", "/")).parts for path in paths]
    if folder and all(folder in each[:-1] for each in parts):
        starts = [len(each) - 1 - each[-2::-1].index(folder) for each in parts]
    else:
        shared = _shared([each[:-1] for each in parts])
        alone = all(len(each) == shared + 1 for each in parts)
        starts = [max(shared - 1, 0) if alone else shared] * len(parts)
    return ["/".join(each[start:]) for each, start in zip(parts, starts, strict=True)]


def person_of(path: str) -> str:
    """By a relative path, as for a folder that is indexed."""
    return folder_of(path)


def _shared(folders: Sequence[tuple[str, ...]]) -> int:
    """How many leading parts all have in common."""
    count = 0
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        count += 1
    return count


def _clean(name: str) -> str:
    try:
        return clean_name(name, "an identity")
    except InvalidName as error:
        raise BadSource(f"{name[:100]!r} cannot be the name of a person here: {error}") from error


def _photo(recipe: Recipe, photo: str, entries: Sequence[Entry]) -> Photo:
    faces = tuple(
        Face(Detection(e.box, UNKNOWN), UNKNOWN, e.vector) for e in entries if e.vector is not None
    )
    first = entries[0]
    standing_in = hashlib.sha256(f"{recipe.model}\0{photo}".encode("utf-8", "replace")).digest()
    state = "ready" if faces else "no_face"
    row = ImageRow(
        gallery_id=0, identity_id=0, sha256=first.sha256 or standing_in, size=first.size,
        state=state, reason=None if faces else "no face found", locator=_text(photo),
        uploaded=True,
    )  # fmt: skip
    return Photo(
        row,
        _text(photo),
        {0: faces},
        {0: (state, None)},
        first.content,
        hashed=first.sha256 is not None,
    )


def _text(value: str) -> str:
    """As the database can hold it."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "")[:4096]
