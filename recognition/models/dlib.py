"""Dlib: a ResNet with 29 convolutions by Davis King, 128 values per face, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from recognition import alignment, geometry
from recognition.formats import dlib_dat
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.runtime import Session
from recognition.spec import ModelSpec, Resources, Threshold
from recognition.types import METRICS, Align, Detection, Embeddings, Metric, Rgb
from recognition.weights import Weights

SIDE = dlib_dat.SIDE
PADDING = 0.25
"""Shares of the face around it on its chip, as in training."""
BATCH = 32
"""Faces per run of the network: more of them take memory and save no time."""

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
        """(150, 150, 3) uint8 RGB: dlib's aligned chip, or the box's content in a black square."""
        if align == "none":
            return _plain(image, face)
        points = self._predictor.points(image, face.box)
        target = alignment.dlib_chip(SIDE, PADDING)
        return alignment.warp(image, alignment.similarity(points, target), SIDE)

    def embed(self, crops: Sequence[Rgb]) -> Embeddings:
        """(n, 128) float32, not normalised."""
        rows = [np.zeros((0, dlib_dat.DIMENSION), np.float32)]
        for start in range(0, len(crops), BATCH):
            rows += self._network(np.stack(crops[start : start + BATCH]))
        return np.concatenate(rows)


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


def _thresholds(*values: float) -> Mapping[Metric, Threshold]:
    return MappingProxyType(
        {
            metric: Threshold(metric=metric, value=value, data="provisional", accuracy=0.0)
            for metric, value in zip(METRICS, values, strict=True)
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
        thresholds=MappingProxyType({"": _thresholds(0.07, 0.6, 0.4, 0.12)}),
    ),
)
