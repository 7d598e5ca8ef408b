"""DeepID: 160 values by a small network.

Y. Sun et al., Deep Learning Face Representation from Predicting 10,000 Classes (2014); as built by Ruoyiran (DeepID,
MIT), weights as DeepFace publishes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recognition import deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

HEIGHT, WIDTH, DIMENSION = 55, 47, 160
INPUT = Input(size=(HEIGHT, WIDTH), colour="bgr", layout="nhwc", std=(255.0,), deepface="tensor")
"""Its training's input is not documented: DeepFace's, with the plain box."""


def network() -> Tensor:
    from recognition.keras import layers as k

    x = inputs = k.Input((HEIGHT, WIDTH, 3))
    for filters, size in ((20, 4), (40, 3), (60, 3)):
        x = k.MaxPooling2D(2)(k.Conv2D(filters, size, activation="relu")(x))
        x = k.Dropout(0.99)(x)
    early = k.Dense(DIMENSION)(k.Flatten()(x))
    late = k.Dense(DIMENSION)(k.Flatten()(k.Conv2D(80, 2, activation="relu")(x)))
    return k.Model(inputs, k.Activation("relu")(k.Add()([early, late])))


ONNX = Weights(
    name="deepid_weights.onnx",
    sha256=None,
    licence="MIT",
    origin="DeepID by Ruoyiran, as published by DeepFace",
    urls=released("deepid_weights.onnx"),
)
KERAS = replace(ONNX, name="deepid_keras_weights.h5", urls=released("deepid_keras_weights.h5"))
PUBLISHED = Published(
    onnx=ONNX, keras=KERAS, network="recognition.models.deepid:network", shape=(*INPUT.size, 3)
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="DeepID",
        summary="Small convolutional network, 160 values",
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
        thresholds=deepface.everywhere(0.015, 45, 0.17, 0.04),
    ),
)
