"""Convolutional ONNX graphs that were saved for one input size, made to take any: their layers do not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from recognition.errors import BadWeights

REFUSALS = (
    DecodeError, ValueError, TypeError, IndexError, MemoryError, OverflowError, onnx.checker.ValidationError,
)  # fmt: skip
"""What ONNX raises at files that are none of its."""


def free(data: bytes) -> bytes:
    """The graph with batch, height and width of its one image input left open; raises BadWeights.

    Constants that the file also offers as inputs are constants only, and a Reshape that fixes the batch at one keeps
    whatever batch comes. Graphs that fix sizes in other ways fail when they run.
    """
    try:
        model = onnx.load_model_from_string(data)
        _open(model.graph)
        onnx.checker.check_model(model)
    except REFUSALS as error:
        raise BadWeights(f"not a network for images in ONNX: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


def _open(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in constants]
    if len(images) != 1 or len(images[0].type.tensor_type.shape.dim) != 4:
        raise ValueError("one input with four axes is expected")
    _, channels, *_ = images[0].type.tensor_type.shape.dim
    shape = ["n", channels.dim_value, "height", "width"]
    image = helper.make_tensor_value_info(images[0].name, onnx.TensorProto.FLOAT, shape)
    outputs = [_unsized(out) for out in graph.output]
    for old, new in ((graph.input, [image]), (graph.output, outputs), (graph.value_info, [])):
        del old[:]
        old.extend(new)
    _keep_batch(graph)


def _unsized(output: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = output.type.tensor_type
    sizes = [None] * len(kind.shape.dim)
    return helper.make_tensor_value_info(output.name, kind.elem_type, sizes)


def _keep_batch(graph: onnx.GraphProto) -> None:
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for name, tensor in _constants(graph):
        values: NDArray[Any] = numpy_helper.to_array(tensor)
        if name in shapes and values.ndim == 1 and values.size > 1 and values[0] == 1:
            kept = np.concatenate([[0], values[1:]]).astype(np.int64)
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], part.t) for part in node.attribute if part.name == "value")
