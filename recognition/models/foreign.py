"""Embeddings of another program: they can be compared with one another, but not be made here.

Such a space's model has a name of the form `program:what made them/dimension`. Nothing is built in and nothing is
known of its distances, so a search brings an embedding and a threshold.
"""

from __future__ import annotations

import re

from recognition.errors import ModelUnavailable
from recognition.spec import ModelSpec, Resources
from recognition.types import Embedder

PROGRAMS = ("deepface", "compreface", "npz")
DIMENSIONS = 16_000
"""As many as the database takes."""
_NAME = re.compile(rf"({'|'.join(PROGRAMS)}):(\S(?:.{{0,98}}\S)?)/([1-9][0-9]{{0,4}})")


def name(program: str, maker: str, dimension: int) -> str:
    """Of the model of a space; `maker` tells apart what must not be compared. Raises ValueError."""
    made = f"{program}:{maker}/{dimension}"
    if spec(made) is None:
        raise ValueError(
            f"{maker!r} cannot be the name of what made embeddings: it has 1 to 100 characters of one line"
        )
    return made


def spec(model: str) -> ModelSpec | None:
    """None if it is not the name of another program's model."""
    found = _NAME.fullmatch(model)
    if found is None or int(found[3]) > DIMENSIONS or not model.isprintable():
        return None

    def build(_: Resources) -> Embedder:
        raise ModelUnavailable(
            f"these embeddings were made by another program ({found[1]}: {found[2]}), which cannot be repeated "
            "here: search them with embeddings of the same make and a threshold, or import them again with "
            "their photographs into another gallery"
        )

    return ModelSpec(
        name=model,
        summary=f"Embeddings made by {found[1]}",
        licence="that of the program that made them",
        origin=found[1],
        dimension=int(found[3]),
        input_size=(1, 1),
        version=1,
        weights=(),
        build=build,
    )
