"""ArcFace: 512 values by a ResNet with 34 layers.

J. Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition (2019); built for Keras after leondgarse
(Keras_insightface, MIT), weights as DeepFace publishes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recognition import alignment, deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

SIDE, DIMENSION = 112, 512
EPSILON = 2e-5
"""Of batch normalisation."""
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Filters, and blocks; the first block of each halves the size."""
INPUT = Input(
    size=(SIDE, SIDE),
    layout="nhwc",
    mean=(127.5,),
    std=(128.0,),
    template=alignment.ARCFACE,
    deepface="tensor",
)
"""As in InsightFace's training."""


def network() -> Tensor:
    from recognition.keras import layers as k

    inputs = k.Input((SIDE, SIDE, 3))
    x = k.Conv2D(64, 3, use_bias=False)(k.ZeroPadding2D(1)(inputs))
    x = k.PReLU(shared_axes=[1, 2])(_normalised(x))
    for filters, blocks in STAGES:
        for block in range(blocks):
            x = _block(x, filters, first=block == 0)
    x = k.Flatten()(k.Dropout(0.4)(_normalised(x)))
    return k.Model(inputs, _normalised(k.Dense(DIMENSION)(x)))


def _block(x: Tensor, filters: int, first: bool) -> Tensor:
    """Nothing after the sum: the next block begins with a normalisation."""
    from recognition.keras import layers as k

    shortcut = x
    if first:
        shortcut = _normalised(k.Conv2D(filters, 1, strides=2, use_bias=False)(x))
    x = k.Conv2D(filters, 3, use_bias=False)(k.ZeroPadding2D(1)(_normalised(x)))
    x = k.ZeroPadding2D(1)(k.PReLU(shared_axes=[1, 2])(_normalised(x)))
    x = k.Conv2D(filters, 3, strides=2 if first else 1, use_bias=False)(x)
    return k.Add()([shortcut, _normalised(x)])


def _normalised(x: Tensor) -> Tensor:
    from recognition.keras import layers as k

    return k.BatchNormalization(epsilon=EPSILON)(x)


ONNX = Weights(
    name="arcface_weights.onnx",
    sha256=None,
    licence="MIT",
    origin="Keras_insightface by leondgarse, as published by DeepFace",
    urls=released("arcface_weights.onnx"),
)
KERAS = replace(ONNX, name="arcface_weights.h5", urls=released("arcface_weights.h5"))
PUBLISHED = Published(
    onnx=ONNX, keras=KERAS, network="recognition.models.arcface:network", shape=(*INPUT.size, 3)
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="ArcFace",
        summary="ResNet-34, 512 values",
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
        thresholds=deepface.everywhere(0.68, 4.15, 1.13, 0.39),
    ),
)
