"""Buffalo_L: 512 values by the ResNet-50 of InsightFace's model pack of that name, trained on WebFace600K.

J. Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (2019). InsightFace's code is MIT, its
weights are for non-commercial research only. Input and alignment are those of InsightFace 0.7's ArcFaceONNX.
"""

from __future__ import annotations

from recognition import alignment, deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.spec import ModelSpec, Resources
from recognition.weights import Weights

DIMENSION = 512
INPUT = Input(size=(112, 112), mean=(127.5,), std=(127.5,), template=alignment.ARCFACE)

WEIGHTS = Weights(
    name="w600k_r50.onnx",
    sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    licence="InsightFace: non-commercial research purposes only",
    origin="InsightFace, model pack buffalo_l of release 0.7",
    urls=("https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",),
    non_commercial=True,
    size=174_383_860,
    archive="zip",
    archive_sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
)


def _build(resources: Resources) -> NetworkEmbedder:
    paths = resources.weights.ensure([WEIGHTS, LANDMARK_WEIGHTS])
    predictor = LandmarkPredictor.build(resources)
    network = resources.runtime.session(paths[0])
    return NetworkEmbedder(network, INPUT, DIMENSION, predictor=predictor)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="Buffalo_L",
        summary="ResNet-50 of InsightFace, 512 values; not for commercial use",
        licence=WEIGHTS.licence,
        origin=WEIGHTS.origin,
        dimension=DIMENSION,
        input_size=INPUT.size,
        version=1,
        weights=(WEIGHTS, LANDMARK_WEIGHTS),
        build=_build,
        default_align="deepface",
        thresholds=deepface.everywhere(0.55, 0.6, 1.1, 0.45),
    ),
)
