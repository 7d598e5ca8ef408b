"""Whether two sets of faces hold one person, by the closest pair of them; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recognition import registry
from recognition.errors import NoFace
from recognition.metrics import confidence, distances
from recognition.pipeline import Recipe
from recognition.types import Embeddings, Metric


@dataclass(frozen=True, slots=True)
class Verdict:
    """`first` and `second` say which faces are the closest pair.

    `confidence` is in per cent, None where the threshold has no measured slope.
    """

    verified: bool
    distance: float
    threshold: float
    confidence: float | None
    first: int
    second: int


def compare(
    a: Embeddings, b: Embeddings, recipe: Recipe, metric: Metric, threshold: float | None
) -> Verdict:
    """Raises NoFace when one of the sets is empty. `threshold` None takes the model's own."""
    if len(a) == 0 or len(b) == 0:
        raise NoFace("there is no face to compare")
    between = distances(a, b, metric)
    first, second = np.unravel_index(int(between.argmin()), between.shape)
    distance = round(float(between[first, second]), 6)
    own = registry.model(recipe.model).threshold(recipe.detector, metric, recipe.align)
    limit = own.value if threshold is None else threshold
    return Verdict(
        verified=distance <= limit,
        distance=distance,
        threshold=limit,
        confidence=confidence(distance, own.value, own.slope),
        first=int(first),
        second=int(second),
    )
