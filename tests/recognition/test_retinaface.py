"""RetinaFace on weights made from a seed, against the retina-face package with the same (proof/retinaface.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from proof import seeded
from recognition.detectors import retinaface as detector
from recognition.detectors.retinaface import RetinaFace, Search
from recognition.errors import BadWeights, WeightsMissing
from recognition.formats import retinaface
from recognition.formats.graphs import RETINAFACE_OUTPUTS
from recognition.images import ImageLimits, decode
from recognition.runtime import Runtime, Session
from recognition.spec import Resources
from recognition.types import Rgb
from recognition.weights import WeightsCache

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "canonical" / "retinaface.json").read_text()
)
POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


@pytest.fixture(scope="module")
def graph() -> bytes:
    arrays = seeded.retinaface(retinaface.shapes())
    return retinaface.convert(seeded.keras_file(arrays))


@pytest.fixture(scope="module")
def session(graph: bytes, tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("retinaface") / "seeded.onnx"
    path.write_bytes(graph)
    return Runtime(threads=2).session(path, RETINAFACE_OUTPUTS)


@pytest.fixture(scope="module")
def small(portraits: dict[str, bytes]) -> Rgb:
    """The photograph that the package was given."""
    file = RECORDED["photograph"].removeprefix("sample_") + ".jpg"
    every = RECORDED["every"]
    return np.ascontiguousarray(decode(portraits[file], ImageLimits())[::every, ::every])


def outputs() -> list[np.ndarray]:
    """Of an image of 64 x 96 pixels without faces."""
    shapes = [(1, 64 // s, 96 // s, n) for s in (32, 16, 8) for n in (4, 8, 20)]
    return [np.zeros(shape, np.float32) for shape in shapes]


def test_the_network_gives_what_the_packages_gives(session: Session, small: Rgb):
    found = session(small[None].astype(np.float32))
    assert len(found) == len(RECORDED["outputs"])
    for ours, theirs in zip(found, RECORDED["outputs"], strict=True):
        assert list(ours.shape) == theirs["shape"]
        assert ours.ravel()[:: theirs["step"]] == pytest.approx(theirs["values"], abs=1e-4)


def test_finds_what_the_package_finds(session: Session, small: Rgb):
    height, width = small.shape[:2]
    search = Search(
        shorter=min(height, width), longer=max(height, width), min_score=RECORDED["threshold"]
    )
    (faces,) = RetinaFace(session, search).detect([small])
    expected = [f for f in RECORDED["faces"] if _inside(f["facial_area"])]
    faces = tuple(f for f in faces if _inside(_corners(f)))
    assert len(faces) == len(expected) > 20
    for face, reference in zip(faces, expected, strict=True):
        assert face.score == pytest.approx(reference["score"], abs=1e-4)
        assert np.trunc(_corners(face)) == pytest.approx(reference["facial_area"], abs=1)
        points = [reference["landmarks"][name] for name in POINTS]
        assert face.landmarks == pytest.approx(np.array(points), abs=0.01)


def _corners(face: detector.Detection) -> tuple[float, ...]:
    return face.box.x, face.box.y, face.box.x + face.box.w, face.box.y + face.box.h


def _inside(box: tuple[float, ...]) -> bool:
    left, top, right, bottom = map(int, box)
    return right > left and bottom > top


def test_an_anchor_without_offsets_is_the_face_and_offsets_are_shares_of_it():
    given = outputs()
    given[3][0, 1, 2, 3] = 0.95  # stride 16, second anchor: 64 pixels about 39.5, 23.5
    given[6][0, 0, 0, 2] = 0.91  # stride 8, first anchor: 32 pixels about 7.5, 7.5
    given[7][0, 0, 0, :4] = 0.25, -0.25, np.log(2), 0
    given[8][0, 0, 0, :4] = 0.5, 0, 0, -0.5
    found = detector.decode(given, Search())
    assert found.scores == pytest.approx([0.95, 0.91])
    assert found.corners[0] == pytest.approx([8, -8, 71, 55])
    assert found.corners[1] == pytest.approx([15.5 - 31.5, -0.5 - 15.5, 15.5 + 31.5, -0.5 + 15.5])
    assert found.points[1][:3] == pytest.approx(np.array([(23.5, 7.5), (7.5, -8.5), (7.5, 7.5)]))


def test_suppression_counts_whole_pixels():
    """Of two neighbouring anchors of 32 pixels, 24 columns of 40 are shared: not 23 of 39."""

    class Played(Session):
        def __init__(self) -> None: ...

        def __call__(self, tensor: np.ndarray) -> list[np.ndarray]:
            given = outputs()
            given[6][0, 4, 4:7, 2] = 0.95, 0.97, 0.96
            return given

    def found(same_face: float) -> list[float]:
        search = Search(shorter=64, longer=96, same_face=same_face)
        (faces,) = RetinaFace(Played(), search).detect([np.zeros((64, 96, 3), np.uint8)])
        assert {(face.box.y, face.box.w, face.box.h) for face in faces} == {(24, 31, 31)}
        return [face.box.x for face in faces]

    assert found(0.595) == [32]
    assert found(0.605) == [32, 40, 24]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((100, 100), (1024, 1024)),
        ((500, 750), (1024, 1536)),
        ((2000, 5000), (792, 1980)),
        ((5000, 1000), (1980, 396)),
        ((3, 9000), (1, 1980)),
    ],
)
def test_the_input_is_bounded(shape: tuple[int, int], expected: tuple[int, int]):
    large, scale = detector.resize(np.zeros((*shape, 3), np.uint8), Search())
    assert large.shape == (*expected, 3)
    assert scale == pytest.approx(expected[1] / shape[1], rel=2e-3)


def test_thin_images_and_batches(session: Session, small: Rgb):
    search = Search(shorter=32, longer=96, min_score=0.1)
    images = [small, np.zeros((1, 300, 3), np.uint8), small[:40], np.zeros((7, 5, 3), np.uint8)]
    found = RetinaFace(session, search)
    together = found.detect(images)
    for image, faces in zip(images, together, strict=True):
        alone = found.detect([image])[0]
        assert [(f.box, f.score) for f in faces] == [(f.box, f.score) for f in alone]
        for face in faces:
            assert 0 <= face.box.x < face.box.x + face.box.w <= image.shape[1]
            assert 0 <= face.box.y < face.box.y + face.box.h <= image.shape[0]
    assert found.detect([]) == []


def test_outputs_of_another_network_are_refused():
    with pytest.raises(BadWeights, match="not those of RetinaFace"):
        detector.decode(outputs()[:6], Search())
    with pytest.raises(BadWeights, match="not those of RetinaFace"):
        detector.decode([*outputs()[:8], np.zeros(3, np.float32)], Search())


def test_weights_of_another_network_are_refused():
    arrays = seeded.retinaface(retinaface.shapes())
    for name in ("stage3_unit4_conv2", "ssh_m1_det_conv1_bn"):
        others = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(BadWeights, match=name):
            retinaface.convert(seeded.keras_file(others))
    turned = {**arrays, "conv0": (arrays["conv0"][0].transpose(0, 1, 3, 2),)}
    with pytest.raises(BadWeights, match="conv0"):
        retinaface.convert(seeded.keras_file(turned))


def test_the_graph_keeps_every_weight(graph: bytes):
    """As many numbers as the released file has: 118 MB of float32."""
    expected = sum(int(np.prod(s)) for layer in retinaface.shapes().values() for s in layer)
    found = onnx.load_from_string(graph).graph.initializer
    assert sum(int(np.prod(w.dims)) for w in found if w.data_type == onnx.TensorProto.FLOAT) == (
        expected + 2 * 4  # and the scales of the two enlargements
    )
    assert 0.99 < 4 * expected / (detector.KERAS.size or 0) < 1


def test_the_published_graph_is_used_where_it_has_been_put(graph: bytes, tmp_path: Path):
    resources = Resources(weights=WeightsCache(tmp_path, download=False), runtime=Runtime())
    with pytest.raises(WeightsMissing, match=detector.KERAS.urls[0]):
        detector.SPECS[0].build(resources)
    (tmp_path / detector.ONNX.name).write_bytes(graph)
    built = detector.SPECS[0].build(resources)
    assert isinstance(built, RetinaFace)
