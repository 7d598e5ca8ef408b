"""Channels in whole vectors, so that ONNX Runtime keeps a network's feature maps in one layout from end to end.

Its fast convolutions work on blocks of as many channels as a vector has floats. A pooling or an addition of other
numbers of channels makes it lay the maps out anew, before and after. Channels that hold nothing but zeros fill the
blocks up here: the numbers that come out are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from recognition.errors import BadWeights

CHANNELWISE = frozenset({"Conv", "MaxPool", "Relu", "Add", "Pad", "Resize"})
"""What may be given more channels."""


def widen(model: onnx.ModelProto, lanes: int) -> onnx.ModelProto:
    """The same network with channels in multiples of `lanes` wherever its outputs don't show them.

    Convolutions have biases and are full or depthwise, a Pad adds channels behind the others, and nothing but
    convolutions, poolings, activations, additions and Pads stands before what needs to know the channels. Raises
    BadWeights if channels that are to be seen and others that are not are added.
    """
    return _Widening(model, lanes).model()


class _Widening:
    """One walk through a graph; `_widths` are the channels of its tensors by then."""

    def __init__(self, model: onnx.ModelProto, lanes: int) -> None:
        self._source, self._lanes = model, lanes
        self._values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
        self._exact = _exact(model.graph.node)
        self._widths: dict[str, int] = {}
        self._true: dict[str, int] = {}
        self._aliases: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[Any]] = {}

    def model(self) -> onnx.ModelProto:
        for node in self._source.graph.node:
            if node.op_type == "Conv":
                self._conv(node)
            elif node.op_type == "Pad" and self._adds_channels(node):
                self._pad(node)
            else:
                self._other(node)
        model = onnx.ModelProto()
        model.CopyFrom(self._source)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(values), name)
            for name, values in self._weights.items()
        )
        return model

    def _wide(self, name: str, channels: int) -> int:
        return channels if name in self._exact else -(-channels // self._lanes) * self._lanes

    def _conv(self, node: onnx.NodeProto) -> None:
        source, kernel, bias = node.input
        (target,) = node.output
        weights, start = self._values[kernel], self._values[bias]
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        out, inner = weights.shape[:2]
        if options["group"] > 1:
            wide, options["group"] = (self._widths[source],) * 2
        else:
            wide, inner = self._wide(target, out), self._widths.get(source, inner)
        grown = np.zeros((wide, inner, *weights.shape[2:]), np.float32)
        grown[:out, : weights.shape[1]] = weights
        inputs = [
            self._aliases.get(source, source),
            self._add(f"{target}_w", grown),
            self._add(f"{target}_b", np.pad(start, (0, wide - out))),
        ]
        self._nodes.append(helper.make_node("Conv", inputs, [target], **options))
        self._widths[target], self._true[target] = wide, out

    def _pad(self, node: onnx.NodeProto) -> None:
        """No work where there is room already, otherwise a convolution that copies."""
        source, (target,) = node.input[0], node.output
        true = self._true[source] + int(self._values[node.input[1]][5])
        had, wide = self._widths[source], self._wide(target, true)
        self._widths[target], self._true[target] = wide, true
        inner = self._aliases.get(source, source)
        if had == wide:
            self._aliases[target] = inner
            return
        copy = self._add(f"{target}_w", np.eye(wide, had, dtype=np.float32)[:, :, None, None])
        self._nodes.append(helper.make_node("Conv", [inner, copy], [target], kernel_shape=[1, 1]))

    def _other(self, node: onnx.NodeProto) -> None:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [self._aliases.get(name, name) for name in node.input]
        self._nodes.append(copied)
        self._weights |= {name: self._values[name] for name in node.input if name in self._values}
        source = node.input[0]
        if node.op_type == "Add" and len({self._widths[name] for name in node.input}) > 1:
            raise BadWeights("channels of unlike widths are added")
        if node.op_type in CHANNELWISE and source in self._widths:
            for known in (self._widths, self._true):
                known[node.output[0]] = known[source]

    def _adds_channels(self, node: onnx.NodeProto) -> bool:
        pads = self._values[node.input[1]]
        return bool(pads[5] > 0 and np.count_nonzero(pads) == 1)

    def _add(self, name: str, values: NDArray[Any]) -> str:
        self._weights[name] = values
        return name


def _exact(nodes: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Tensors that something looks at which would see further channels; the nodes are in the order of running."""
    seen: set[str] = set()
    for node in reversed(nodes):
        full = node.op_type == "Conv" and _group(node) == 1
        if node.op_type not in CHANNELWISE or (not full and seen.intersection(node.output)):
            seen.update(node.input)
    return frozenset(seen)


def _group(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)
