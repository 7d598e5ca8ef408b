"""TensorFlow Lite float networks as ONNX graphs: the operators that BlazeFace uses, and no others.

Inside the graph feature maps are channels first, with the weights transposed once; Transpose nodes stand at its ends
only, so that inputs and outputs are laid out as in the source. The batch size, 1 in the source, becomes free, and so do
height and width, whose padding is that of the source's: they are to be multiples of the network's largest stride.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import tflite
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recognition.errors import BadWeights
from recognition.formats.graphs import FREE
from recognition.formats.lanes import widen

OPSET = 17
IR_VERSION = 8
MOST_ITEMS = 10_000
"""Operators or tensors in one file; a bound for damaged counts, far above any network read here."""

_Op = tflite.BuiltinOperator
_Attributes: TypeAlias = dict[str, int | str | list[int]]
_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """`shape` is the source's (NHWC for feature maps); `data` is None unless constant."""

    name: str
    shape: tuple[int, ...]
    data: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Network:
    tensors: tuple[_Tensor, ...]
    operators: tuple[_Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def convert(data: bytes, lanes: int = 1, *, pixels: bool = False) -> bytes:
    """The serialised ONNX model of a .tflite file with one float image input; raises BadWeights.

    Inputs (n, height, width, channels) and outputs (n, rows, columns) are float32 and keep the source's names; rows go
    by the cells of the feature maps, row by row. Channels are filled up to multiples of `lanes`. With `pixels` the
    input is uint8, of which -1..1 are made.
    """
    network = parse(data)
    model = widen(_Writer(network, pixels=pixels).model(), lanes)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadWeights(f"the TensorFlow Lite network does not fit together: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def parse(data: bytes) -> _Network:
    """The only graph of a .tflite file; raises BadWeights for damaged files and unknown operators."""
    try:
        return _parse(data)
    # What the flatbuffers package raises where offsets, lengths or types do not fit.
    except (struct.error, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise BadWeights(f"not a TensorFlow Lite file, or a damaged one: {error}") from error


def _parse(data: bytes) -> _Network:
    _need(data[4:8] == b"TFL3", "the identifier is missing")
    model = tflite.Model.GetRootAsModel(data, 0)
    _need(model.SubgraphsLength() == 1, "one graph is expected")
    graph = model.Subgraphs(0)
    tensors = tuple(_tensor(model, graph.Tensors(i)) for i in range(_count(graph.TensorsLength())))
    operators = tuple(
        _operator(model, graph.Operators(i)) for i in range(_count(graph.OperatorsLength()))
    )
    network = _Network(
        tensors,
        operators,
        tuple(graph.Inputs(i) for i in range(_count(graph.InputsLength()))),
        tuple(graph.Outputs(i) for i in range(_count(graph.OutputsLength()))),
    )
    used = (*(i for op in operators for i in op.inputs + op.outputs), *network.inputs)
    _need(all(0 <= i < len(tensors) for i in (*used, *network.outputs)), "a tensor does not exist")
    return network


def _tensor(model: tflite.Model, tensor: tflite.Tensor) -> _Tensor:
    shape = tuple(tensor.Shape(i) for i in range(_count(tensor.ShapeLength(), most=8)))
    _need(min(shape, default=1) > 0, "a tensor has no fixed shape")
    _need(tensor.Sparsity() is None, "sparse weights are not read")
    name = (tensor.Name() or b"").decode("utf-8")
    index = tensor.Buffer()
    _need(0 <= index < model.BuffersLength(), "a buffer does not exist")
    buffer = model.Buffers(index)
    if buffer.DataLength() == 0:
        return _Tensor(name, shape, None)
    types = {
        tflite.TensorType.FLOAT16: "<f2",
        tflite.TensorType.FLOAT32: "<f4",
        tflite.TensorType.INT32: "<i4",
    }
    kind = tensor.Type()
    _need(kind in types, f"constants of type {kind} are not read")
    return _Tensor(name, shape, np.frombuffer(buffer.DataAsNumpy(), types[kind]).reshape(shape))


def _operator(model: tflite.Model, operator: tflite.Operator) -> _Operator:
    index = operator.OpcodeIndex()
    _need(0 <= index < model.OperatorCodesLength(), "an operator code does not exist")
    entry = model.OperatorCodes(index)
    # Old files hold the code in a byte of its own, new ones in a larger field; the other one is 0.
    code = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
    _need(code in _Writer.HANDLERS, f"operator {code} is not known")
    return _Operator(
        code,
        tuple(operator.Inputs(i) for i in range(_count(operator.InputsLength()))),
        tuple(operator.Outputs(i) for i in range(_count(operator.OutputsLength()))),
        _options(code, operator),
    )


def _options(code: int, operator: tflite.Operator) -> dict[str, int]:
    known: dict[int, tuple[type[Any], tuple[str, ...]]] = {
        _Op.CONV_2D: (tflite.Conv2DOptions, _CONV),
        _Op.DEPTHWISE_CONV_2D: (tflite.DepthwiseConv2DOptions, (*_CONV, "DepthMultiplier")),
        _Op.MAX_POOL_2D: (
            tflite.Pool2DOptions,
            ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth"),
        ),
        _Op.ADD: (tflite.AddOptions, ()),
        _Op.CONCATENATION: (tflite.ConcatenationOptions, ("Axis",)),
    }
    if code == _Op.RESIZE_BILINEAR:
        return _read(tflite.ResizeBilinearOptions, ("AlignCorners", "HalfPixelCenters"), operator)
    if code not in known:
        return {}
    cls, fields = known[code]
    options = _read(cls, (*fields, "FusedActivationFunction"), operator)
    _need(options["FusedActivationFunction"] == 0, "fused activations are not read")
    return options


def _read(cls: type[Any], fields: Sequence[str], operator: tflite.Operator) -> dict[str, int]:
    _need(operator.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, cls.__name__), "options")
    table = operator.BuiltinOptions()
    _need(table is not None, "an operator lacks its options")
    options = cls()
    options.Init(table.Bytes, table.Pos)
    return {field: int(getattr(options, field)()) for field in fields}


def _count(length: int, most: int = MOST_ITEMS) -> int:
    _need(0 <= length <= most, f"a list has {length} items")
    return length


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise BadWeights(f"a TensorFlow Lite file cannot be converted: {what}")


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `size` values under TensorFlow's SAME rule: an odd one goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Writer:
    """Collects the nodes of one ONNX graph, operator by operator."""

    def __init__(self, network: _Network, *, pixels: bool) -> None:
        self._pixels = pixels
        self._tensors = network.tensors
        self._network = network
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._constants = {i: t.data for i, t in enumerate(network.tensors) if t.data is not None}
        self._outputs = {i: network.tensors[i].name for i in network.outputs}

    def model(self) -> onnx.ModelProto:
        (image,) = self._network.inputs if len(self._network.inputs) == 1 else (-1,)
        _need(image >= 0 and len(self._shape(image)) == 4, "one image input is expected")
        name = self._tensors[image].name
        self._input(name, self._name(image))
        for operator in self._network.operators:
            self.HANDLERS[operator.code](self, operator)
        graph = helper.make_graph(
            self._nodes,
            "network",
            [
                helper.make_tensor_value_info(
                    name,
                    TensorProto.UINT8 if self._pixels else TensorProto.FLOAT,
                    (*FREE, self._shape(image)[3]),
                )
            ],
            [
                helper.make_tensor_value_info(
                    self._name(i), TensorProto.FLOAT, (FREE[0], f"rows{i}", *self._shape(i)[2:])
                )
                for i in self._network.outputs
            ],
            self._weights,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _input(self, name: str, target: str) -> None:
        turned: _Attributes = {"perm": [0, 3, 1, 2]}
        if not self._pixels:
            self._node("Transpose", [name], target, turned)
            return
        self._node("Transpose", [name], "turned", turned)
        self._node("Cast", ["turned"], "cast", {"to": TensorProto.FLOAT})
        self._node("Div", ["cast", self._add("half", np.array([127.5], np.float32))], "scaled")
        self._node("Sub", ["scaled", self._add("one", np.array([1], np.float32))], target)

    def _dequantize(self, op: _Operator) -> None:
        source, target = self._ends(op, 1)
        _need(source[0] in self._constants, "DEQUANTIZE of something computed")
        self._constants[target] = self._constants[source[0]].astype(np.float32)

    def _conv(self, op: _Operator) -> None:
        (image, kernel, bias), target = self._ends(op, 3)
        weights = self._constant(kernel)
        _need(weights.ndim == 4, "a convolution kernel has four dimensions")
        depthwise = op.code == _Op.DEPTHWISE_CONV_2D
        # Source kernels are (out, h, w, in), depthwise ones (1, h, w, out); ONNX wants (out, in, h, w).
        weights = weights.transpose(3, 0, 1, 2) if depthwise else weights.transpose(0, 3, 1, 2)
        _need(op.options["DilationHFactor"] == op.options["DilationWFactor"] == 1, "dilation")
        _need(op.options.get("DepthMultiplier", 1) == 1, "depth multiplier")
        self._node(
            "Conv",
            [
                self._name(image),
                self._add(f"w{kernel}", weights),
                self._add(f"b{bias}", self._constant(bias)),
            ],
            self._name(target),
            {"group": weights.shape[0] if depthwise else 1}
            | self._window(op, image, (weights.shape[2], weights.shape[3])),
        )

    def _max_pool(self, op: _Operator) -> None:
        (image,), target = self._ends(op, 1)
        window = self._window(op, image, (op.options["FilterHeight"], op.options["FilterWidth"]))
        self._node("MaxPool", [self._name(image)], self._name(target), window)

    def _window(self, op: _Operator, image: int, kernel: tuple[int, int]) -> _Attributes:
        stride = op.options["StrideH"], op.options["StrideW"]
        _need(min(*stride, *kernel) > 0, "empty windows")
        pads = [(0, 0), (0, 0)]
        if op.options["Padding"] == tflite.Padding.SAME:
            sizes = self._size(image)
            pads = [same_padding(sizes[i], kernel[i], stride[i]) for i in (0, 1)]
        (top, bottom), (left, right) = pads
        return {
            "kernel_shape": list(kernel),
            "strides": list(stride),
            "pads": [top, left, bottom, right],
        }

    def _pad(self, op: _Operator) -> None:
        (image, amounts), target = self._ends(op, 2)
        pads = self._constant(amounts)
        _need(pads.shape == (4, 2) and pads.dtype == np.int32, "PAD of an image is expected")
        _need(int(pads.min()) >= 0, "PAD takes away")
        flat = pads[[0, 3, 1, 2]].T.reshape(-1).astype(np.int64)
        self._node("Pad", [self._name(image), self._add(f"p{target}", flat)], self._name(target))

    def _relu(self, op: _Operator) -> None:
        (image,), target = self._ends(op, 1)
        self._node("Relu", [self._name(image)], self._name(target))

    def _plus(self, op: _Operator) -> None:
        terms, target = self._ends(op, 2)
        _need(self._shape(terms[0]) == self._shape(terms[1]), "ADD of unlike shapes")
        self._node("Add", [self._name(i) for i in terms], self._name(target))

    def _resize(self, op: _Operator) -> None:
        (image, _), target = self._ends(op, 2)
        _need(op.options == {"AlignCorners": 0, "HalfPixelCenters": 1}, "pixel centres")
        small, large = self._size(image), self._size(target)
        factors = [large[0] / small[0], large[1] / small[1]]
        scales = self._add(f"s{target}", np.array([1, 1, *factors], dtype=np.float32))
        self._node(
            "Resize",
            [self._name(image), "", scales],
            self._name(target),
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        )

    def _reshape(self, op: _Operator) -> None:
        image, target = op.inputs[0], self._ends(op, len(op.inputs))[1]
        shape = self._shape(target)
        _need(len(self._shape(image)) == 4 and len(shape) == 3, "RESHAPE of an image to rows")
        _need(math.prod(shape) == math.prod(self._shape(image)), "RESHAPE changes the size")
        last = f"{self._name(image)}_nhwc_{target}"
        self._node("Transpose", [self._name(image)], last, {"perm": [0, 2, 3, 1]})
        sizes = self._add(f"r{target}", np.array([0, -1, shape[2]], dtype=np.int64))
        self._node("Reshape", [last, sizes], self._name(target))

    def _concat(self, op: _Operator) -> None:
        parts, target = self._ends(op, len(op.inputs))
        _need(all(len(self._shape(i)) == 3 for i in parts), "CONCATENATION of rows is expected")
        axis = op.options["Axis"]
        self._node("Concat", [self._name(i) for i in parts], self._name(target), {"axis": axis})

    HANDLERS: Mapping[int, Callable[[_Writer, _Operator], None]] = {
        _Op.DEQUANTIZE: _dequantize,
        _Op.CONV_2D: _conv,
        _Op.DEPTHWISE_CONV_2D: _conv,
        _Op.MAX_POOL_2D: _max_pool,
        _Op.PAD: _pad,
        _Op.RELU: _relu,
        _Op.ADD: _plus,
        _Op.RESIZE_BILINEAR: _resize,
        _Op.RESHAPE: _reshape,
        _Op.CONCATENATION: _concat,
    }

    def _ends(self, op: _Operator, inputs: int) -> tuple[tuple[int, ...], int]:
        _need(len(op.inputs) == inputs > 0 and len(op.outputs) == 1, f"operator {op.code}'s ends")
        return op.inputs, op.outputs[0]

    def _shape(self, index: int) -> tuple[int, ...]:
        return self._tensors[index].shape

    def _size(self, index: int) -> tuple[int, int]:
        shape = self._shape(index)
        _need(len(shape) == 4, "an image is expected")
        return shape[1], shape[2]

    def _name(self, index: int) -> str:
        return self._outputs.get(index, f"t{index}")

    def _constant(self, index: int) -> NDArray[Any]:
        _need(index in self._constants, "weights are computed, not constant")
        return self._constants[index]

    def _add(self, name: str, values: NDArray[Any]) -> str:
        if all(weights.name != name for weights in self._weights):
            self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _node(
        self, kind: str, inputs: Sequence[str], output: str, attributes: _Attributes | None = None
    ) -> None:
        node = helper.make_node(kind, list(inputs), [output])
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in (attributes or {}).items()
        )
        self._nodes.append(node)
