"""The face recognition network of dlib (dlib_face_recognition_resnet_model_v1.dat) as an ONNX graph, without dlib.

dlib writes a network as nested objects: the outermost layer's version first, then everything inside it, then its own
state. This reader knows the layers of this one network and takes nothing else. Format: dlib's serialize.h, dnn/core.h,
dnn/layers.h and cuda/tensor.h by Davis King (Boost licence), read for the facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats.graphs import DLIB_DIMENSION as DIMENSION
from recognition.formats.graphs import DLIB_SIDE as SIDE
from recognition.formats.onnx_nodes import Nodes

OPSET = 17
IR_VERSION = 8

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """Convolution with the affine layer after it folded in: weights (out, in, h, w), bias (out,)."""

    weights: Array
    bias: Array
    stride: int
    padding: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Two convolutions beside a shortcut; the shortcut of one that goes `down` is averaged 2 x 2."""

    first: Conv
    second: Conv
    down: bool


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """`mean` is subtracted from pixels red, green, blue, which are then divided by 256; `head` is (in, 128)."""

    mean: tuple[float, ...]
    stem: Conv
    blocks: tuple[Block, ...]
    head: Array


@dataclass(frozen=True, slots=True)
class _Stage:
    filters: int
    down: bool
    side: int
    """Rows and columns of the block's output, shortcut included."""


_STEM_FILTERS = 32
_STAGES = (
    *[_Stage(32, False, 35)] * 3,
    _Stage(64, True, 17),
    *[_Stage(64, False, 17)] * 3,
    _Stage(128, True, 8),
    *[_Stage(128, False, 8)] * 2,
    _Stage(256, True, 4),
    *[_Stage(256, False, 4)] * 2,
    _Stage(256, True, 2),
)
"""Blocks from the input on. Both ways into a sum are padded with zeros, on the right and below, to the larger size."""

_BLOCK = ("tag", "con", "affine", "relu", "con", "affine", "add_prev", "relu")
_BLOCK_DOWN = (
    *("tag", "con", "affine", "relu", "con", "affine"),
    *("tag", "tag", "avg_pool", "add_prev", "relu"),
)
_LAYERS = (
    *("con", "affine", "relu", "max_pool"),
    *(kind for stage in _STAGES for kind in (_BLOCK_DOWN if stage.down else _BLOCK)),
    *("avg_pool", "fc"),
)
"""From the input on. Tag and skip layers are written alike and hold nothing."""


def read(data: bytes) -> Network:
    """The network of a .dat file; raises BadWeights for anything but exactly this architecture, whole."""
    reader = _Reader(data)
    network = _network(reader)
    _need(reader.done(), "bytes follow the end")
    return network


def _network(reader: _Reader) -> Network:
    reader.version(1)
    reader.name("loss_metric_2")
    reader.number(), reader.number()
    for kind in reversed(_LAYERS[1:]):
        reader.version(1 if kind == "tag" else 2)
    reader.version(3)
    reader.name("input_rgb_image_sized")
    mean = tuple(reader.number() for _ in range(3))
    _need(reader.integers(2) == (SIDE, SIDE), "the input has another size")
    stem = _conv(reader, _STEM_FILTERS, 3, 7, 2)
    _unit(reader, stem=True)
    stem = _affine(reader, stem)
    _relu(reader)
    _pool(reader, "max_pool_2", (3, 3, 2, 2, 0, 0))
    filters, blocks = _STEM_FILTERS, []
    for stage in _STAGES:
        blocks.append(_block(reader, stage, filters))
        filters = stage.filters
    _pool(reader, "avg_pool_2", (0, 0, 1, 1, 0, 0))
    return Network(mean, stem, tuple(blocks), _head(reader, filters))


def _block(reader: _Reader, stage: _Stage, maps: int) -> Block:
    first = _conv(reader, stage.filters, maps, 3, 2 if stage.down else 1)
    _unit(reader)
    first = _affine(reader, first)
    _relu(reader)
    second = _conv(reader, stage.filters, stage.filters, 3, 1)
    _unit(reader)
    second = _affine(reader, second)
    if stage.down:
        _pool(reader, "avg_pool_2", (2, 2, 2, 2, 0, 0))
    reader.name("add_prev_")
    _unit(reader)
    _relu(reader)
    return Block(first, second, stage.down)


def _conv(reader: _Reader, filters: int, maps: int, size: int, stride: int) -> Conv:
    shape = (filters, maps, size, size)
    padding = size // 2 if stride == 1 else 0
    reader.name("con_4")
    params = reader.tensor((math.prod(shape) + filters, 1, 1, 1)).ravel()
    expected = (filters, size, size, stride, stride, padding, padding)
    _need(reader.integers(7) == expected, "a convolution has another size")
    reader.alias(shape)
    reader.alias((1, filters, 1, 1))
    _rates(reader)
    return Conv(params[:-filters].reshape(shape), params[-filters:], stride, padding)


def _affine(reader: _Reader, conv: Conv) -> Conv:
    """The convolution followed by the affine layer that comes next: a factor and a shift for each map."""
    filters = len(conv.bias)
    reader.name("affine_")
    params = reader.tensor((2 * filters, 1, 1, 1)).ravel()
    reader.alias((1, filters, 1, 1))
    reader.alias((1, filters, 1, 1))
    _need(reader.integers(1) == (0,), "an affine layer is not one for convolutions")
    _unit(reader)
    gamma, beta = params[:filters], params[filters:]
    weights = conv.weights * gamma[:, None, None, None]
    return Conv(weights, conv.bias * gamma + beta, conv.stride, conv.padding)


def _head(reader: _Reader, maps: int) -> Array:
    reader.name("fc_2")
    _need(reader.integers(2) == (DIMENSION, maps), "the dense layer has another size")
    weights = reader.tensor((maps, DIMENSION, 1, 1)).reshape(maps, DIMENSION)
    reader.alias((maps, DIMENSION, 1, 1))
    reader.alias((0, 0, 0, 0))
    _need(reader.integers(1) == (1,), "the dense layer has a bias")
    _rates(reader)
    _unit(reader)
    return weights


def _pool(reader: _Reader, name: str, window: tuple[int, ...]) -> None:
    """`window`: rows, columns, stride and padding in both directions; 0 rows and columns are all of them."""
    reader.name(name)
    _need(reader.integers(6) == window, "a pooling layer has another size")
    _unit(reader)


def _relu(reader: _Reader) -> None:
    reader.name("relu_")
    _unit(reader)


def _rates(reader: _Reader) -> None:
    """Learning rates and weight decays of weights and biases."""
    for _ in range(4):
        reader.number()


def _unit(reader: _Reader, *, stem: bool = False) -> None:
    """What follows every layer's own values: three flags and three tensors of training, empty once cleaned."""
    for _ in range(3):
        reader.flag()
    for _ in range(3):
        reader.tensor((0, 0, 0, 0))
    if stem:
        _need(reader.integers(1) == (1,), "the input is expanded")


class _Reader:
    """Takes values off the front; nothing is allocated for a length that the data does not have."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def done(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> memoryview:
        _need(0 <= size <= len(self._data) - self._at, "it ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def integer(self) -> int:
        """A byte with the sign and the number of bytes that follow, then these, lowest first."""
        control = self.take(1)[0]
        size = control & 0x0F
        _need(control & 0x70 == 0 and 1 <= size <= 8, "an integer has an impossible length")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def integers(self, count: int) -> tuple[int, ...]:
        return tuple(self.integer() for _ in range(count))

    def number(self) -> float:
        """A floating-point value, stored as an integer and the power of two to multiply it with."""
        mantissa, exponent = self.integers(2)
        _need(abs(exponent) <= 256 and abs(mantissa) < 1 << 64, "a number is out of range")
        return math.ldexp(mantissa, exponent)

    def flag(self) -> None:
        _need(bytes(self.take(1)) in (b"0", b"1"), "a flag is neither 0 nor 1")

    def version(self, expected: int) -> None:
        _need(self.integer() == expected, "a layer has another kind or version")

    def name(self, expected: str) -> None:
        _need(self.integer() == len(expected), f"{expected} is missing")
        _need(bytes(self.take(len(expected))) == expected.encode(), f"{expected} is missing")

    def alias(self, shape: tuple[int, ...]) -> None:
        """The shape under which a part of a tensor is used."""
        self.version(1)
        _need(self.integers(4) == shape, "weights have another shape")

    def tensor(self, shape: tuple[int, ...]) -> Array:
        """Finite float32 values of exactly that shape: the length read is only compared."""
        self.version(2)
        _need(self.integers(4) == shape, "a tensor has another shape")
        values = np.frombuffer(self.take(4 * math.prod(shape)), "<f4").astype(np.float32)
        _need(bool(np.isfinite(values).all()), "a weight is not a number")
        return values


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise BadWeights(f"not dlib's face recognition network: {what}")


def convert(data: bytes) -> bytes:
    """The serialised ONNX model of a .dat file; raises BadWeights.

    Input "faces" (n, 150, 150, 3) uint8 RGB, output "embeddings" (n, 128) float32, dlib's own values but for rounding.
    """
    model = _Graph().model(read(data))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph(Nodes):
    """Maps come first, as ONNX Runtime wants them; a sum comes right after a convolution, into which it is fused."""

    def model(self, network: Network) -> onnx.ModelProto:
        flow = self._node("Transpose", "faces", options={"perm": [0, 3, 1, 2]})
        flow = self._node("Cast", flow, options={"to": TensorProto.FLOAT})
        flow = self._conv(flow, _normalised(network))
        flow = self._node("Relu", flow)
        flow = self._node("MaxPool", flow, options={"kernel_shape": [3, 3], "strides": [2, 2]})
        maps = _STEM_FILTERS
        for block, stage in zip(network.blocks, _STAGES, strict=True):
            flow = self._block(flow, block, stage, maps)
            maps = stage.filters
        flow = self._node("GlobalAveragePool", flow)
        flow = self._node("Flatten", flow)
        self._node("MatMul", flow, self._constant(network.head), output="embeddings")
        return self._model()

    def _block(self, flow: str, block: Block, stage: _Stage, maps: int) -> str:
        shortcut = flow
        flow = self._node("Relu", self._conv(flow, block.first))
        flow = self._conv(flow, block.second)
        if block.down:
            window = {"kernel_shape": [2, 2], "strides": [2, 2]}
            shortcut = self._node("AveragePool", shortcut, options=window)
            shortcut = self._pad(shortcut, stage.filters - maps, 0)
            # A 3 x 3 window with stride 2 finds no place for its last step on 8 and 4 rows; a 2 x 2 one does.
            flow = self._pad(flow, 0, 1 if stage.side in (4, 2) else 0)
        return self._node("Relu", self._node("Add", flow, shortcut))

    def _pad(self, flow: str, maps: int, cells: int) -> str:
        if not maps and not cells:
            return flow
        amounts = np.array([0, 0, 0, 0, 0, maps, cells, cells], dtype=np.int64)
        return self._node("Pad", flow, self._constant(amounts))

    def _conv(self, flow: str, conv: Conv) -> str:
        weights, bias = self._constant(conv.weights), self._constant(conv.bias)
        options = {"strides": [conv.stride] * 2, "pads": [conv.padding] * 4}
        return self._node("Conv", flow, weights, bias, options=options)

    def _model(self) -> onnx.ModelProto:
        faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
        out = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", DIMENSION])
        graph = helper.make_graph(self._nodes, "dlib", [faces], [out], self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def _normalised(network: Network) -> Conv:
    """The first layer for pixels of 0..255; it has no padding, so the shift is the same everywhere."""
    stem = network.stem
    mean = np.array(network.mean, dtype=np.float64)[:, None, None]
    weights = stem.weights.astype(np.float64) / 256
    shift = (weights * mean).sum(axis=(1, 2, 3))
    return Conv(
        weights.astype(np.float32),
        (stem.bias - shift).astype(np.float32),
        stem.stride,
        stem.padding,
    )
