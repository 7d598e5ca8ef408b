"""Random weights that let a network live: the same here and in the reference's environment. Needs only NumPy."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Array = Any
Shape = Sequence[int]


RESIDUAL = ("ArcFace", "GhostFaceNet")
"""Networks whose blocks add up, normalised before they do: each must add little, or chaos comes of it."""


class Seeds:
    """A network's own random numbers, by its name."""

    def __init__(self, name: str) -> None:
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.gain = 0.6 if name in RESIDUAL else 1.0
        """Of batch normalisations, in the middle."""

    def normal(self, shape: Shape, scale: float) -> Array:
        return self.random.standard_normal(shape, np.float32) * np.float32(scale)

    def around(self, shape: Shape, middle: float) -> Array:
        """Between half and one and a half of `middle`."""
        return (self.random.random(shape, np.float32) + np.float32(0.5)) * np.float32(middle)

    def kernel(self, shape: Shape, seen: float) -> Array:
        """K. He's scale, by the number of values seen: what goes through keeps its size."""
        return self.normal(shape, math.sqrt(2 / seen))


def keras_layer(kind: str, shapes: Iterable[Shape], seeds: Seeds) -> list[Array]:
    """The weights of a layer in the order in which Keras keeps them."""
    wanted = [tuple(shape) for shape in shapes]
    if kind == "BatchNormalization":
        *gamma, beta, mean, variance = wanted
        return [
            *(seeds.around(shape, seeds.gain) for shape in gamma),
            seeds.normal(beta, 0.1),
            seeds.normal(mean, 0.1),
            seeds.around(variance, 1.0),
        ]
    if kind == "PReLU":
        return [seeds.around(shape, 0.25) for shape in wanted]
    seen = {
        "Conv2D": wanted[0][:3],
        "DepthwiseConv2D": wanted[0][:2],
        "Dense": wanted[0][:1],
        "LocallyConnected2D": wanted[0][1:2],
    }[kind]
    kernel = seeds.kernel(wanted[0], math.prod(seen))
    return [kernel, *(seeds.normal(shape, 0.1) for shape in wanted[1:])]


def waves(height: int, width: int, count: int = 2) -> Array:
    """(count, height, width, 3) float32 in 0..1: pictures that need no file."""
    y, x, c = np.indices((height, width, 3))
    rows = [np.sin(0.13 * x * (1 + c) + 0.21 * y + k) for k in range(count)]
    return (0.5 + 0.5 * np.stack(rows)).astype(np.float32)
