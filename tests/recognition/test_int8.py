"""Dlib in eight bits beside Dlib in float32, on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from recognition import registry
from recognition.formats import dlib_dat, int8
from recognition.formats.dlib_ranges import RANGES
from recognition.images import ImageLimits, decode
from recognition.models.dlib import WEIGHTS
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import METRICS, Embeddings
from recognition.verification import compare
from recognition.weights import WeightsCache

FLOAT32, INT8 = Recipe("Dlib", "mediapipe"), Recipe("Dlib_int8", "mediapipe")


@pytest.fixture(scope="module")
def recognizer(resources: Resources) -> Recognizer:
    return Recognizer(resources)


@pytest.fixture(scope="module")
def graph(weights_cache: WeightsCache) -> bytes:
    return dlib_dat.convert(weights_cache.path(WEIGHTS).read_bytes())


@pytest.fixture(scope="module")
def rows(recognizer: Recognizer, portraits: dict[str, bytes]) -> dict[str, dict[str, Embeddings]]:
    """By recipe's model and photograph: (1, 128)."""
    images = {name: decode(data, ImageLimits()) for name, data in portraits.items()}
    return {
        recipe.model: {
            name: recognizer.embeddings(
                recognizer.represent([image], recipe, Selection(1))[0], recipe
            )
            for name, image in images.items()
        }
        for recipe in (FLOAT32, INT8)
    }


def test_embeddings_are_nearly_those_of_float32(rows: dict[str, dict[str, Embeddings]]) -> None:
    for name, exact in rows["Dlib"].items():
        short = rows["Dlib_int8"][name]
        cosine = float((exact * short).sum() / np.linalg.norm(exact) / np.linalg.norm(short))
        assert 0.998 < cosine < 1, (name, cosine)


def test_the_two_men_are_told_apart(rows: dict[str, dict[str, Embeddings]]) -> None:
    found = rows["Dlib_int8"]
    for metric in METRICS:
        own = registry.MODELS["Dlib_int8"].threshold("mediapipe", metric)
        assert compare(found["obama.jpg"], found["obama2.jpg"], own).verified
        assert not compare(found["obama.jpg"], found["biden.jpg"], own).verified


def test_all_convolutions_are_of_eight_bits_with_one_to_spare(graph: bytes) -> None:
    """The sum of two products of an unsigned and such a signed number fits into sixteen bits."""
    made = onnx.load_from_string(int8.convert(graph, RANGES))
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    sources = {node.output[0]: node for node in made.graph.node}
    layers = [node for node in made.graph.node if node.op_type == "Conv"]
    assert len(layers) == 29
    for layer in layers:
        weights = stored[sources[layer.input[1]].input[0]]
        assert weights.data_type == TensorProto.INT8
        assert np.abs(numpy_helper.to_array(weights).astype(int)).max() <= 64
        assert sources[layer.input[0]].op_type == "DequantizeLinear"


def test_the_same_file_gives_the_same_graph(graph: bytes) -> None:
    assert int8.convert(graph, RANGES) == int8.convert(graph, RANGES)


def test_every_layer_has_its_range(graph: bytes) -> None:
    layers = [n for n in onnx.load_from_string(graph).graph.node if n.op_type in int8.LAYERS]
    assert {name for node in layers for name in node.output} <= set(RANGES)
    assert all(low < high for low, high in RANGES.values())


def test_wrong_ranges_are_seen(
    graph: bytes, recognizer: Recognizer, portraits: dict[str, bytes], tmp_path: Path
) -> None:
    """Values cut off at a quarter of their range change the embedding by more than the tests above let pass."""
    image = decode(portraits["obama.jpg"], ImageLimits())
    (face,) = recognizer.detect([image], "mediapipe", Selection(1))[0]
    crop = recognizer.crop(image, face, FLOAT32)[None]
    cut = {name: (low / 4, high / 4) for name, (low, high) in RANGES.items()}
    answers = []
    for name, made in (("float32", graph), ("cut", int8.convert(graph, cut))):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(made)
        answers.append(Runtime(1).session(path, ["embeddings"])(crop)[0])
    exact, wrong = answers
    assert (exact * wrong).sum() / np.linalg.norm(exact) / np.linalg.norm(wrong) < 0.99
