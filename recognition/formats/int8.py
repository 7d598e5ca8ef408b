"""A network of float32 made one of eight bits: a third of the time on processors that multiply such numbers at once.

Weights get a scale for each map and one bit less than there are: then no sum overflows on processors that add pairs in
sixteen bits, and all give the same answer. What a layer's values may be is measured beforehand; ONNX Runtime's own
quantizer does the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import onnx

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Least and greatest value of each tensor between the layers, by its name in the graph."""

LAYERS = ("Conv", "Add", "Relu", "Pad", "MaxPool", "AveragePool")
"""What runs in eight bits; input, pooling over the whole face, and the last product stay as they are."""


def convert(graph: bytes, ranges: Ranges) -> bytes:
    """The same graph, of float32 still outside, with its LAYERS in eight bits."""
    tools = importlib.import_module("onnxruntime.quantization")
    calibrate = importlib.import_module("onnxruntime.quantization.calibrate")
    quantizer = importlib.import_module("onnxruntime.quantization.qdq_quantizer").QDQQuantizer(
        onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)),
        per_channel=True,
        reduce_range=True,
        weight_qType=tools.QuantType.QInt8,
        activation_qType=tools.QuantType.QUInt8,
        tensors_range=calibrate.TensorsData(
            tools.CalibrationMethod.MinMax,
            {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
        ),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(LAYERS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made = quantizer.model.model
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))
