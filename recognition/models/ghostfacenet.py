"""GhostFaceNet: 512 values by a light network of cheap features.

M. Alansari et al., GhostFaceNets: Lightweight Face Recognition Model From Cheap Operations (2023), version W1.3 S1
trained with ArcFace's loss (GhostFaceNets by H. Yasser, MIT).
"""

from __future__ import annotations

from dataclasses import dataclass
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
EPSILON = 1e-3
"""Of batch normalisation: Keras' default."""
INPUT = Input(
    size=(SIDE, SIDE),
    layout="nhwc",
    mean=(127.5,),
    std=(128.0,),
    template=alignment.ARCFACE,
    deepface="tensor",
)
"""As in the authors' training."""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    size: int
    """Of the kernels that see one channel each."""
    wide: int
    out: int
    stride: int = 1
    squeeze: int = 0


BOTTLENECKS = (
    Bottleneck(3, 20, 20),
    Bottleneck(3, 64, 32, stride=2),
    Bottleneck(3, 92, 32),
    Bottleneck(5, 92, 52, stride=2, squeeze=24),
    Bottleneck(5, 156, 52, squeeze=40),
    Bottleneck(3, 312, 104, stride=2),
    Bottleneck(3, 260, 104),
    Bottleneck(3, 240, 104),
    Bottleneck(3, 240, 104),
    Bottleneck(3, 624, 144, squeeze=156),
    Bottleneck(3, 872, 144, squeeze=220),
    Bottleneck(5, 872, 208, stride=2, squeeze=220),
    Bottleneck(5, 1248, 208),
    Bottleneck(5, 1248, 208, squeeze=312),
    Bottleneck(5, 1248, 208),
    Bottleneck(5, 664, 208, squeeze=168),
)


def network() -> Tensor:
    from recognition.keras import layers as k

    inputs = k.Input((SIDE, SIDE, 3))
    x = _active(_normalised(k.Conv2D(20, 3, padding="same", use_bias=False)(inputs)))
    for bottleneck in BOTTLENECKS:
        x = _bottleneck(x, bottleneck)
    x = _active(_normalised(k.Conv2D(664, 1, use_bias=False)(x)))
    x = _normalised(k.DepthwiseConv2D(x.shape[1], use_bias=False)(x))
    x = k.Flatten()(k.Conv2D(DIMENSION, 1)(x))
    return k.Model(inputs, _normalised(x))


def _bottleneck(x: Tensor, b: Bottleneck) -> Tensor:
    from recognition.keras import layers as k

    y = _ghost(x, b.wide, active=True)
    if b.stride > 1:
        y = _depthwise(y, b.size, b.stride)
    if b.squeeze:
        y = _squeezed(y, b.squeeze)
    y = _ghost(y, b.out, active=False)
    if b.stride > 1 or b.out != x.shape[-1]:
        x = k.Conv2D(b.out, 1, use_bias=False)(_depthwise(x, b.size, b.stride))
        x = _normalised(x)
    return k.Add()([x, y])


def _ghost(x: Tensor, out: int, active: bool) -> Tensor:
    """Half of the channels by a full convolution; the others from these, each from one."""
    from recognition.keras import layers as k

    x = _normalised(k.Conv2D(out // 2, 1, use_bias=False)(x))
    x = _active(x) if active else x
    cheap = _depthwise(x, 3)
    return k.Concatenate()([x, _active(cheap) if active else cheap])


def _squeezed(x: Tensor, width: int) -> Tensor:
    """Each channel times a factor of 0..1 that all channels' means decide on."""
    from recognition.keras import layers as k

    channels = x.shape[-1]
    factors = k.Reshape((1, 1, channels))(k.GlobalAveragePooling2D()(x))
    factors = k.Conv2D(channels, 1)(_active(k.Conv2D(width, 1)(factors)))
    return k.Multiply()([x, k.HardSigmoid()(factors)])


def _depthwise(x: Tensor, size: int, stride: int = 1) -> Tensor:
    from recognition.keras import layers as k

    return _normalised(k.DepthwiseConv2D(size, strides=stride, padding="same", use_bias=False)(x))


def _active(x: Tensor) -> Tensor:
    from recognition.keras import layers as k

    return k.PReLU(shared_axes=[1, 2])(x)


def _normalised(x: Tensor) -> Tensor:
    from recognition.keras import layers as k

    return k.BatchNormalization(epsilon=EPSILON)(x)


ONNX = Weights(
    name="ghostfacenet_v1.onnx",
    sha256=None,
    licence="MIT",
    origin="GhostFaceNets by Hamad Yasser, as published by DeepFace",
    urls=released("ghostfacenet_v1.onnx"),
)
KERAS = Weights(
    name="ghostfacenet_v1.h5",
    sha256=None,
    licence=ONNX.licence,
    origin=ONNX.origin,
    urls=(
        "https://github.com/HamadYA/GhostFaceNets/releases/download/v1.2/"
        "GhostFaceNet_W1.3_S1_ArcFace.h5",
    ),
)
PUBLISHED = Published(
    onnx=ONNX,
    keras=KERAS,
    network="recognition.models.ghostfacenet:network",
    shape=(*INPUT.size, 3),
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="GhostFaceNet",
        summary="GhostFaceNetV1-1.3-1, 512 values; 99.77 % on LFW as its authors state",
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
        thresholds=deepface.everywhere(0.65, 35.71, 1.10, 0.38),
    ),
)
