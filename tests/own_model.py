"""A network made in a moment, and the file that describes it: what somebody brings along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIMENSION = 64
TOML = """\
name = "{name}"
summary = "Cells of the face, projected"
licence = "CC0-1.0"
weights = "{weights}"
dimension = {dimension}
mirrored = true

[input]
size = [112, 112]
colour = "rgb"
layout = "nchw"
mean = 127.5
std = 128.0
template = "arcface"

[thresholds]
cosine = {{ value = {threshold}, accuracy = 0.75, slope = 9.0, data = "made up" }}
"""


def graph(seed: int, batch: int | str = "n", dimension: int = DIMENSION) -> onnx.ModelProto:
    """Means of 14 x 14 cells of (batch, 3, 112, 112), times a seeded matrix: (batch, dimension)."""
    matrix = np.random.default_rng(seed).normal(size=(192, dimension)).astype(np.float32)
    nodes = [
        helper.make_node(
            "AveragePool", ["data"], ["cells"], kernel_shape=[14, 14], strides=[14, 14]
        ),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def write(folder: Path, name: str = "Tiny", seed: int = 1, *, threshold: float = 0.2) -> Path:
    """The graph and the file beside it; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = f"{name.lower()}.onnx"
    onnx.save(graph(seed), folder / weights)
    path = folder / f"{name.lower()}.toml"
    path.write_text(
        TOML.format(name=name, weights=weights, dimension=DIMENSION, threshold=threshold)
    )
    return path
