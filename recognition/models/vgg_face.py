"""VGG-Face: 4096 values of a VGG-16 trained to tell 2,622 people apart, divided by their length.

O. Parkhi, A. Vedaldi, A. Zisserman, Deep Face Recognition (2015); weights as DeepFace publishes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recognition import deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras import vgg
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

DIMENSION = vgg.FEATURES
PEOPLE = 2622
INPUT = Input(
    size=(vgg.SIDE, vgg.SIDE),
    colour="bgr",
    layout="nhwc",
    mean=deepface.MEANS["VGGFace"],
    margin=0.3,
    deepface="tensor",
)
"""As the authors' Caffe model takes it: the box with some surroundings, the mean face taken off."""


def network() -> Tensor:
    """With the classifier, which the published file has; the embedding comes first."""
    from recognition.keras import layers as k

    inputs, x = vgg.trunk()
    embedding = k.Flatten()(x)
    classes = k.Flatten()(k.Conv2D(PEOPLE, 1)(k.Dropout(0.5)(x)))
    return k.Model(inputs, [embedding, k.Activation("softmax")(classes)])


ONNX = Weights(
    name="vgg_face_weights.onnx",
    sha256=None,
    licence="for research, not commercial (Visual Geometry Group, Oxford)",
    origin="VGG-Face of the Visual Geometry Group, Oxford, as published by DeepFace",
    urls=released("vgg_face_weights.onnx"),
    non_commercial=True,
)
KERAS = replace(ONNX, name="vgg_face_weights.h5", urls=released("vgg_face_weights.h5"))
PUBLISHED = Published(
    onnx=ONNX, keras=KERAS, network="recognition.models.vgg_face:network", shape=(*INPUT.size, 3)
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION, unit=True)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="VGG-Face",
        summary="VGG-16, 4096 values, trained on 2.6 million images of 2,622 people",
        licence=ONNX.licence,
        origin=ONNX.origin,
        dimension=DIMENSION,
        input_size=INPUT.size,
        version=1,
        weights=(ONNX,),
        alternatives=((KERAS,),),
        build=_build,
        default_align="deepface",
        normalizations=NORMALIZATIONS,
        thresholds=deepface.everywhere(0.68, 1.17, 1.17, 0.39),
    ),
)
