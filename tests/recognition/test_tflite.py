"""The TensorFlow Lite converter: same numbers as TensorFlow's interpreter, and damaged files refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tflite
from numpy.typing import NDArray
from PIL import Image

from recognition.detectors import mediapipe
from recognition.detectors.mediapipe import Network
from recognition.errors import BadWeights
from recognition.formats import tflite_onnx
from recognition.runtime import Runtime, Session
from recognition.spec import Resources

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "blazeface.json").read_text())
NETWORKS = {"short": mediapipe.SHORT, "full": mediapipe.FULL, "back": mediapipe.BACK}


def waves(size: int) -> NDArray[np.float32]:
    y, x, c = np.indices((size, size, 3))
    return np.sin(0.11 * x * (1 + c) + 0.07 * y).astype(np.float32)


def thinned(data: bytes, size: int) -> NDArray[np.float32]:
    """Every k-th pixel of the picture's upper part, in -1..1."""
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)
    step = min(image.shape[:2]) // size
    return image[: size * step : step, : size * step : step] / 127.5 - 1


def source(resources: Resources, network: Network) -> bytes:
    return resources.weights.path(network.weights).read_bytes()


def session(resources: Resources, network: Network, folder: Path, lanes: int = 1) -> Session:
    path = folder / "network.onnx"
    path.write_bytes(tflite_onnx.convert(source(resources, network), lanes))
    return Runtime(threads=1).session(path, network.outputs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("lanes", [1, 8, 16])
def test_gives_the_numbers_of_the_reference_interpreter(
    name: str, lanes: int, resources: Resources, portraits: dict[str, bytes], tmp_path: Path
):
    network, expected = NETWORKS[name], CANONICAL[name]["raw"]
    run = session(resources, network, tmp_path, lanes)
    inputs = {
        "waves": waves(network.size),
        "obama.jpg": thinned(portraits["obama.jpg"], network.size),
    }
    for key, image in inputs.items():
        boxes, scores = (out[0] for out in run(image[None]))
        rows = expected[key]["rows"]
        np.testing.assert_allclose(boxes[rows], expected[key]["regressors"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores[rows, 0], expected[key]["scores"], rtol=0, atol=1e-3)
        means, spreads = [boxes.mean(), scores.mean()], [boxes.std(), scores.std()]
        np.testing.assert_allclose(means, expected[key]["mean"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(spreads, expected[key]["std"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_give_the_numbers_of_their_values(
    name: str, resources: Resources, portraits: dict[str, bytes], tmp_path: Path
):
    network = NETWORKS[name]
    values = thinned(portraits["obama.jpg"], network.size)[None]
    pixels = np.rint((values + 1) * 127.5).astype(np.uint8)
    path = tmp_path / "pixels.onnx"
    path.write_bytes(tflite_onnx.convert(source(resources, network), pixels=True))
    found = Runtime(threads=1).session(path, network.outputs)(pixels)
    for ours, expected in zip(found, session(resources, network, tmp_path)(values), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_gives_what_its_images_give_alone(name: str, resources: Resources, tmp_path: Path):
    network = NETWORKS[name]
    run = session(resources, network, tmp_path)
    images = np.stack([waves(network.size) * factor for factor in (1, -0.5, 0.2)])
    together = run(images)
    for i in range(3):
        for whole, alone in zip(together, run(images[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_transposes_stand_at_the_ends_of_the_graph_only(name: str, resources: Resources):
    graph = onnx.load_from_string(tflite_onnx.convert(source(resources, NETWORKS[name]))).graph
    turned = [node for node in graph.node if node.op_type == "Transpose"]
    assert turned[0].input[0] == graph.input[0].name
    followers = {name: node.op_type for node in graph.node for name in node.input}
    assert {followers[node.output[0]] for node in turned[1:]} == {"Reshape"}


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (128, 5, 2, (1, 2)),
        (64, 3, 2, (0, 1)),
        (15, 3, 2, (1, 1)),
        (64, 3, 1, (1, 1)),
        (64, 2, 2, (0, 0)),
        (7, 1, 2, (0, 0)),
    ],
)
def test_same_padding_puts_the_odd_zero_at_the_end(
    size: int, kernel: int, stride: int, pads: tuple[int, int]
):
    assert tflite_onnx.same_padding(size, kernel, stride) == pads


@pytest.mark.parametrize(
    "data",
    [b"", b"TFL3", bytes(64), b"\xff" * 64, b"\x1c\0\0\0TFL3" + bytes(200), b"not a network" * 9],
)
def test_what_is_no_network_is_refused(data: bytes):
    with pytest.raises(BadWeights):
        tflite_onnx.convert(data)


def test_truncated_files_are_refused(resources: Resources):
    data = source(resources, mediapipe.SHORT)
    for end in range(0, len(data) - 1000, len(data) // 40):
        with pytest.raises(BadWeights):
            tflite_onnx.convert(data[:end])


def test_an_operator_that_is_not_known_is_refused(resources: Resources):
    data = bytearray(source(resources, mediapipe.SHORT))
    table = tflite.Model.GetRootAsModel(data, 0).OperatorCodes(0)._tab
    data[table.Pos + table.Offset(4)] = tflite.BuiltinOperator.LOGISTIC
    with pytest.raises(BadWeights, match="operator 14 is not known"):
        tflite_onnx.convert(bytes(data))


def test_damaged_files_are_refused_or_converted_but_never_anything_else(resources: Resources):
    whole = source(resources, mediapipe.SHORT)
    dice, refused = np.random.default_rng(11), 0
    for count in dice.choice((1, 3, 10), 400):
        data = bytearray(whole)
        # The tables lie at the file's ends, the weights between them.
        for _ in range(count):
            at = dice.choice((dice.integers(300), len(data) - 1 - dice.integers(40_000)))
            data[at] = dice.choice((0, 127, 128, 255, dice.integers(256)))
        try:
            tflite_onnx.convert(bytes(data))
        except BadWeights:
            refused += 1
    assert refused > 100
