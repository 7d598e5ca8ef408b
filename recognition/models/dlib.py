"""Dlib: the 29-convolution ResNet of dlib, run on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recognition.alignment import DLIB_TEMPLATE, chip_template, crop_square, similarity, warp
from recognition.errors import BadWeights
from recognition.formats.dlib_dat import (
    Affine,
    Convolution,
    Dense,
    Layer,
    Pooling,
    Simple,
    read_layers,
)
from recognition.landmarks import FIVE_POINTS, LandmarkPredictor
from recognition.runtime import Session
from recognition.spec import ModelSpec, Resources, Threshold
from recognition.types import Align, Detection, Embeddings, Metric, Rgb
from recognition.weights import Weights

T = TypeVar("T")

SIDE = 150
DIMENSION = 128
MEAN = np.array([122.782, 117.001, 104.298], np.float32)
SCALE = 256.0
OPSET = 17
PADDING = 0.25
BLOCK = 32
GRAPH = "dlib_face_recognition_resnet_model_v1-1.onnx"
"""Raise its number with every change of the graph."""


@dataclass(frozen=True, slots=True)
class Map:
    """A tensor of the graph: `channels` square maps of `side` pixels."""

    name: str
    channels: int
    side: int


class Graph:
    """Collects the nodes of the ONNX graph while it follows the maps' sizes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def convolve(self, x: Map, layer: Convolution, affine: Affine) -> Map:
        """A convolution with the affine layer behind it folded in."""
        filters, channels, size, _ = layer.weights.shape
        if channels != x.channels or affine.scale.size != filters:
            raise BadWeights("the layers of the network do not fit each other")
        weights = layer.weights * affine.scale[:, None, None, None]
        bias = layer.bias * affine.scale + affine.shift
        name = self.add(
            "Conv",
            [x.name, self.constant(weights), self.constant(bias)],
            kernel_shape=[size, size],
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
        )
        return Map(name, filters, (x.side + 2 * layer.padding - size) // layer.stride + 1)

    def relu(self, x: Map) -> Map:
        return replace(x, name=self.add("Relu", [x.name]))

    def pool(self, x: Map, layer: Pooling) -> Map:
        if layer.size == 0:
            return Map(self.add("GlobalAveragePool", [x.name]), x.channels, 1)
        name = self.add(
            "MaxPool" if layer.kind == "max" else "AveragePool",
            [x.name],
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
        )
        return Map(name, x.channels, (x.side + 2 * layer.padding - layer.size) // layer.stride + 1)

    def join(self, a: Map, b: Map) -> Map:
        """The sum; the smaller map is filled up with zeros behind, in every direction."""
        channels, side = max(a.channels, b.channels), max(a.side, b.side)
        names = [self._fill(x, channels, side) for x in (a, b)]
        return Map(self.add("Add", names), channels, side)

    def _fill(self, x: Map, channels: int, side: int) -> str:
        if (x.channels, x.side) == (channels, side):
            return x.name
        more = side - x.side
        pads = np.array([0, 0, 0, 0, 0, channels - x.channels, more, more], np.int64)
        return self.add("Pad", [x.name, self.constant(pads)])


def convert(paths: Sequence[Path]) -> bytes:
    """The serialized network as an ONNX graph: (n, 150, 150, 3) uint8 RGB to (n, 128) float32.

    Raises BadWeights.
    """
    layers = read_layers(paths[0].read_bytes())
    graph = Graph()
    pixels = graph.add("Cast", ["images"], to=TensorProto.FLOAT)
    x = Map(graph.add("Transpose", [pixels], perm=[0, 3, 1, 2]), 3, SIDE)
    try:
        embedding = _network(graph, x, layers)
    except (IndexError, AttributeError, StopIteration) as error:
        raise BadWeights("the layers of the network are not in the order expected") from error
    graph.nodes.append(helper.make_node("Identity", [embedding], ["embeddings"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "dlib_resnet",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", DIMENSION])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _network(graph: Graph, x: Map, layers: Sequence[Layer]) -> str:
    """The stem, residual blocks up to the last pooling, and the dense layer."""
    rest = iter(layers)
    first = _expect(next(rest), Convolution)
    x = graph.relu(graph.convolve(x, _normalising(first), _expect(next(rest), Affine)))
    _expect_kind(next(rest), "relu_")
    x = graph.pool(x, _expect(next(rest), Pooling))
    layer = next(rest)
    while isinstance(layer, Convolution):
        x = _block(graph, x, layer, rest)
        layer = next(rest)
    x = graph.pool(x, _expect(layer, Pooling))
    weights = _expect(next(rest), Dense).weights
    if weights.shape != (x.channels, DIMENSION):
        raise BadWeights("the last layer does not give 128 numbers")
    flat = graph.add("Flatten", [x.name])
    return graph.add("MatMul", [flat, graph.constant(weights)])


def _block(graph: Graph, x: Map, first: Convolution, rest: Iterator[Layer]) -> Map:
    """Two convolutions beside a shortcut, which a block that halves its map averages."""
    y = graph.relu(graph.convolve(x, first, _expect(next(rest), Affine)))
    _expect_kind(next(rest), "relu_")
    second = _expect(next(rest), Convolution)
    y = graph.convolve(y, second, _expect(next(rest), Affine))
    layer = next(rest)
    if isinstance(layer, Pooling):
        x = graph.pool(x, layer)
        layer = next(rest)
    _expect_kind(layer, "add_prev_")
    _expect_kind(next(rest), "relu_")
    return graph.relu(graph.join(y, x))


def _normalising(layer: Convolution) -> Convolution:
    """The first convolution for pixels 0..255: it has no padding, so their mean folds into it."""
    weights = layer.weights / SCALE
    bias = layer.bias - (weights * MEAN[None, :, None, None]).sum(axis=(1, 2, 3))
    return replace(layer, weights=weights, bias=bias.astype(np.float32))


def _expect(layer: Layer, kind: type[T]) -> T:
    if not isinstance(layer, kind):
        raise BadWeights(f"a {kind.__name__.lower()} layer is not where it should be")
    return layer


def _expect_kind(layer: Layer, kind: str) -> None:
    if _expect(layer, Simple).kind != kind:
        raise BadWeights(f"a {kind} layer is not where it should be")


class DlibEmbedder:
    """Embeds 150-pixel chips; batches are cut into blocks of one size."""

    def __init__(self, session: Session, predictor: LandmarkPredictor) -> None:
        self._session = session
        self._predictor = predictor
        self._template = chip_template(DLIB_TEMPLATE, SIDE, PADDING)

    def crop(self, image: Rgb, face: Detection, align: Align) -> Rgb:
        if align == "none":
            return crop_square(image, face.box, SIDE)
        points = self._predictor.five(image, face.box)
        return warp(image, similarity(points, self._template), SIDE)

    def embed(self, crops: Sequence[Rgb]) -> Embeddings:
        blocks = [
            self._session(np.stack(crops[at : at + BLOCK]))[0] for at in range(0, len(crops), BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, DIMENSION), np.float32)


def build(resources: Resources) -> DlibEmbedder:
    resources.weights.ensure([RESNET, FIVE_POINTS])
    path = resources.weights.derived(GRAPH, [RESNET], convert)
    session = resources.runtime.session(path, outputs=("embeddings",))
    return DlibEmbedder(session, LandmarkPredictor.build(resources))


RESNET = Weights(
    name="dlib_face_recognition_resnet_model_v1.dat",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    licence="CC0-1.0",
    origin="dlib-models by Davis King",
    package="face-recognition-models==0.3.0",
    member="models/dlib_face_recognition_resnet_model_v1.dat",
    sdist=True,
)


def _provisional() -> dict[Metric, Threshold]:
    values: dict[Metric, float] = {
        "cosine": 0.07,
        "euclidean": 0.6,
        "euclidean_l2": 0.4,
        "angular": 0.12,
    }
    return {
        metric: Threshold(metric=metric, value=value, data="provisional", accuracy=0.0)
        for metric, value in values.items()
    }


SPECS = (
    ModelSpec(
        name="Dlib",
        summary="dlib's 29-convolution ResNet",
        licence="CC0-1.0",
        origin="dlib-models by Davis King; 99.38 % on LFW as declared there",
        dimension=DIMENSION,
        input_size=(SIDE, SIDE),
        version=1,
        weights=(RESNET, FIVE_POINTS),
        build=build,
        thresholds=MappingProxyType({"": _provisional()}),
    ),
)
