"""Facenet and Facenet512: 128 or 512 values by Inception-ResNet v1.

F. Schroff et al., FaceNet (2015), C. Szegedy et al., Inception-v4 (2016), as trained by D. Sandberg (facenet, MIT);
weights as DeepFace publishes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from recognition import deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

SIDE = 160
EPSILON = 1e-3
"""Of batch normalisation."""
INPUT = Input(
    size=(SIDE, SIDE),
    layout="nhwc",
    per_image=True,
    margin=0.3,
    deepface="tensor",
)
"""Each image standardised by itself (`prewhiten`); the box with about the margin of his MTCNN crops."""
INPUT_512 = replace(INPUT, per_image=False, mean=(127.5,), std=(128.0,))
"""His models of 2018 take fixed values instead."""

Branch = tuple[tuple[int, int | tuple[int, int]], ...]
"""Filters and size of the convolutions that follow each other."""
BLOCK35: tuple[Branch, ...] = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (32, 3), (32, 3)))
BLOCK17: tuple[Branch, ...] = (((128, 1),), ((128, 1), (128, (1, 7)), (128, (7, 1))))
BLOCK8: tuple[Branch, ...] = (((192, 1),), ((192, 1), (192, (1, 3)), (192, (3, 1))))
MIXED_6A: tuple[Branch, ...] = (((384, 3),), ((192, 1), (192, 3), (256, 3)))
MIXED_7A: tuple[Branch, ...] = (
    ((256, 1), (384, 3)),
    ((256, 1), (256, 3)),
    ((256, 1), (256, 3), (256, 3)),
)


def network() -> Tensor:
    return _network(128)


def network_512() -> Tensor:
    return _network(512)


def _network(dimension: int) -> Tensor:
    from recognition.keras import layers as k

    inputs = k.Input((SIDE, SIDE, 3))
    x = _conv(inputs, 32, 3, 2, "valid")
    x = _conv(_conv(x, 32, 3, 1, "valid"), 64, 3)
    x = _conv(k.MaxPooling2D(3, strides=2)(x), 80, 1)
    x = _conv(_conv(x, 192, 3, 1, "valid"), 256, 3, 2, "valid")
    for _ in range(5):
        x = _residual(x, BLOCK35, 0.17)
    x = _smaller(x, MIXED_6A)
    for _ in range(10):
        x = _residual(x, BLOCK17, 0.1)
    x = _smaller(x, MIXED_7A)
    for _ in range(5):
        x = _residual(x, BLOCK8, 0.2)
    x = _residual(x, BLOCK8, 1.0, last=True)
    x = k.Dropout(0.2)(k.GlobalAveragePooling2D()(x))
    return k.Model(inputs, _normalised(k.Dense(dimension, use_bias=False)(x)))


def _residual(x: Tensor, branches: tuple[Branch, ...], scale: float, last: bool = False) -> Tensor:
    from recognition.keras import layers as k

    mixed = k.Concatenate()([_branch(x, branch) for branch in branches])
    change = k.Scale(scale)(k.Conv2D(x.shape[-1], 1)(mixed))
    x = k.Add()([x, change])
    return x if last else k.Activation("relu")(x)


def _smaller(x: Tensor, branches: tuple[Branch, ...]) -> Tensor:
    """Half the size: the last convolution of each branch has a stride."""
    from recognition.keras import layers as k

    parts = [_conv(_branch(x, branch[:-1]), *branch[-1], 2, "valid") for branch in branches]
    return k.Concatenate()([*parts, k.MaxPooling2D(3, strides=2)(x)])


def _branch(x: Tensor, branch: Branch) -> Tensor:
    for filters, size in branch:
        x = _conv(x, filters, size)
    return x


def _conv(
    x: Tensor,
    filters: int,
    size: int | tuple[int, int],
    stride: int = 1,
    padding: Literal["same", "valid"] = "same",
) -> Tensor:
    from recognition.keras import layers as k

    x = k.Conv2D(filters, size, strides=stride, padding=padding, use_bias=False)(x)
    return k.Activation("relu")(_normalised(x))


def _normalised(x: Tensor) -> Tensor:
    from recognition.keras import layers as k

    return k.BatchNormalization(epsilon=EPSILON, scale=False)(x)


def _published(name: str, network: str) -> Published:
    onnx = Weights(
        name=f"{name}.onnx",
        sha256=None,
        licence="MIT",
        origin="facenet by David Sandberg, as published by DeepFace",
        urls=released(f"{name}.onnx"),
    )
    return Published(
        onnx=onnx,
        keras=replace(onnx, name=f"{name}.h5", urls=released(f"{name}.h5")),
        network=f"recognition.models.facenet:{network}",
        shape=(SIDE, SIDE, 3),
    )


PUBLISHED = _published("facenet_weights", "network")
PUBLISHED_512 = _published("facenet512_weights", "network_512")


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, 128)


def _build_512(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED_512.session(resources), INPUT_512, 512)


FACENET = ModelSpec(
    name="Facenet",
    summary="Inception-ResNet v1, 128 values",
    licence=PUBLISHED.onnx.licence,
    origin=PUBLISHED.onnx.origin,
    dimension=128,
    input_size=INPUT.size,
    version=1,
    weights=(PUBLISHED.onnx,),
    alternatives=((PUBLISHED.keras,),),
    build=_build,
    default_align="deepface",
    normalizations=NORMALIZATIONS,
    thresholds=deepface.everywhere(0.40, 10, 0.80, 0.33),
)
SPECS: tuple[ModelSpec, ...] = (
    FACENET,
    replace(
        FACENET,
        name="Facenet512",
        summary="Inception-ResNet v1, 512 values",
        dimension=512,
        weights=(PUBLISHED_512.onnx,),
        alternatives=((PUBLISHED_512.keras,),),
        build=_build_512,
        thresholds=deepface.everywhere(0.30, 23.56, 1.04, 0.35),
    ),
)
