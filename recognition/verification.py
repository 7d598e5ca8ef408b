"""Whether two sets of faces hold one person, by the closest pair of them; pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recognition.errors import NoFace
from recognition.metrics import confidence, distances
from recognition.spec import Threshold
from recognition.types import Embeddings


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
    a: Embeddings, b: Embeddings, own: Threshold, threshold: float | None = None
) -> Verdict:
    """By the metric of the model's `own` threshold, which decides unless another is given. Raises NoFace when one of
    the sets is empty."""
    if len(a) == 0 or len(b) == 0:
        raise NoFace("there is no face to compare")
    between = distances(a, b, own.metric)
    first, second = np.unravel_index(int(between.argmin()), between.shape)
    distance = round(float(between[first, second]), 6)
    limit = own.value if threshold is None else threshold
    return Verdict(
        verified=distance <= limit,
        distance=distance,
        threshold=limit,
        confidence=confidence(distance, own.value, own.slope),
        first=int(first),
        second=int(second),
    )
