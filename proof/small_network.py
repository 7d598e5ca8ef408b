"""A small convolutional network with seeded weights, with the input and output of the large ones it stands in for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = ((3, 16), (16, 32), (32, 64))
"""Channels in and out of convolutions of 3 x 3 in steps of two."""


def save(path: Path, dimension: int, batch: int | str, scale: float) -> None:
    """(batch, 3, 112, 112) named data, times `scale`, to (batch, dimension)."""
    random = np.random.default_rng(dimension)
    arrays = {"scale": np.full(1, scale, np.float32)}
    nodes = [helper.make_node("Mul", ["data", "scale"], ["x0"])] if scale != 1 else []
    last = "x0" if scale != 1 else "data"
    for number, (inner, outer) in enumerate(LAYERS, 1):
        spread = math.sqrt(2 / (9 * inner))
        arrays[f"w{number}"] = random.normal(0, spread, (outer, inner, 3, 3)).astype(np.float32)
        arrays[f"b{number}"] = random.normal(0, 0.1, outer).astype(np.float32)
        taken = [last, f"w{number}", f"b{number}"]
        nodes += [
            helper.make_node(
                "Conv", taken, [f"c{number}"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
            ),
            helper.make_node("Relu", [f"c{number}"], [f"x{number}"]),
        ]
        last = f"x{number}"
    arrays["out"] = random.normal(0, 1 / 112, (14 * 14 * 64, dimension)).astype(np.float32)
    arrays["bias"] = np.zeros(dimension, np.float32)
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", "out", "bias"], ["fc1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, dimension])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items() if n != "scale" or scale != 1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
