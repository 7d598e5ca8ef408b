"""What is doubtful about a photograph of a person who is enrolled: the face itself, and what it is like.

Each check has one limit. What they were measured to do on LFW (models of others were not measured) stands beside them,
and in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from indexer.health.findings import ALIKE, UNLIKE
from indexer.store import images, search
from indexer.store import tables as t
from indexer.store.engine import ReadConnection, WriteConnection
from indexer.store.health import people
from indexer.store.search import Scope
from recognition.errors import ModelUnavailable, NoThreshold
from recognition.pipeline import Face, Recipe
from recognition.quality import Measures
from recognition.registry import Models

Check = Literal[
    "size", "sharpness", "brightness", "pose", "score", "another_person", "unlike", "near_duplicate"
]
CHECKS: tuple[Check, ...] = get_args(Check)

SIDE_PX = 24.0
"""Of 160 pairs of LFW, one photograph made smaller, `verify` gets 97 % at 24 px and 69 % at 16 px; all at 48 px."""
SHARPNESS = 7.0
"""At full contrast (divided by the square of the brightness). Blurred by a Gaussian of 3 px: 87 %; of 4 px: 64 %."""
DARK, LIGHT = 10.0, 230.0
"""Of what is beyond, made darker or lighter: 52 % and 56 %."""
YAW = 0.8
"""LFW's own photographs: 75 % of the 80 pairs beyond, 98 % of the others."""
SCORES: Mapping[str, float] = MappingProxyType({"mediapipe": 0.65})
"""By detector, where it was measured: 29 % of what is below, of all the photographs above that were made worse."""
MIDDLE = 127.5
ANOTHER = 0.45
"""Of the threshold: largest distance to somebody else, who must be nearer than the person's own photographs.

LFW, 1,699 people: 0.4 % of photographs as labelled; 61 % of those that would be enrolled under another name."""
LOOKED_AT = 32
"""Nearest faces that are looked at."""
COMPARED = 100
"""Photographs of the person that are compared, the latest."""
LEAST_OTHERS = 2
"""Of the person's photographs, to say that another one is unlike them."""


@dataclass(frozen=True, slots=True)
class Concern:
    """`told` is a clause for people. The `value` is beyond the `limit`."""

    check: Check
    value: float
    limit: float
    told: str


def of_face(found: Measures, detector: str) -> list[Concern]:
    """By its pixels and its detection."""
    concerns: list[Concern] = []

    def note(check: Check, value: float, limit: float, told: str) -> None:
        concerns.append(Concern(check, round(value, 4), limit, told))

    if found.side < SIDE_PX:
        note("size", found.side, SIDE_PX, f"the face is small: {found.side:.0f} px")
    sharpness = found.sharpness * (MIDDLE / max(found.brightness, 1.0)) ** 2
    if sharpness < SHARPNESS:
        note("sharpness", sharpness, SHARPNESS, "the face is blurred")
    if found.brightness < DARK:
        note("brightness", found.brightness, DARK, "the face is dark")
    if found.brightness > LIGHT:
        note("brightness", found.brightness, LIGHT, "the face is overexposed")
    if found.yaw is not None and found.yaw > YAW:
        note("pose", found.yaw, YAW, "the face is turned away")
    least = SCORES.get(detector, 0.0)
    if found.score < least:
        note("score", found.score, least, "the detector is not sure that it is a face")
    return concerns


def threshold(models: Models, recipe: Recipe) -> float | None:
    """Of the space, for cosine distances; None if nobody knows one."""
    try:
        spec = models.installed(recipe.model)
        return spec.threshold(recipe.detector, "cosine", recipe.align).value
    except (NoThreshold, ModelUnavailable):
        return None


@dataclass(frozen=True, slots=True)
class Gate:
    """Compares with what the gallery holds, within a transaction; `within` is the space's threshold."""

    connection: WriteConnection
    scope: Scope
    within: float | None

    def concerns(
        self, owner: int, faces: Sequence[Face], besides: int | None = None
    ) -> tuple[Concern, ...]:
        """Each check once, of whichever face. `besides`: an image that these faces take the place of."""
        found: dict[Check, Concern] = {}
        for face in faces:
            detector = self.scope.space.recipe.detector
            each = of_face(face.measures, detector) if face.measures is not None else []
            for concern in [*each, *self._compared(owner, face, besides)]:
                found.setdefault(concern.check, concern)
        return tuple(found.values())

    def _compared(self, owner: int, face: Face, besides: int | None) -> list[Concern]:
        if self.within is None:
            return []
        reading = ReadConnection(self.connection)
        gone: set[int] = set()
        if besides is not None:
            old = images.faces_of(self.connection, t.image.c.id == besides)
            gone = set(old.get(self.scope.space.id, ()))
        ranked = search.nearest(reading, self.scope, face.embedding, "cosine", LOOKED_AT)
        near = [c for c in ranked.candidates if c.face_id not in gone]
        concerns = self._double(near) + self._another(owner, near)
        return concerns or self._unlike(owner, face)

    def _double(self, near: Sequence[search.Candidate]) -> list[Concern]:
        limit = ALIKE * (self.within or 0)
        if not near or near[0].distance > limit:
            return []
        told = f"it is nearly the same photograph as one of {self._name(near[0].identity_id)}"
        return [Concern("near_duplicate", round(near[0].distance, 6), limit, told)]

    def _another(self, owner: int, near: Sequence[search.Candidate]) -> list[Concern]:
        limit = ANOTHER * (self.within or 0)
        if not near or near[0].identity_id == owner or near[0].distance > limit:
            return []
        told = f"it looks like {self._name(near[0].identity_id)}, who is in the gallery"
        return [Concern("another_person", round(near[0].distance, 6), limit, told)]

    def _unlike(self, owner: int, face: Face) -> list[Concern]:
        own = images.some_of_identity(self.connection, self.scope.space.id, owner, COMPARED)
        if len(own) < LEAST_OTHERS:
            return []
        mean = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
        cosine = np.dot(mean, face.embedding)
        distance = 1 - float(cosine / (np.linalg.norm(mean) * np.linalg.norm(face.embedding)))
        limit = UNLIKE * (self.within or 0)
        if distance <= limit:
            return []
        told = "it is unlike the person's other photographs"
        return [Concern("unlike", round(distance, 6), limit, told)]

    def _name(self, identity_id: int) -> str:
        found = people(ReadConnection(self.connection), [identity_id]).get(identity_id)
        return repr(found.name) if found is not None else "somebody"


def reason(concerns: Sequence[Concern]) -> str:
    """Why it was rejected."""
    return "; ".join(concern.told for concern in concerns)
