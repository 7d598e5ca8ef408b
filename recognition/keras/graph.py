"""A Keras network as an ONNX graph: one writer for each kind of layer that `layers` names.

The graph takes what the network takes, (n, height, width, channels) float32, and gives its first output as `output`.
Inside, images are (n, channels, height, width), as ONNX has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats.onnx_nodes import Nodes

OPSET = 17
IR_VERSION = 8
OUTPUT = "output"

Layer = Any
Writer = Callable[["Graph", Layer, list[str]], str]
"""Writes a layer's nodes and answers with the name of what they compute."""


def write(network: Any) -> onnx.ModelProto:  # noqa: ANN401 # Keras is untyped
    """The graph of a `keras.Model`'s first output and of what that depends on."""
    from keras import Model

    return Graph().model(Model(network.inputs, network.outputs[0]))


class Graph(Nodes):
    def model(self, network: Any) -> onnx.ModelProto:  # noqa: ANN401
        height, width, channels = network.inputs[0].shape[1:]
        names = {id(network.inputs[0]): self._node("Transpose", "input", options=_perm(0, 3, 1, 2))}
        for layer in network.layers:
            if type(layer).__name__ == "InputLayer":
                continue
            given = layer.input if isinstance(layer.input, list) else [layer.input]
            writer = WRITERS.get(type(layer).__name__)
            if writer is None:
                raise BadWeights(f"there is no ONNX form of the Keras layer {type(layer).__name__}")
            names[id(layer.output)] = writer(self, layer, [names[id(tensor)] for tensor in given])
        self._node("Identity", names[id(network.outputs[0])], output=OUTPUT)
        shapes = ["n", height, width, channels], ["n", *network.outputs[0].shape[1:]]
        graph = helper.make_graph(
            self._nodes,
            network.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shapes[0])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shapes[1])],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def conv(self, layer: Layer, given: list[str]) -> str:
        kernel, *bias = _weights(layer)
        return self._convolved(layer, given[0], [kernel.transpose(3, 2, 0, 1), *bias], group=1)

    def depthwise(self, layer: Layer, given: list[str]) -> str:
        """Kernel (height, width, channels, 1)."""
        kernel, *bias = _weights(layer)
        weights = [kernel.transpose(2, 3, 0, 1), *bias]
        return self._convolved(layer, given[0], weights, group=kernel.shape[2])

    def _convolved(
        self, layer: Layer, source: str, weights: list[NDArray[np.float32]], group: int
    ) -> str:
        options = {"strides": layer.strides, "auto_pad": _padding(layer), "group": group}
        out = self._node("Conv", source, *map(self._constant, weights), options=options)
        return self._activated(layer, out)

    def dense(self, layer: Layer, given: list[str]) -> str:
        weights = map(self._constant, _weights(layer))
        return self._activated(layer, self._node("Gemm", given[0], *weights))

    def normalization(self, layer: Layer, given: list[str]) -> str:
        arrays = iter(_weights(layer))
        channels = layer.moving_mean.shape[0]
        gamma = next(arrays) if layer.scale else np.ones(channels, np.float32)
        beta = next(arrays) if layer.center else np.zeros(channels, np.float32)
        constants = map(self._constant, (gamma, beta, next(arrays), next(arrays)))
        options = {"epsilon": float(layer.epsilon)}
        return self._node("BatchNormalization", given[0], *constants, options=options)

    def activation(self, layer: Layer, given: list[str]) -> str:
        return self._activated(layer, given[0])

    def prelu(self, layer: Layer, given: list[str]) -> str:
        """Slopes (1, 1, channels)."""
        (slopes,) = _weights(layer)
        return self._node("PRelu", given[0], self._constant(slopes.reshape(-1, 1, 1)))

    def zero_padding(self, layer: Layer, given: list[str]) -> str:
        (top, bottom), (left, right) = layer.padding
        pads = self._constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
        return self._node("Pad", given[0], pads)

    def max_pooling(self, layer: Layer, given: list[str]) -> str:
        return self._node("MaxPool", given[0], options=_window(layer))

    def average_pooling(self, layer: Layer, given: list[str]) -> str:
        return self._node("AveragePool", given[0], options=_window(layer))

    def global_average(self, layer: Layer, given: list[str]) -> str:
        return self._node("Flatten", self._node("GlobalAveragePool", given[0]))

    def flatten(self, layer: Layer, given: list[str]) -> str:
        return self._node("Flatten", self._as_keras(given[0]))

    def reshape(self, layer: Layer, given: list[str]) -> str:
        """Of (n, channels) to (n, 1, 1, channels)."""
        if tuple(layer.target_shape[:2]) != (1, 1):
            raise BadWeights(f"there is no ONNX form of a reshape to {layer.target_shape}")
        shape = self._constant(np.array([0, 0, 1, 1], np.int64))
        return self._node("Reshape", given[0], shape)

    def nothing(self, layer: Layer, given: list[str]) -> str:
        return given[0]

    def add(self, layer: Layer, given: list[str]) -> str:
        return self._node("Sum", *given)

    def multiply(self, layer: Layer, given: list[str]) -> str:
        return self._node("Mul", *given)

    def concatenate(self, layer: Layer, given: list[str]) -> str:
        return self._node("Concat", *given, options={"axis": 1})

    def scale(self, layer: Layer, given: list[str]) -> str:
        return self._node("Mul", given[0], self._constant(np.array(layer.factor, np.float32)))

    def square(self, layer: Layer, given: list[str]) -> str:
        return self._node("Mul", given[0], given[0])

    def square_root(self, layer: Layer, given: list[str]) -> str:
        return self._node("Sqrt", given[0])

    def hard_sigmoid(self, layer: Layer, given: list[str]) -> str:
        return self._node("HardSigmoid", given[0], options={"alpha": 0.2, "beta": 0.5})

    def unit_length(self, layer: Layer, given: list[str]) -> str:
        axes, least = (
            self._constant(np.array([1], np.int64)),
            self._constant(np.array(1e-12, np.float32)),
        )
        squared = self._node("ReduceSum", self.square(layer, given), axes)
        length = self._node("Sqrt", self._node("Max", squared, least))
        return self._node("Div", given[0], length)

    def local_response(self, layer: Layer, given: list[str]) -> str:
        size = 2 * layer.radius + 1
        options = {"size": size, "alpha": layer.alpha * size, "beta": layer.beta, "bias": 1.0}
        return self._node("LRN", given[0], options=options)

    def locally_connected(self, layer: Layer, given: list[str]) -> str:
        """Patches by slicing; then a matrix product of (n, patch) and (patch, filters) for each place."""
        kernel, bias = _weights(layer)
        height, width, filters = bias.shape
        image = self._as_keras(given[0])
        parts = [
            self._strided(image, (i, j), (height, width), layer.stride)
            for i in range(layer.size)
            for j in range(layer.size)
        ]
        places = self._constant(np.array([-1, *kernel.shape[:2]], np.int64))
        patches = self._node("Reshape", self._node("Concat", *parts, options={"axis": 3}), places)
        patches = self._node("Transpose", patches, options=_perm(1, 0, 2))
        out = self._node("MatMul", patches, self._constant(kernel))
        out = self._node("Transpose", out, options=_perm(1, 2, 0))
        shape = self._constant(np.array([-1, filters, height, width], np.int64))
        out = self._node("Reshape", out, shape)
        return self._node("Relu", self._node("Add", out, self._constant(bias.transpose(2, 0, 1))))

    def _strided(self, image: str, start: tuple[int, int], out: tuple[int, int], step: int) -> str:
        """(n, out_h, out_w, channels): every `step`-th pixel from a corner on."""
        ends = [begin + (side - 1) * step + 1 for begin, side in zip(start, out, strict=True)]
        numbers = (start, ends, (1, 2), (step, step))
        return self._node(
            "Slice", image, *(self._constant(np.array(part, np.int64)) for part in numbers)
        )

    def _as_keras(self, image: str) -> str:
        return self._node("Transpose", image, options=_perm(0, 2, 3, 1))

    def _activated(self, layer: Layer, source: str) -> str:
        kind = layer.activation.__name__
        if kind == "linear":
            return source
        if kind not in ("relu", "softmax"):
            raise BadWeights(f"there is no ONNX form of the Keras activation {kind}")
        return self._node({"relu": "Relu", "softmax": "Softmax"}[kind], source)


WRITERS: Mapping[str, Writer] = {
    "Activation": Graph.activation,
    "Add": Graph.add,
    "AveragePooling2D": Graph.average_pooling,
    "BatchNormalization": Graph.normalization,
    "Concatenate": Graph.concatenate,
    "Conv2D": Graph.conv,
    "Dense": Graph.dense,
    "DepthwiseConv2D": Graph.depthwise,
    "Dropout": Graph.nothing,
    "Flatten": Graph.flatten,
    "GlobalAveragePooling2D": Graph.global_average,
    "HardSigmoid": Graph.hard_sigmoid,
    "LocalResponse": Graph.local_response,
    "LocallyConnected2D": Graph.locally_connected,
    "MaxPooling2D": Graph.max_pooling,
    "Multiply": Graph.multiply,
    "PReLU": Graph.prelu,
    "Reshape": Graph.reshape,
    "Scale": Graph.scale,
    "Square": Graph.square,
    "SquareRoot": Graph.square_root,
    "UnitLength": Graph.unit_length,
    "ZeroPadding2D": Graph.zero_padding,
}


def _weights(layer: Layer) -> list[NDArray[np.float32]]:
    return [np.asarray(array, np.float32) for array in layer.get_weights()]


def _padding(layer: Layer) -> str:
    """TensorFlow's "same": where the padding is odd, the end gets more."""
    return {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]


def _window(layer: Layer) -> dict[str, Any]:
    return {
        "kernel_shape": layer.pool_size,
        "strides": layer.strides,
        "auto_pad": _padding(layer),
    }


def _perm(*axes: int) -> dict[str, Any]:
    return {"perm": axes}
