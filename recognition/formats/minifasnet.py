"""The two MiniFASNets as ONNX graphs, with batch normalisation folded into the layers before it.

Architecture: Silent-Face-Anti-Spoofing by Minivision (2020, Apache-2.0): a MobileFaceNet whose layers were pruned one
by one; each residual stage of the second network ends in a squeeze and excitation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats import torch_zip
from recognition.formats.graphs import FASNET_SIDE as SIDE
from recognition.formats.onnx_nodes import Nodes

Array = NDArray[np.float64]

CLASSES = 3
STEM = 32
"""Channels of the first two convolutions."""
TOP = 512
"""Channels of the last convolution, and the side of what it sees."""
TOP_SIDE = 5
FEATURES = 128
REDUCTION = 4
"""Channels over those within a squeeze and excitation."""
EPSILON = 1e-5
"""Of batch normalisation: PyTorch's default."""
OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """A block that halves the size, and the residual blocks after it; all give `out` channels.

    `entry` and `inner` are the channels within each block.
    """

    entry: int
    out: int
    inner: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    stages: tuple[Stage, ...]
    excited: bool
    """Whether residual stages end in a squeeze and excitation."""


V2 = Layout(
    "MiniFASNetV2",
    (
        Stage(103, 64, (13, 13, 13, 13)),
        Stage(231, 128, (231, 52, 26, 77, 26, 26)),
        Stage(308, 128, (26, 26)),
    ),
    excited=False,
)
V1SE = Layout(
    "MiniFASNetV1SE",
    (
        Stage(103, 64, (13, 26, 13, 52)),
        Stage(231, 128, (154, 52, 26, 52, 26, 26)),
        Stage(308, 128, (26, 26)),
    ),
    excited=True,
)
_STAGE_NAMES = (("conv_23", "conv_3"), ("conv_34", "conv_4"), ("conv_45", "conv_5"))
"""Of the halving block and the residual blocks of each stage, in the file."""


def convert(data: bytes, layout: Layout) -> bytes:
    """The serialised ONNX model of a PyTorch file; raises BadWeights.

    Input `faces`: (n, 3, 80, 80) float32 BGR in 0..255. Output `probabilities`: (n, 3) float32; class 1 is a live face.
    """
    model = _Writer(torch_zip.read(data), layout).model()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Writer(Nodes):
    """Takes each array of the file by its name, once."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self._arrays = {
            name.removeprefix("module."): array
            for name, array in arrays.items()
            if not name.endswith(".num_batches_tracked")
        }

    def model(self) -> onnx.ModelProto:
        self._network()
        if self._arrays:
            name = next(iter(self._arrays))[:80]
            raise BadWeights(f"the file holds {name!r}, which {self._layout.name} does not have")
        graph = helper.make_graph(
            self._nodes,
            self._layout.name,
            [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _network(self) -> None:
        last = self._conv("faces", "conv1", (STEM, 3, 3, 3), stride=2, active=True)
        last = self._conv(last, "conv2_dw", (STEM, 1, 3, 3), active=True)
        channels = STEM
        for stage, (entry, inner) in zip(self._layout.stages, _STAGE_NAMES, strict=True):
            last = self._block(last, entry, (channels, stage.entry, stage.out), stride=2)
            channels = stage.out
            for index, width in enumerate(stage.inner):
                name = f"{inner}.model.{index}"
                branch = self._block(last, name, (channels, width, channels))
                if self._layout.excited and index == len(stage.inner) - 1:
                    branch = self._excitation(branch, f"{name}.se_module", channels)
                last = self._node("Add", last, branch)
        last = self._conv(last, "conv_6_sep", (TOP, channels, 1, 1), active=True)
        last = self._conv(last, "conv_6_dw", (TOP, 1, TOP_SIDE, TOP_SIDE), padded=False)
        last = self._node("Flatten", last)
        last = self._dense(last, *self._folded("linear.weight", (FEATURES, TOP), "bn"))
        last = self._dense(last, self._take("prob.weight", (CLASSES, FEATURES)), np.zeros(CLASSES))
        self._node("Softmax", last, output="probabilities")

    def _block(
        self, source: str, name: str, channels: tuple[int, int, int], *, stride: int = 1
    ) -> str:
        """Pointwise, depthwise, pointwise; `channels` before, within and after. The last is linear."""
        before, within, after = channels
        last = self._conv(source, f"{name}.conv", (within, before, 1, 1), active=True)
        last = self._conv(last, f"{name}.conv_dw", (within, 1, 3, 3), stride=stride, active=True)
        return self._conv(last, f"{name}.project", (after, within, 1, 1))

    def _excitation(self, source: str, name: str, channels: int) -> str:
        """Channels weighed by what all positions show together."""
        few = channels // REDUCTION
        last = self._node("GlobalAveragePool", source)
        last = self._weighed(
            last, self._folded(f"{name}.fc1.weight", (few, channels, 1, 1), f"{name}.bn1")
        )
        last = self._node("Relu", last)
        last = self._weighed(
            last, self._folded(f"{name}.fc2.weight", (channels, few, 1, 1), f"{name}.bn2")
        )
        return self._node("Mul", source, self._node("Sigmoid", last))

    def _conv(
        self,
        source: str,
        name: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int = 1,
        padded: bool = True,
        active: bool = False,
    ) -> str:
        """A convolution with its normalisation, then PReLU where `active`; depthwise where it has one channel in.

        `shape` is (out, in, height, width).
        """
        around = (shape[2] // 2 if padded else 0,) * 4
        options = {
            "pads": around,
            "strides": (stride, stride),
            "group": shape[0] if shape[1] == 1 else 1,
        }
        folded = self._folded(f"{name}.conv.weight", shape, f"{name}.bn")
        last = self._weighed(source, folded, options)
        if not active:
            return last
        slopes = self._take(f"{name}.prelu.weight", shape[:1]).reshape(-1, 1, 1)
        return self._node("PRelu", last, self._floats(slopes))

    def _weighed(
        self, source: str, folded: tuple[Array, Array], options: Mapping[str, Any] | None = None
    ) -> str:
        return self._node("Conv", source, *map(self._floats, folded), options=options)

    def _dense(self, source: str, weights: Array, bias: Array) -> str:
        """`weights` is (out, in)."""
        constants = self._floats(weights), self._floats(bias)
        return self._node("Gemm", source, *constants, options={"transB": 1})

    def _folded(self, name: str, shape: tuple[int, ...], normalisation: str) -> tuple[Array, Array]:
        """Weights without bias and the normalisation after them, as weights and bias."""
        weights = self._take(name, shape)
        scale, shift, mean, variance = (
            self._take(f"{normalisation}.{part}", shape[:1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        if variance.min() < 0:
            raise BadWeights(f"a variance of {normalisation} is negative")
        factor = scale / np.sqrt(variance + EPSILON)
        return weights * factor.reshape(-1, *[1] * (len(shape) - 1)), shift - mean * factor

    def _take(self, name: str, shape: tuple[int, ...]) -> Array:
        array = self._arrays.pop(name, None)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise BadWeights(
                f"the file has {found} where {self._layout.name} has float32 {shape} as {name}"
            )
        return array.astype(np.float64)

    def _floats(self, values: Array) -> str:
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if not np.isfinite(single).all():
            raise BadWeights(f"weights of {self._layout.name} are not finite, or too large")
        return self._constant(single)
