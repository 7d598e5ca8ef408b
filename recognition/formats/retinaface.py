"""RetinaFace with a ResNet-50 as an ONNX graph, from the Keras weights of the retina-face package.

Architecture: J. Deng et al., RetinaFace: Single-stage Dense Face Localisation in the Wild (2019), in the form of
InsightFace's R50 network: ResNet-50 with activation before convolution (K. He et al. 2016), three levels of features,
and a context module (M. Najibi et al., SSH, 2017) with three heads on each.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats import keras_h5
from recognition.formats.graphs import RETINAFACE_LEVELS as LEVELS
from recognition.formats.graphs import RETINAFACE_OUTPUTS as OUTPUTS
from recognition.formats.onnx_nodes import Nodes

Array = NDArray[np.float32]
Shapes = tuple[tuple[int, ...], ...]

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Channels inside a residual unit, and units, of each stage."""
EXPANSION = 4
"""Channels of a unit's output over those inside it."""
FEATURES = 256
"""Channels of each level."""
HEADS = (("cls_score", 4), ("bbox_pred", 8), ("landmark_pred", 20))
EPSILON = 2e-5
"""Of batch normalisation."""
OPSET = 17
IR_VERSION = 8


def convert(data: bytes) -> bytes:
    """The serialised ONNX model of a Keras HDF5 file; raises BadWeights.

    Input `data`: (n, height, width, 3) float32 RGB in 0..255. Outputs for each of the strides 32, 16, 8, and two
    anchors per cell: (n, rows, columns, 4) probabilities: of background for both anchors, then of a face for both;
    (n, rows, columns, 8) box offsets; (n, rows, columns, 20) landmark offsets.
    """
    layers = {layer.name: layer.arrays for layer in keras_h5.read(data)}
    for name, expected in shapes().items():
        found = tuple(array.shape for array in layers.get(name, ()))
        if found != expected:
            raise BadWeights(f"layer {name} of RetinaFace has arrays {expected}, not {found}")
    model = _Writer(layers).model()
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def shapes() -> dict[str, Shapes]:
    """The arrays of each layer that has weights: kernels are (height, width, in, out), then biases."""
    found = {"bn_data": _norm(3), "conv0": _kernel(7, 3, 64), "bn0": _norm(64)}
    channels = 64
    for stage, (inside, units) in enumerate(STAGES, 1):
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}"
            found |= _unit_shapes(name, channels, inside, shortcut=unit == 1)
            channels = inside * EXPANSION
    found["bn1"] = _norm(channels)
    lateral = (("c3_lateral", channels), ("c2_lateral", 512), ("m1_red_conv", 256))
    for name, width in lateral:
        found |= _convolution_shapes(f"ssh_{name}", 1, width, FEATURES)
    for name in ("c2_aggr", "c1_aggr"):
        found |= _convolution_shapes(f"ssh_{name}", 3, FEATURES, FEATURES)
    half = FEATURES // 2
    for module, stride in LEVELS:
        found |= _convolution_shapes(f"ssh_{module}_det_conv1", 3, FEATURES, FEATURES)
        found |= _convolution_shapes(f"ssh_{module}_det_context_conv1", 3, FEATURES, half)
        for name in ("conv2", "conv3_1", "conv3_2"):
            found |= _convolution_shapes(f"ssh_{module}_det_context_{name}", 3, half, half)
        for kind, width in HEADS:
            found[f"face_rpn_{kind}_stride{stride}"] = (*_kernel(1, 2 * FEATURES, width), (width,))
    return found


def _unit_shapes(name: str, channels: int, inside: int, *, shortcut: bool) -> dict[str, Shapes]:
    out = inside * EXPANSION
    found = {
        f"{name}_bn1": _norm(channels),
        f"{name}_conv1": _kernel(1, channels, inside),
        f"{name}_bn2": _norm(inside),
        f"{name}_conv2": _kernel(3, inside, inside),
        f"{name}_bn3": _norm(inside),
        f"{name}_conv3": _kernel(1, inside, out),
    }
    return found | ({f"{name}_sc": _kernel(1, channels, out)} if shortcut else {})


def _convolution_shapes(name: str, side: int, channels: int, out: int) -> dict[str, Shapes]:
    """Of a convolution with bias and the normalisation after it."""
    return {name: (*_kernel(side, channels, out), (out,)), f"{name}_bn": _norm(out)}


def _kernel(side: int, channels: int, out: int) -> Shapes:
    return ((side, side, channels, out),)


def _norm(channels: int) -> Shapes:
    return ((channels,),) * 4


class _Writer(Nodes):
    """Values are (n, channels, height, width) between the two transpositions."""

    def __init__(self, layers: Mapping[str, tuple[Array, ...]]) -> None:
        super().__init__()
        self._layers = layers

    def model(self) -> onnx.ModelProto:
        pixels = self._node("Transpose", "data", options={"perm": (0, 3, 1, 2)})
        for (module, stride), level in zip(LEVELS, self._levels(pixels), strict=True):
            self._heads(self._context(f"ssh_{module}_det", level), stride)
        floats = TensorProto.FLOAT
        widths = {"cls_prob": 4, "bbox": 8, "landmark": 20}
        graph = helper.make_graph(
            self._nodes,
            "retinaface",
            [helper.make_tensor_value_info("data", floats, ["n", "height", "width", 3])],
            [
                helper.make_tensor_value_info(
                    name,
                    floats,
                    ["n", f"rows_{name}", f"columns_{name}", widths[name.rpartition("_")[0]]],
                )
                for name in OUTPUTS
            ],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _levels(self, pixels: str) -> tuple[str, str, str]:
        """Features at strides 32, 16 and 8; those of the coarser levels are added to the finer ones."""
        last = self._relu(self._norm("bn0", self._conv("conv0", self._norm("bn_data", pixels), 2)))
        # Padded with what never wins: after an activation that does what the original's zeros do.
        pool = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
        last = self._node("MaxPool", last, options=pool)
        inner: list[str] = []
        for stage, (_, units) in enumerate(STAGES, 1):
            for unit in range(1, units + 1):
                stride = 2 if stage > 1 and unit == 1 else 1
                last, branch = self._unit(f"stage{stage}_unit{unit}", last, stride)
                inner += [branch] if unit == 1 else []
        c3 = self._feature("ssh_c3_lateral", self._relu(self._norm("bn1", last)))
        c2 = self._feature("ssh_c2_lateral", inner[3])
        c2 = self._feature("ssh_c2_aggr", self._node("Add", c2, self._doubled(c3, c2)))
        c1 = self._feature("ssh_m1_red_conv", inner[2])
        c1 = self._feature("ssh_c1_aggr", self._node("Add", c1, self._doubled(c2, c1)))
        return c3, c2, c1

    def _unit(self, name: str, source: str, stride: int) -> tuple[str, str]:
        """A bottleneck's sum, and its values before the 3 x 3 convolution, where the level's features are taken."""
        first = self._relu(self._norm(f"{name}_bn1", source))
        branch = self._relu(self._norm(f"{name}_bn2", self._conv(f"{name}_conv1", first)))
        last = self._conv(f"{name}_conv2", branch, stride)
        last = self._conv(f"{name}_conv3", self._relu(self._norm(f"{name}_bn3", last)))
        if f"{name}_sc" in self._layers:
            source = self._conv(f"{name}_sc", first, stride)
        return self._node("Add", last, source), branch

    def _doubled(self, source: str, like: str) -> str:
        """Twice the size, cut to that of `like`: an odd size was rounded up when it was halved."""
        scales = self._constant(np.array([1, 1, 2, 2], np.float32))
        nearest = {
            "mode": "nearest",
            "nearest_mode": "floor",
            "coordinate_transformation_mode": "asymmetric",
        }
        twice = self._node("Resize", source, "", scales, options=nearest)
        size = self._node("Shape", like, options={"start": 2, "end": 4})
        start, axes = self._constant(np.array([0, 0])), self._constant(np.array([2, 3]))
        return self._node("Slice", twice, start, size, axes)

    def _context(self, name: str, source: str) -> str:
        """Three fields of view, side by side: (n, 512, height, width)."""
        near = self._normalised(f"{name}_conv1", source)
        shared = self._feature(f"{name}_context_conv1", source)
        middle = self._normalised(f"{name}_context_conv2", shared)
        far = self._feature(f"{name}_context_conv3_1", shared)
        far = self._normalised(f"{name}_context_conv3_2", far)
        return self._relu(self._node("Concat", near, middle, far, options={"axis": 1}))

    def _heads(self, source: str, stride: int) -> None:
        scores, boxes, landmarks = (
            self._conv(f"face_rpn_{kind}_stride{stride}", source) for kind, _ in HEADS
        )
        halves = self._constant(np.array([2, 2]))
        background, face = f"background_{stride}", f"face_{stride}"
        split = helper.make_node("Split", [scores, halves], [background, face], axis=1)
        self._nodes.append(split)
        # The softmax of two values is the logistic function of their difference.
        sides = [
            self._node("Sigmoid", self._node("Sub", a, b))
            for a, b in ((background, face), (face, background))
        ]
        found = (self._node("Concat", *sides, options={"axis": 1}), boxes, landmarks)
        for kind, value in zip(("cls_prob", "bbox", "landmark"), found, strict=True):
            last = {"perm": (0, 2, 3, 1)}
            self._node("Transpose", value, output=f"{kind}_stride{stride}", options=last)

    def _feature(self, name: str, source: str) -> str:
        return self._relu(self._normalised(name, source))

    def _normalised(self, name: str, source: str) -> str:
        return self._norm(f"{name}_bn", self._conv(name, source))

    def _conv(self, name: str, source: str, stride: int = 1) -> str:
        kernel, *bias = self._layers[name]
        weights = [self._constant(kernel.transpose(3, 2, 0, 1)), *map(self._constant, bias)]
        around = (kernel.shape[0] // 2,) * 4
        options = {"strides": (stride, stride), "pads": around}
        return self._node("Conv", source, *weights, options=options)

    def _norm(self, name: str, source: str) -> str:
        """ONNX Runtime folds it into a convolution before it when it loads the graph."""
        arrays = map(self._constant, self._layers[name])
        return self._node("BatchNormalization", source, *arrays, options={"epsilon": EPSILON})

    def _relu(self, source: str) -> str:
        return self._node("Relu", source)
