"""The YOLO family: preparation and decoding against what Ultralytics made of the same outputs (proof/yolo.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from recognition.detectors import yolo
from recognition.errors import BadWeights, WeightsMissing
from recognition.runtime import Runtime, Session, Tensor
from recognition.spec import Resources
from recognition.weights import WeightsCache

RECORDED = json.loads((Path(__file__).parent / "canonical" / "yolo.json").read_text())
DYNAMIC = ("batch", 3, "height", "width")


class Played(Session):
    """A session that gives recorded outputs, one for each image of a batch."""

    def __init__(self, outputs: Sequence[Tensor], shape: tuple[int | str, ...] = DYNAMIC) -> None:
        self.shape = shape
        self.seen: list[Tensor] = []
        self._outputs = list(outputs)

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        self.seen.append(tensor)
        return [np.stack([self._outputs.pop(0) for _ in tensor])]


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def cells(*rows: Sequence[float]) -> Tensor:
    """(numbers, n): an output with these cells."""
    return np.array(rows, np.float32).T


def corners(face: yolo.Detection) -> list[float]:
    return [face.box.x, face.box.y, face.box.x + face.box.w, face.box.y + face.box.h]


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: f"{c['network']}-{c['way']}")
def test_finds_what_ultralytics_finds_in_the_same_output(case: dict[str, Any]):
    fixed = DYNAMIC if case["way"] == "dynamic" else (1, 3, 640, 640)
    session = Played([np.array(case["output"], np.float32)], fixed)
    (faces,) = yolo.Yolo(session).detect([grey(*case["photograph"])])
    assert session.seen[0].shape == tuple(case["input"])
    assert len(faces) == len(case["faces"]) > 5
    for face, reference in zip(faces, case["faces"], strict=True):
        assert corners(face) == pytest.approx(reference["corners"], abs=0.01)
        assert face.score == pytest.approx(reference["score"], abs=1e-5)
        if reference["points"] is None:
            assert face.landmarks is None
        else:
            assert face.landmarks == pytest.approx(np.array(reference["points"]), abs=0.01)


def test_the_canvas_is_the_least_multiple_of_the_stride_with_grey_around():
    canvas = yolo.letterbox(grey(100, 333), (640, 640), 32)
    assert canvas.pixels.shape == (192, 640, 3)
    assert (canvas.pixels == 200).all(axis=(1, 2)).sum() == 192
    canvas = yolo.letterbox(grey(333, 90), (640, 640), 32)
    assert canvas.pixels.shape == (640, 192, 3)
    assert (canvas.pixels[0, :, 0] == [114] * 9 + [200] * 173 + [114] * 10).all()
    assert canvas.offset.tolist() == [9, 0]
    assert canvas.scale == pytest.approx([173 / 90, 640 / 333])
    whole = yolo.letterbox(grey(333, 90), (640, 640))
    assert whole.pixels.shape == (640, 640, 3)
    assert whole.offset.tolist() == [233, 0]


def test_the_network_sees_red_green_blue_in_0_to_1():
    image = np.zeros((320, 320, 3), np.uint8)
    image[..., 0], image[..., 1] = 255, 51
    session = Played([np.zeros((5, 4), np.float32)])
    yolo.Yolo(session).detect([image])
    (tensor,) = session.seen
    assert (tensor.shape, tensor.dtype) == ((1, 3, 640, 640), np.float32)
    assert tensor[0, :, 100, 100] == pytest.approx([1, 0.2, 0])


def test_boxes_are_the_images_and_the_better_of_two_stays():
    output = cells(
        (320, 320, 100, 200, 0.5),
        (324, 320, 100, 200, 0.9),
        (100, 100, 60, 60, 0.26),
        (9, 9, 9, 9, 0.25),
    )
    (faces,) = yolo.Yolo(Played([output])).detect([grey(320, 320)])
    assert [round(face.score, 2) for face in faces] == [0.9, 0.26]
    assert corners(faces[0]) == pytest.approx([137, 110, 187, 210])
    assert corners(faces[1]) == pytest.approx([35, 35, 65, 65])
    assert faces[0].landmarks is None


def test_faces_are_cut_at_the_edges_and_those_beyond_are_dropped():
    output = cells((0, 100, 40, 40, 0.9), (700, 100, 40, 40, 0.8), (630, 630, 40, 40, 0.7))
    (faces,) = yolo.Yolo(Played([output])).detect([grey(640, 640)])
    assert [corners(face) for face in faces] == [
        pytest.approx([0, 80, 20, 120]),
        pytest.approx([610, 610, 640, 640]),
    ]


def test_landmarks_with_and_without_visibility():
    points = [(200, 200), (260, 204), (230, 240), (205, 270), (700, 272)]
    seen = [v for x, y in points for v in (x, y, 0.9)]
    plain = [v for x, y in points for v in (x, y)]
    expected = np.array([(100, 100), (130, 102), (115, 120), (102.5, 135), (320, 136)])
    for numbers in (seen, plain):
        output = cells((230, 230, 120, 140, 0.8, *numbers))
        done = np.array([(170, 160, 290, 300, 0.8, 0, *numbers), (0,) * (6 + len(numbers))])
        for given in (output, done.astype(np.float32)):
            ((face,),) = yolo.Yolo(Played([given])).detect([grey(320, 320)])
            assert corners(face) == pytest.approx([85, 80, 145, 150])
            assert face.landmarks == pytest.approx(expected)
            assert face.landmarks is not None
            assert face.landmarks.dtype == np.float32


def test_a_batch_goes_by_size_and_comes_back_in_order():
    def output(x: float) -> Tensor:
        return cells((x, 100, 50, 50, 0.9))

    images = [grey(640, 640), grey(320, 640), grey(640, 640)] + [grey(640, 640)] * yolo.BATCH
    wide = [output(300)]
    square = [output(100 + 10 * i) for i in range(2 + yolo.BATCH)]
    session = Played([*square[: yolo.BATCH], *square[yolo.BATCH :], *wide])
    found = yolo.Yolo(session).detect(images)
    assert [len(tensor) for tensor in session.seen] == [yolo.BATCH, 2, 1]
    centres = [faces[0].box.centre[0] for faces in found]
    assert centres == pytest.approx([100, 300, *(110 + 10 * i for i in range(1 + yolo.BATCH))])
    assert yolo.Yolo(Played([])).detect([]) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_of_a_fixed_size_gets_what_it_wants(batch: int, tmp_path: Path):
    """A graph that finds one face in the middle of everything, run by ONNX Runtime."""
    face = np.array([[[160], [160], [64], [64], [0.9]]] * batch, np.float32)
    constant = helper.make_node("Constant", [], ["face"], value=onnx.numpy_helper.from_array(face))
    zero = helper.make_node("ReduceMax", ["images"], ["most"], axes=[1, 2, 3], keepdims=0)
    nodes = [constant, zero, helper.make_node("Identity", ["face"], ["output0"])]
    made = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "fixed",
        [made("images", TensorProto.FLOAT, [batch, 3, 320, 320])],
        [
            made("output0", TensorProto.FLOAT, [batch, 5, 1]),
            made("most", TensorProto.FLOAT, [batch]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "fixed.onnx")
    detector = yolo.Yolo(Runtime().session(tmp_path / "fixed.onnx"))
    found = detector.detect([grey(640, 320), grey(320, 640), grey(320, 320), grey(1, 4000)])
    assert [corners(faces[0]) for faces in found[:3]] == [
        pytest.approx([96, 256, 224, 384]),
        pytest.approx([256, 96, 384, 224]),
        pytest.approx([128, 128, 192, 192]),
    ]
    assert len(found[3]) == 1


@pytest.mark.parametrize("shape", [(80, 80, 80), (7, 8400), (300, 85), (8400,)])
def test_other_outputs_are_refused(shape: tuple[int, ...]):
    with pytest.raises(BadWeights, match="not that of a face detector"):
        yolo.Yolo(Played([np.zeros(shape, np.float32)])).detect([grey(64, 64)])


def test_work_is_bounded_where_every_cell_is_a_face():
    random = np.random.default_rng(0)
    output = np.concatenate([random.uniform(0, 640, (2, 8400)), np.full((2, 8400), 8)])
    output = np.concatenate([output, random.uniform(0.3, 1, (1, 8400))]).astype(np.float32)
    (faces,) = yolo.Yolo(Played([output])).detect([grey(640, 640)])
    assert len(faces) == yolo.MOST_FACES
    scores = [face.score for face in faces]
    assert scores == sorted(scores, reverse=True)


def test_the_family_has_deepfaces_names_and_files():
    specs = {spec.name: spec for spec in yolo.SPECS}
    assert set(specs) == {
        *("yolov8n", "yolov8m", "yolov8l", "yolov11n", "yolov11s", "yolov11m", "yolov11l"),
        *("yolov12n", "yolov12s", "yolov12m", "yolov12l"),
    }
    sources = {name: spec.weights[0].source for name, spec in specs.items()}
    release = "yolo-face/releases/download/1.0.0"
    assert f"https://github.com/akanametov/{release}/yolov11s-face.pt" in sources["yolov11s"]
    assert f"https://github.com/YapaLab/{release}/yolov8l-face.pt" in sources["yolov8l"]
    assert sources["yolov12m"] == f"https://github.com/YapaLab/{release}/yolov12m-face.onnx"
    assert [name for name, spec in specs.items() if spec.landmarks] == ["yolov8n"]


def test_what_is_missing_is_told_with_the_commands_that_make_it(tmp_path: Path):
    resources = Resources(weights=WeightsCache(tmp_path), runtime=Runtime())
    specs = {spec.name: spec for spec in yolo.SPECS}
    with pytest.raises(WeightsMissing) as told:
        specs["yolov8m"].build(resources)
    release = "https://github.com/YapaLab/yolo-face/releases/download/1.0.0"
    said = ("yolov8m-face.onnx", f"{release}/yolov8m-face.pt", "pip install ultralytics")
    for part in (str(tmp_path), *said, "model=yolov8m-face.pt format=onnx"):
        assert part in str(told.value)
    resources = Resources(weights=WeightsCache(tmp_path, download=False), runtime=Runtime())
    with pytest.raises(WeightsMissing, match=r"yolov12n-face\.onnx"):
        specs["yolov12n"].build(resources)
