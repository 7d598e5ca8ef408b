"""Networks with their channels filled up: the same numbers, and what cannot be filled up refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recognition.errors import BadWeights
from recognition.formats.lanes import widen
from recognition.runtime import Runtime

SHAPE = (2, 3, 12, 10)
DICE = np.random.default_rng(5)


def conv(source: str, target: str, channels: tuple[int, int], group: int = 1) -> onnx.NodeProto:
    side = 3 if group > 1 else 1
    return helper.make_node(
        "Conv", [source, f"{target}.w", f"{target}.b"], [target], name=f"{channels[0]} {channels[1]}",
        group=group, kernel_shape=[side, side], pads=[side // 2] * 4,
    )  # fmt: skip


def pad(source: str, target: str, amount: int) -> onnx.NodeProto:
    return helper.make_node("Pad", [source, f"{target}.p"], [target], name=str(amount))


def network(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Nodes from x to y, with random weights of the shapes that their names tell."""
    weights = []
    for node in nodes:
        if node.op_type == "Conv":
            out, inner = map(int, node.name.split())
            side = 3 if inner == 1 else 1
            for name, shape in ((node.input[1], (out, inner, side, side)), (node.input[2], (out,))):
                values = DICE.normal(size=shape).astype(np.float32)
                weights.append(numpy_helper.from_array(values, name))
        elif node.op_type == "Pad":
            amounts = np.array([0, 0, 0, 0, 0, int(node.name), 0, 0])
            weights.append(numpy_helper.from_array(amounts, node.input[1]))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "h", "w", "c"])
    graph = helper.make_graph(list(nodes), "network", [image], [answer], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def answer(model: onnx.ModelProto, folder: Path) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    return Runtime(1).session(path)(x)[0]


def blocks() -> onnx.ModelProto:
    """What BlazeFace is made of: a residual of more channels, a pooled one, and rows at the end."""
    return network(
        conv("x", "a", (6, 3)),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("b", "c", (6, 1), group=6),
        conv("c", "d", (7, 6)),
        pad("b", "e", 1),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("MaxPool", ["f"], ["g"], kernel_shape=[2, 2], strides=[2, 2]),
        pad("g", "h", 4),
        conv("h", "i", (11, 11)),
        helper.make_node("Add", ["i", "h"], ["j"]),
        conv("j", "k", (5, 11)),
        helper.make_node("Transpose", ["k"], ["y"], perm=[0, 2, 3, 1]),
    )


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_the_numbers_stay_the_same(lanes: int, tmp_path: Path):
    model = blocks()
    expected = answer(model, tmp_path)
    assert expected.shape == (2, 6, 5, 5)
    np.testing.assert_allclose(answer(widen(model, lanes), tmp_path), expected, rtol=0, atol=1e-4)


def test_channels_come_in_whole_blocks_but_for_the_last():
    wide = widen(blocks(), 8)
    weights = {w.name: tuple(w.dims) for w in wide.graph.initializer}
    kernels = [weights[n.input[1]] for n in wide.graph.node if n.op_type == "Conv"]
    # a, c, d; the Pad to 11 channels, for which 8 have no room; i; and k, whose channels are seen.
    assert [k[:2] for k in kernels] == [(8, 3), (8, 1), (8, 8), (16, 8), (16, 16), (5, 16)]
    assert all(n.op_type != "Pad" for n in wide.graph.node)


def test_what_is_seen_through_an_addition_keeps_its_channels(tmp_path: Path):
    model = network(
        conv("x", "a", (5, 3)),
        helper.make_node("Relu", ["a"], ["b"]),
        conv("b", "c", (5, 1), group=5),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 3, 1]),
    )
    expected = answer(model, tmp_path)
    np.testing.assert_allclose(answer(widen(model, 8), tmp_path), expected, rtol=0, atol=1e-4)


def test_seen_and_unseen_channels_are_not_added():
    model = network(
        conv("x", "a", (5, 3)),
        conv("x", "b", (5, 3)),
        helper.make_node("Add", ["a", "b"], ["c"]),
        conv("c", "d", (4, 5)),
        helper.make_node("Transpose", ["a"], ["e"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 3, 1]),
    )
    with pytest.raises(BadWeights, match="unlike widths"):
        widen(model, 8)
