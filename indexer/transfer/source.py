"""What is to be imported, wherever it comes from: people with photographs, vectors in spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from indexer.store.galleries import Policy
from indexer.store.images import ImageRow
from recognition.pipeline import Face, Recipe

Content = Callable[[], bytes | None]
"""Reads the file itself; None if it cannot be had any more."""


@dataclass(frozen=True, slots=True)
class SpaceOf:
    """A space of the source: what made its vectors, and how long they are."""

    recipe: Recipe
    dimension: int


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An image of a person; faces and outcomes ((state, reason)) by the place of their space in `Source.spaces`.

    `row` has no ids yet. `named`: what to call it in reports. `hashed`: whether `row.sha256` is that of the file, and
    not a stand-in. `keep`: whether the file is to be stored too.
    """

    row: ImageRow
    named: str
    faces: Mapping[int, tuple[Face, ...]] = field(default_factory=lambda: MappingProxyType({}))
    outcomes: Mapping[int, tuple[str, str | None]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    content: Content | None = None
    keep: bool = False
    hashed: bool = True
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    name: str
    photos: tuple[Photo, ...]
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """`people` gives everybody once, checked already; `active`: the space that the gallery was searched in;
    `at_hand`: whether photographs can be had at all."""

    gallery: str | None
    spaces: tuple[SpaceOf, ...]
    active: int | None
    people: Callable[[], Iterator[Person]]
    photos: int
    at_hand: bool
    quality: Policy = "accept"
    """What the gallery did with doubtful photographs."""

    @property
    def recipe(self) -> Recipe | None:
        """Of the active space."""
        return None if self.active is None else self.spaces[self.active].recipe
