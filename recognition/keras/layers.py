"""The layers that our networks are made of: Keras' own, and what Keras 3 lacks or knows in another form.

Importing this module imports Keras 3 with its backend: networks do it inside their functions. Data is (n, height,
width, channels). `graph` has a writer for each layer named here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import Input, Model, ops
from keras.layers import (
    Activation,
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    Multiply,
    PReLU,
    Reshape,
    ZeroPadding2D,
)

__all__ = [
    "Activation",
    "Add",
    "AveragePooling2D",
    "BatchNormalization",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "HardSigmoid",
    "Input",
    "LocalResponse",
    "LocallyConnected2D",
    "MaxPooling2D",
    "Model",
    "Multiply",
    "PReLU",
    "Reshape",
    "Scale",
    "Square",
    "SquareRoot",
    "UnitLength",
    "ZeroPadding2D",
]

# All weights are loaded: making up millions of random ones first would only take time.
Conv2D = partial(keras.layers.Conv2D, kernel_initializer="zeros")
Dense = partial(keras.layers.Dense, kernel_initializer="zeros")
DepthwiseConv2D = partial(keras.layers.DepthwiseConv2D, depthwise_initializer="zeros")

Tensor = Any
Shape = tuple[int | None, ...]


class Scale(keras.layers.Layer):  # type: ignore[misc] # Keras is untyped
    """Times a constant."""

    def __init__(self, factor: float, name: str | None = None) -> None:
        super().__init__(name=name)
        self.factor = factor

    def call(self, x: Tensor) -> Tensor:
        return x * self.factor


class Square(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Tensor) -> Tensor:
        return x * x


class SquareRoot(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Tensor) -> Tensor:
        return ops.sqrt(x)


class HardSigmoid(keras.layers.Layer):  # type: ignore[misc]
    """Keras 2's form, 0.2 x + 0.5 within 0..1; Keras 3 has another slope under that name."""

    def call(self, x: Tensor) -> Tensor:
        return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


class UnitLength(keras.layers.Layer):  # type: ignore[misc]
    """Rows of (n, values) divided by their length, which counts as 1e-6 at least."""

    def call(self, x: Tensor) -> Tensor:
        return x / ops.sqrt(ops.maximum(ops.sum(x * x, axis=1, keepdims=True), 1e-12))


class LocalResponse(keras.layers.Layer):  # type: ignore[misc]
    """Divided by (1 + alpha * sum of the squares of the 11 channels around) ** 0.75, as TensorFlow's `lrn` does.

    ONNX divides its alpha by the number of channels, TensorFlow does not.
    """

    def __init__(self, radius: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.radius, self.alpha, self.beta = radius, alpha, beta

    def call(self, x: Tensor) -> Tensor:
        channels = int(x.shape[-1])
        padded = ops.pad(x * x, ((0, 0), (0, 0), (0, 0), (self.radius, self.radius)))
        around = sum(padded[..., i : i + channels] for i in range(2 * self.radius + 1))
        return x / ops.power(1.0 + self.alpha * around, self.beta)


class LocallyConnected2D(keras.layers.Layer):  # type: ignore[misc]
    """A convolution with a kernel of its own at each place, then ReLU; as in Keras 2, `valid` and square.

    Weights as there: kernel (out_h * out_w, k * k * channels, filters), bias (out_h, out_w, filters).
    """

    def __init__(self, filters: int, size: int, stride: int = 1, name: str | None = None) -> None:
        super().__init__(name=name)
        self.filters, self.size, self.stride = filters, size, stride

    def build(self, shape: Shape) -> None:
        height, width = (self._out(side) for side in shape[1:3])
        patch = self.size * self.size * (shape[3] or 0)
        self.kernel = self.add_weight(
            shape=(height * width, patch, self.filters), initializer="zeros"
        )
        self.bias = self.add_weight(shape=(height, width, self.filters), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        height, width = self.bias.shape[:2]
        parts = [
            x[:, i : i + self._span(height) : self.stride, j : j + self._span(width) : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        patches = ops.reshape(ops.concatenate(parts, -1), (-1, *self.kernel.shape[:2]))
        out = ops.einsum("nlp,lpf->nlf", patches, self.kernel)
        return ops.relu(ops.reshape(out, (-1, height, width, self.filters)) + self.bias)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return (shape[0], self._out(shape[1]), self._out(shape[2]), self.filters)

    def _out(self, side: int | None) -> int:
        return ((side or 0) - self.size) // self.stride + 1

    def _span(self, out: int) -> int:
        return (out - 1) * self.stride + 1
