"""DeepFace (the network, not the library): 4096 values by convolutions whose kernels differ from place to place.

Y. Taigman et al., DeepFace: Closing the Gap to Human-Level Performance in Face Verification (2014); built and trained
on VGGFace2 by S. Ghosh (DeepFace, MIT).
"""

from __future__ import annotations

from typing import Any

from recognition import deepface
from recognition.embedder import Input, NetworkEmbedder
from recognition.keras.published import Published, released
from recognition.spec import ModelSpec, Resources
from recognition.types import NORMALIZATIONS
from recognition.weights import Weights

Tensor = Any
"""(n, height, width, channels) of Keras, which is untyped."""

SIDE, DIMENSION = 152, 4096
PEOPLE = 8631
INPUT = Input(size=(SIDE, SIDE), layout="nhwc", std=(255.0,), deepface="tensor")
"""As in S. Ghosh's training: red, green, blue of 0..1, letterboxed."""


def network() -> Tensor:
    """With the classifier, which the published file has; the embedding comes first."""
    from recognition.keras import layers as k

    inputs = k.Input((SIDE, SIDE, 3))
    x = k.Conv2D(32, 11, activation="relu", name="C1")(inputs)
    x = k.MaxPooling2D(3, strides=2, padding="same", name="M2")(x)
    x = k.Conv2D(16, 9, activation="relu", name="C3")(x)
    x = k.LocallyConnected2D(16, 9, name="L4")(x)
    x = k.LocallyConnected2D(16, 7, stride=2, name="L5")(x)
    x = k.LocallyConnected2D(16, 5, name="L6")(x)
    x = k.Dense(DIMENSION, activation="relu", name="F7")(k.Flatten(name="F0")(x))
    classes = k.Dense(PEOPLE, activation="softmax", name="F8")(k.Dropout(0.5, name="D0")(x))
    return k.Model(inputs, [x, classes])


ONNX = Weights(
    name="VGGFace2_DeepFace_weights_val-0.9034.onnx",
    sha256=None,
    licence="MIT",
    origin="DeepFace by Swarup Ghosh, trained on VGGFace2, as published by the DeepFace library",
    urls=released("VGGFace2_DeepFace_weights_val-0.9034.onnx"),
)
KERAS = Weights(
    name="VGGFace2_DeepFace_weights_val-0.9034.h5",
    sha256=None,
    licence=ONNX.licence,
    origin=ONNX.origin,
    urls=(
        "https://github.com/swghosh/DeepFace/releases/download/weights-vggface2-2d-aligned/"
        "VGGFace2_DeepFace_weights_val-0.9034.h5.zip",
    ),
    archive="zip",
)
PUBLISHED = Published(
    onnx=ONNX, keras=KERAS, network="recognition.models.fb_deepface:network", shape=(*INPUT.size, 3)
)


def _build(resources: Resources) -> NetworkEmbedder:
    return NetworkEmbedder(PUBLISHED.session(resources), INPUT, DIMENSION)


SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="DeepFace",
        summary="Locally connected network after Facebook's DeepFace, 4096 values, trained on VGGFace2",
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
        thresholds=deepface.everywhere(0.23, 64, 0.64, 0.12),
    ),
)
