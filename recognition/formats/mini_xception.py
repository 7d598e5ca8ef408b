"""mini-XCEPTION as an ONNX graph, with batch normalisation folded into the convolutions.

Architecture: O. Arriaga et al., Real-time Convolutional Neural Networks for Emotion and Gender Classification (2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recognition.errors import BadWeights
from recognition.formats import keras_h5
from recognition.formats.graphs import XCEPTION_SIDE as SIDE

Array = NDArray[np.float32]
Attributes: TypeAlias = Mapping[str, int | str | Sequence[int]]

CLASSES = 7
STEM = (8, 8)
"""Channels of the first two convolutions."""
WIDTHS = (16, 32, 64, 128)
"""Channels of the four residual modules."""
EPSILON = 1e-3
"""Of batch normalisation in training: Keras' default."""
OPSET = 17
IR_VERSION = 8

_AROUND: Attributes = {"pads": (1, 1, 1, 1)}
_HALVE: Attributes = {"strides": (2, 2)}
# TensorFlow's "SAME": where the padding is odd, the end gets more.
_POOL: Attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"}


def convert(data: bytes) -> bytes:
    """The serialised ONNX model of a Keras HDF5 file; raises BadWeights.

    Input `faces`: (n, 1, 64, 64) float32 grey in -1..1. Output `probabilities`: (n, 7) float32.
    """
    model = _Writer(keras_h5.read(data)).model()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Writer:
    """Takes the arrays one after the other: layers lie in the file in the order in which they were created."""

    def __init__(self, layers: Sequence[keras_h5.Layer]) -> None:
        self._arrays = iter([array for layer in layers for array in layer.arrays])
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        self._network()
        if next(self._arrays, None) is not None:
            raise BadWeights("the Keras file holds more weights than mini-XCEPTION has")
        graph = helper.make_graph(
            self._nodes,
            "mini_xception",
            [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])],
            self._weights,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _network(self) -> None:
        last, channels = "faces", 1
        for width in STEM:
            last = self._relu(self._normalised(last, (3, 3, channels, width)))
            channels = width
        for width in WIDTHS:
            last = self._module(last, channels, width)
            channels = width
        last = self._conv(
            last, self._take((3, 3, channels, CLASSES)), self._take((CLASSES,)), _AROUND
        )
        last = self._node("Flatten", [self._node("GlobalAveragePool", [last])])
        self._nodes.append(helper.make_node("Softmax", [last], ["probabilities"]))

    def _module(self, source: str, channels: int, width: int) -> str:
        """Two separable convolutions and a pool, added to a 1 x 1 convolution; halves the size."""
        last = self._relu(self._separable(source, channels, width))
        last = self._separable(last, width, width)
        short = self._normalised(source, (1, 1, channels, width), _HALVE)
        return self._node("Add", [self._node("MaxPool", [last], _POOL), short])

    def _separable(self, source: str, channels: int, width: int) -> str:
        kernel = self._take((3, 3, channels, 1)).transpose(0, 1, 3, 2)
        nothing = np.zeros(channels, np.float32)
        last = self._conv(source, kernel, nothing, {**_AROUND, "group": channels})
        return self._normalised(last, (1, 1, channels, width))

    def _normalised(
        self, source: str, shape: tuple[int, ...], attributes: Attributes | None = None
    ) -> str:
        """A convolution without bias and the normalisation after it, as one convolution."""
        kernel = self._take(shape)
        gamma, beta, mean, variance = (self._take(shape[3:]) for _ in range(4))
        if variance.min() < 0:
            raise BadWeights("a variance in the Keras file is negative")
        with np.errstate(over="ignore", invalid="ignore"):
            factor = gamma / np.sqrt(variance + np.float32(EPSILON))
            folded = np.asarray(kernel * factor, np.float32)
            bias = np.asarray(beta - mean * factor, np.float32)
        if not (np.isfinite(folded).all() and np.isfinite(bias).all()):
            raise BadWeights("the weights in the Keras file are too large")
        return self._conv(source, folded, bias, attributes)

    def _conv(
        self, source: str, kernel: Array, bias: Array, attributes: Attributes | None = None
    ) -> str:
        """`kernel` is (height, width, in, out)."""
        weights = [self._add(kernel.transpose(3, 2, 0, 1)), self._add(bias)]
        return self._node("Conv", [source, *weights], attributes)

    def _relu(self, source: str) -> str:
        return self._node("Relu", [source])

    def _take(self, shape: tuple[int, ...]) -> Array:
        array = next(self._arrays, None)
        if array is None or array.shape != shape:
            found = "nothing" if array is None else array.shape
            raise BadWeights(f"the Keras file has {found} where mini-XCEPTION has {shape}")
        return array

    def _add(self, values: Array) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(self, kind: str, inputs: Sequence[str], attributes: Attributes | None = None) -> str:
        name = f"t{len(self._nodes)}"
        node = helper.make_node(kind, list(inputs), [name])
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in (attributes or {}).items()
        )
        self._nodes.append(node)
        return name
