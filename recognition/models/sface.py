"""SFace: 128 values by a MobileFaceNet trained with a loss that bounds how far a class is pulled and pushed.

Y. Zhong et al., SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition (2021); weights as OpenCV's
model zoo publishes them (Apache-2.0). Input and alignment are those of OpenCV's FaceRecognizerSF.
"""

from __future__ import annotations

from types import MappingProxyType

from recognition import alignment, deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.spec import ModelSpec, Resources, Threshold, completed
from recognition.weights import Weights

DIMENSION = 128
INPUT = Input(size=(112, 112), template=alignment.ARCFACE)
"""RGB 0..255: the graph scales by itself. Its batch is 1."""

WEIGHTS = Weights(
    name="face_recognition_sface_2021dec.onnx",
    sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    licence="Apache-2.0",
    origin="OpenCV model zoo, contributed by Yaoyao Zhong",
    urls=(
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_recognition_sface/face_recognition_sface_2021dec.onnx",
        "https://huggingface.co/opencv/face_recognition_sface/resolve/main/face_recognition_sface_2021dec.onnx",
    ),
    size=38_696_353,
)

OPENCV = "published by OpenCV for FaceRecognizerSF"
COSINE, L2 = 1 - 0.363, 1.128
"""OpenCV's least cosine similarity, and its largest distance of features of length 1."""


def _build(resources: Resources) -> NetworkEmbedder:
    paths = resources.weights.ensure([WEIGHTS, LANDMARK_WEIGHTS])
    predictor = LandmarkPredictor.build(resources)
    network = resources.runtime.session(paths[0])
    return NetworkEmbedder(network, INPUT, DIMENSION, single=True, predictor=predictor)


_DEEPFACE = deepface.thresholds(0.593, 10.734, 1.055, 0.36)

SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="SFace",
        summary="MobileFaceNet, 128 values, small and fast",
        licence=WEIGHTS.licence,
        origin=WEIGHTS.origin,
        dimension=DIMENSION,
        input_size=INPUT.size,
        version=1,
        weights=(WEIGHTS, LANDMARK_WEIGHTS),
        build=_build,
        thresholds=MappingProxyType(
            {
                "": completed(
                    {
                        "cosine": Threshold(metric="cosine", value=COSINE, data=OPENCV),
                        "euclidean_l2": Threshold(metric="euclidean_l2", value=L2, data=OPENCV),
                    }
                ),
                "/none": _DEEPFACE,
                "/deepface": _DEEPFACE,
            }
        ),
    ),
)
