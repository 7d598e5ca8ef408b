"""dlib's five-point predictor: corners of the eyes and base of the nose.

It was trained on the squares that dlib's HOG detector draws, and is misled by the boxes of other detectors. So every
face is first brought upright into such a square, by its landmarks if there are any.
V. Kazemi and J. Sullivan, One millisecond face alignment with an ensemble of regression trees (2014); dlib's own code.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from recognition import alignment
from recognition.alignment import DLIB_CHIP, Floats
from recognition.errors import BadWeights
from recognition.runtime import Session
from recognition.spec import Resources
from recognition.types import Box, Detection, Points, Rgb
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


SQUARE_CENTRE: Floats = np.array([0.447, 0.477])
SQUARE_SIDE = 1.365
"""The square that dlib's HOG detector draws, in the unit square of dlib's mean face: medians over LFW photographs."""

LANDMARKS: Floats = np.array(
    [(0.22, 0.212), (0.767, 0.214), (0.493, 0.53), (0.258, 0.795), (0.724, 0.791)]
)
"""Where the five landmarks of MTCNN and BlazeFace lie in that unit square: medians over the same photographs."""

BOX_SHARES = (1.0, 0.75, 0.55)
"""Sides of the face, as shares of its box's, to start from where there is a box only: that of `skip` may hold more
than a face."""
STABLE = 0.01
"""Points that move by less of the face's side in a further look are right."""

PATCH = 200
"""Side in pixels of the upright picture of the face that the predictor looks at; its square stands in the middle."""
_SCALE = PATCH / (1.6 * SQUARE_SIDE)
_TO_PATCH: Floats = np.column_stack([np.eye(2) * _SCALE, PATCH / 2 - SQUARE_CENTRE * _SCALE])
_FIRST, _LAST = 38, 162
"""Pixels of the square, across and down."""
_GREY: Floats = np.array([[1, 1, 1, -1]]) / 3
"""OpenCV rounds: less a third, what the sum of the colours is divided to has no fraction."""


class DlibPredictor:
    """dlib's own, for squares that its HOG detector draws. From several threads it runs in one after the other."""

    def __init__(self, dlib: ModuleType, path: str) -> None:
        self._dlib = dlib
        try:
            self._predictor = dlib.shape_predictor(path)
        except RuntimeError as error:
            raise BadWeights(f"{path} cannot be loaded by dlib: {error}") from error

    @classmethod
    def build(cls, resources: Resources) -> DlibPredictor:
        """Loads dlib and the weights; raises WeightsMissing or BadWeights."""
        return cls(importlib.import_module("dlib"), str(resources.weights.path(WEIGHTS)))

    def points(self, image: Rgb, box: Box) -> Floats:
        """(5, 2) x, y: outer and inner corner of the left eye, of the right eye, base of the nose.

        `box` is one of dlib's HOG detector, or placed like one.
        """
        sides = (box.x, box.y, box.x + box.w - 1, box.y + box.h - 1)
        rectangle = self._dlib.rectangle(*(round(side) for side in sides))
        shape = self._predictor(image, rectangle)
        return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float64)


class LandmarkPredictor:
    """dlib's predictor for the faces of any detector, without dlib. May be used from several threads at once."""

    def __init__(self, predictor: Session) -> None:
        """`predictor`: the five points in a picture of `PATCH` by `PATCH` pixels."""
        self._predictor = predictor

    @classmethod
    def build(cls, resources: Resources) -> LandmarkPredictor:
        """Raises WeightsMissing or BadWeights."""
        path = resources.weights.derived(
            "shape_predictor_5_face_landmarks_1.onnx", [WEIGHTS], _converted
        )
        return cls(resources.runtime.session(path, ["points"]))

    def find(self, image: Rgb, face: Detection) -> Floats:
        """The same five points for a face of any detector, at most some degrees tilted if it has no landmarks."""
        frame = _frame_of_landmarks(face.landmarks)
        if frame is not None:
            return self._look(image, frame)
        tried = []
        for share in BOX_SHARES:
            points, drift = self._settle(image, _frame_of_box(face.box, share))
            if drift < STABLE:
                return points
            tried.append((drift, points))
        return min(tried, key=lambda found: found[0])[1]

    def eyes_and_nose(self, image: Rgb, face: Detection) -> Points:
        """Centres of the eyes and tip of the nose; the rows of the mouth's corners are NaN.

        The tip is put where it is, on average, on the line from between the eyes to the base.
        """
        left_outer, left_inner, right_outer, right_inner, base = self.find(image, face)
        eyes = (right_outer + right_inner) / 2, (left_outer + left_inner) / 2
        between = (eyes[0] + eyes[1]) / 2
        unknown = (np.nan, np.nan)
        tip = between + _NOSE_TIP * (base - between)
        return np.array([*eyes, tip, unknown, unknown], dtype=np.float32)

    def _settle(self, image: Rgb, frame: Floats) -> tuple[Floats, float]:
        """The points of the third look, and how far they are from the second one's, in sides of the face."""
        points = self._look(image, frame)
        for _ in range(2):
            before, frame = points, alignment.similarity(points, DLIB_CHIP)
            points = self._look(image, frame)
        return points, float(np.abs(points - before).max()) * alignment.scale_of(frame)

    def _look(self, image: Rgb, frame: Floats) -> Floats:
        """The points, if `frame` takes the face about to its place in the unit square."""
        to_patch = alignment.compose(_TO_PATCH, frame)
        patch = alignment.warp(image, to_patch, PATCH)
        (found,) = self._predictor(np.asarray(cv2.transform(patch, _GREY)))
        return alignment.apply(alignment.invert(to_patch), found)


def _converted(paths: Sequence[Path]) -> bytes:
    from recognition.formats import dlib_points

    square = _FIRST, _FIRST, _LAST, _LAST
    return dlib_points.convert(paths[0].read_bytes(), PATCH, square)


_EYES_Y = float(LANDMARKS[:2, 1].mean())
_NOSE_TIP = float((LANDMARKS[2, 1] - _EYES_Y) / (DLIB_CHIP[4, 1] - _EYES_Y))


def _frame_of_landmarks(landmarks: Points | None) -> Floats | None:
    """(2, 3) from the image to the unit square; None without both eyes, or if they are one point."""
    if landmarks is None or not np.isfinite(landmarks[:2]).all():
        return None
    known = np.isfinite(landmarks).all(axis=1)
    points = landmarks[known].astype(np.float64)
    return alignment.similarity(points, LANDMARKS[known]) if np.ptp(points) > 0 else None


def _frame_of_box(box: Box, share: float) -> Floats:
    """(2, 3) from the image to the unit square, for a face of that share of the box, in its middle."""
    scale = SQUARE_SIDE / (share * max(1.0, math.sqrt(box.area)))
    return np.column_stack([np.eye(2) * scale, SQUARE_CENTRE - scale * np.array(box.centre)])
