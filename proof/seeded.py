"""Random weights that let a network live: the same here and in the reference's environment. Needs only NumPy."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Array = Any
Shape = Sequence[int]


def generator(name: str) -> np.random.Generator:
    """A network's own, by its name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def keras_layer(kind: str, shapes: Iterable[Shape], random: np.random.Generator) -> list[Array]:
    """The weights of a layer in the order in which Keras keeps them."""
    wanted = [tuple(shape) for shape in shapes]
    if kind == "BatchNormalization":
        makers = [positive, small, small, positive][-len(wanted) :]
        return [make(shape, random) for make, shape in zip(makers, wanted, strict=True)]
    if kind == "PReLU":
        return [slopes(shape, random) for shape in wanted]
    seen = {
        "Conv2D": lambda shape: np.prod(shape[:3]),
        "DepthwiseConv2D": lambda shape: np.prod(shape[:2]),
        "Dense": lambda shape: shape[0],
        "LocallyConnected2D": lambda shape: shape[1],
    }[kind]
    kernel = scaled(wanted[0], float(seen(wanted[0])), random)
    return [kernel, *(small(shape, random) for shape in wanted[1:])]


def scaled(shape: Shape, seen: float, random: np.random.Generator) -> Array:
    """K. He's: what goes through keeps its size, and so neither dies nor blows up."""
    return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / seen))


def small(shape: Shape, random: np.random.Generator) -> Array:
    return random.standard_normal(shape, np.float32) * np.float32(0.1)


def positive(shape: Shape, random: np.random.Generator) -> Array:
    return random.random(shape, np.float32) + np.float32(0.5)


def slopes(shape: Shape, random: np.random.Generator) -> Array:
    return random.random(shape, np.float32) / 2


def waves(height: int, width: int, count: int = 2) -> Array:
    """(count, height, width, 3) float32 in 0..1: pictures that need no file."""
    y, x, c = np.indices((height, width, 3))
    rows = [np.sin(0.13 * x * (1 + c) + 0.21 * y + k) for k in range(count)]
    return (0.5 + 0.5 * np.stack(rows)).astype(np.float32)
