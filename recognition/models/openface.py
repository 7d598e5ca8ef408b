"""OpenFace: 128 values of unit length, by a small Inception network.

B. Amos et al., OpenFace (2016), network nn4.small2 after F. Schroff et al., FaceNet (2015); as ported to Keras by V.
Wang, weights as DeepFace publishes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recognition import deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

SIDE, DIMENSION = 96, 128
EPSILON = 1e-5
"""Of batch normalisation."""
EYES_NOSE_MOUTH = np.array(
    [(26.63, 16.06), (67.79, 15.26), (47.24, 40.52), (29.48, 61.62), (66.76, 60.88)]
)
"""On the chip of 96 pixels, whose edges are those of all landmarks (brows, chin, cheeks), after its `align_dlib`:
the middles of its landmarks 36-41 and 42-47, then 30, 48, 54."""
INPUT = Input(
    size=(SIDE, SIDE),
    layout="nhwc",
    std=(255.0,),
    template=EYES_NOSE_MOUTH,
    deepface="tensor",
)
"""As OpenFace's own `forward`: red, green, blue of 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inception:
    """Filters of each branch, (narrow, wide) where two convolutions follow each other; None: no such branch."""

    three: tuple[int, int]
    five: tuple[int, int] | None = None
    pool: int | None = None
    """None: the pooled values themselves."""
    squares: bool = False
    """Whether the pool is the root of nine mean squares, or the maximum."""
    pad: tuple[int, int]
    """Zeros before and after the pooled map, which is smaller."""
    one: int | None = None
    stride: int = 1


MODULES = (
    Inception(three=(96, 128), five=(16, 32), pool=32, pad=(3, 4), one=64),
    Inception(three=(96, 128), five=(32, 64), pool=64, squares=True, pad=(4, 4), one=64),
    Inception(three=(128, 256), five=(32, 64), pad=(0, 1), stride=2),
    Inception(three=(96, 192), five=(32, 64), pool=128, squares=True, pad=(2, 2), one=256),
    Inception(three=(160, 256), five=(64, 128), pad=(0, 1), stride=2),
    Inception(three=(96, 384), pool=96, squares=True, pad=(1, 1), one=256),
    Inception(three=(96, 384), pool=96, pad=(1, 1), one=256),
)
"""3a, 3b, 3c, 4a, 4e, 5a, 5b."""


def network() -> Tensor:
    from recognition.keras import layers as k

    inputs = k.Input((SIDE, SIDE, 3))
    x = _conv(k.ZeroPadding2D(3)(inputs), 64, 7, stride=2)
    x = k.MaxPooling2D(3, strides=2)(k.ZeroPadding2D(1)(x))
    x = _conv(k.LocalResponse()(x), 64, 1)
    x = k.LocalResponse()(_conv(k.ZeroPadding2D(1)(x), 192, 3))
    x = k.MaxPooling2D(3, strides=2)(k.ZeroPadding2D(1)(x))
    for module in MODULES:
        x = _inception(x, module)
    x = k.Flatten()(k.AveragePooling2D(3, strides=1)(x))
    return k.Model(inputs, k.UnitLength()(k.Dense(DIMENSION)(x)))


def _inception(x: Tensor, module: Inception) -> Tensor:
    from recognition.keras import layers as k

    parts = []
    for size, filters in ((3, module.three), (5, module.five)):
        if filters is not None:
            narrow = k.ZeroPadding2D(size // 2)(_conv(x, filters[0], 1))
            parts.append(_conv(narrow, filters[1], size, module.stride))
    parts.append(_pool(x, module))
    if module.one is not None:
        parts.append(_conv(x, module.one, 1))
    return k.Concatenate()(parts)


def _pool(x: Tensor, module: Inception) -> Tensor:
    from recognition.keras import layers as k

    if module.squares:
        x = k.AveragePooling2D(3, strides=3)(k.Square()(x))
        x = k.SquareRoot()(k.Scale(9.0)(x))
    else:
        x = k.MaxPooling2D(3, strides=2)(x)
    if module.pool is not None:
        x = _conv(x, module.pool, 1)
    return k.ZeroPadding2D((module.pad, module.pad))(x)


def _conv(x: Tensor, filters: int, size: int, stride: int = 1) -> Tensor:
    from recognition.keras import layers as k

    x = k.Conv2D(filters, size, strides=stride)(x)
    return k.Activation("relu")(k.BatchNormalization(epsilon=EPSILON)(x))


ONNX = Weights(
    name="openface_weights.onnx",
    sha256=None,
    licence="Apache-2.0",
    origin="OpenFace of Carnegie Mellon University, as published by DeepFace",
    urls=released("openface_weights.onnx"),
)
KERAS = replace(ONNX, name="openface_weights.h5", urls=released("openface_weights.h5"))
PUBLISHED = Published(
    onnx=ONNX, keras=KERAS, network="recognition.models.openface:network", shape=(*INPUT.size, 3)
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="OpenFace",
        summary="Inception network nn4.small2, 128 values of unit length",
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
        thresholds=deepface.everywhere(0.10, 0.55, 0.55, 0.11),
    ),
)
