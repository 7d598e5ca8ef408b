"""BlazeFace: the reference implementation's faces, small faces by search, and its pure functions."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recognition.detectors import mediapipe
from recognition.detectors.mediapipe import Found, Part
from recognition.formats import tflite_onnx
from recognition.formats.graphs import FREE
from recognition.runtime import lanes
from recognition.spec import Resources
from recognition.types import Detection, Detector, Rgb

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "blazeface.json").read_text())
NETWORKS = {"short": mediapipe.SHORT, "full": mediapipe.FULL, "back": mediapipe.BACK}
PORTRAITS = ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg")
SPECS = {spec.name: spec for spec in mediapipe.SPECS}


def rgb(data: bytes) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def build(name: str, resources: Resources) -> Detector:
    return SPECS[name].build(resources)


def numbers(face: Detection) -> list[float]:
    return [face.box.x, face.box.y, face.box.w, face.box.h]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("portrait", PORTRAITS)
def test_one_look_finds_what_the_reference_implementation_finds(
    name: str, portrait: str, resources: Resources, portraits: dict[str, bytes]
):
    detector = mediapipe.SingleLook(mediapipe.load(resources, NETWORKS[name]), 0.5)
    (face,) = detector.detect([rgb(portraits[portrait])])[0]
    expected = CANONICAL[name]["faces"][portrait]
    # The reference resamples in another way: a pixel of the input is 3 to 6 % of these faces.
    side = expected["box"][2]
    np.testing.assert_allclose(numbers(face), expected["box"], rtol=0, atol=0.04 * side)
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks[:3], expected["points"][:3], rtol=0, atol=0.03 * side)
    assert np.isnan(face.landmarks[3:]).all()
    assert face.score == pytest.approx(expected["score"], abs=0.04)


@pytest.mark.parametrize("name", SPECS)
def test_every_detector_finds_each_portrait_once(
    name: str, resources: Resources, portraits: dict[str, bytes]
):
    images = [rgb(portraits[portrait]) for portrait in PORTRAITS]
    for image, faces in zip(images, build(name, resources).detect(images), strict=True):
        (face,) = faces
        assert 0.5 < face.score <= 1
        assert face.landmarks is not None
        right, left, nose = face.landmarks[:3]
        assert right[0] < nose[0] < left[0]
        assert nose[1] > max(right[1], left[1])
        assert 0 <= face.box.x < face.box.x + face.box.w <= image.shape[1]
        assert 0 <= face.box.y < face.box.y + face.box.h <= image.shape[0]


def crowd(portraits: dict[str, bytes], side: int) -> tuple[Rgb, list[tuple[float, float]]]:
    """A grey picture of 1600 x 1200 with four faces about `side` pixels wide, and the middles of their eyes."""
    canvas, middles = np.full((1200, 1600, 3), 128, np.uint8), []
    for i, portrait in enumerate(PORTRAITS):
        expected = CANONICAL["back"]["faces"][portrait]
        x, y, w, _ = expected["box"]
        picture = Image.fromarray(rgb(portraits[portrait]))
        part = picture.crop((int(x - w / 2), int(y - w / 2), int(x + w * 1.5), int(y + w * 1.5)))
        small = np.asarray(part.resize((2 * side, 2 * side), Image.Resampling.BOX))
        left, top = 150 + 350 * i, 200 + 220 * i
        canvas[top : top + 2 * side, left : left + 2 * side] = small
        eyes = (np.array(expected["points"][:2]).mean(axis=0) - (x - w / 2, y - w / 2)) * side / w
        middles.append((left + eyes[0], top + eyes[1]))
    return canvas, middles


@pytest.mark.parametrize("side", [36, 48, 64, 128])
def test_the_search_finds_small_faces_where_they_are(
    side: int, resources: Resources, portraits: dict[str, bytes]
):
    image, middles = crowd(portraits, side)
    faces = build("mediapipe", resources).detect([image])[0]
    assert len(faces) == len(middles)
    for middle in middles:
        away = [np.linalg.norm(f.landmarks[:2].mean(axis=0) - middle) for f in faces]  # type: ignore[index]
        assert min(away) < 0.1 * side


def test_a_wide_picture_in_which_one_look_shows_nothing_is_searched(
    resources: Resources, portraits: dict[str, bytes]
):
    image, middles = crowd(portraits, 40)
    wide = np.full((300, 3000, 3), 128, np.uint8)
    wide[100:250, 1500:1800] = image[180:330, 100:400]
    network = mediapipe.load(resources, mediapipe.BACK)
    assert not len(network.look_at_all(wide, 0.5).scores)
    (face,) = build("mediapipe", resources).detect([wide])[0]
    expected = np.add(middles[0], (1400, -80))
    assert face.landmarks is not None
    assert np.linalg.norm(face.landmarks[:2].mean(axis=0) - expected) < 4


def test_one_look_of_the_short_range_does_not_see_small_faces(
    resources: Resources, portraits: dict[str, bytes]
):
    image, _ = crowd(portraits, 64)
    assert build("mediapipe_short", resources).detect([image]) == [()]


@pytest.mark.parametrize("portrait", PORTRAITS)
@pytest.mark.parametrize("margin", [0, 0.1, 0.3])
def test_a_face_that_fills_the_frame_is_one_face(
    portrait: str, margin: float, resources: Resources, portraits: dict[str, bytes]
):
    expected = CANONICAL["back"]["faces"][portrait]
    x, y, w, h = expected["box"]
    left, top = int(x - margin * w), int(y - margin * h)
    close = rgb(portraits[portrait])[top : int(y + h + margin * h), left : int(x + w + margin * w)]
    (face,) = build("mediapipe", resources).detect([close])[0]
    assert face.landmarks is not None
    eyes = np.array(expected["points"][:2]) - [left, top]
    np.testing.assert_allclose(face.landmarks[:2], eyes, rtol=0, atol=0.1 * w)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (2000, 5), (400, 600)])
def test_pictures_without_faces_have_none(name: str, shape: tuple[int, int], resources: Resources):
    assert build(name, resources).detect([np.full((*shape, 3), 200, np.uint8)]) == [()]


def test_no_images_no_answers(resources: Resources):
    assert build("mediapipe", resources).detect([]) == []


@pytest.mark.parametrize(
    ("file", "people"),
    [
        ("group_3.jpg", 4),
        ("group_8faces.jpg", 8),
        ("group_bald_guys.jpg", 24),
        ("group_bbt1.jpg", 4),
        ("group_solvay1927_grey.jpg", 29),
        ("noface_background.jpg", 0),
        ("noface_compreface_017_0.jpg", 0),
        ("noface_dogs.jpg", 0),
    ],
)
def test_groups_are_found_whole(file: str, people: int, resources: Resources, shared_data: Path):
    image = rgb((shared_data / "edge" / file).read_bytes())
    faces = build("mediapipe", resources).detect([image])[0]
    assert len(faces) == people
    assert [face.score for face in faces] == sorted((f.score for f in faces), reverse=True)


@pytest.mark.parametrize(
    ("name", "shape", "count", "first", "last"),
    [
        ("short", (128, 128), 896, (4, 4), (120, 120)),
        ("full", (192, 192), 2304, (2, 2), (190, 190)),
        ("back", (256, 256), 896, (8, 8), (240, 240)),
        ("back", (256, 96), 336, (8, 8), (80, 240)),
        ("back", (32, 256), 112, (8, 8), (240, 16)),
    ],
)
def test_anchors_are_the_centres_of_the_cells(
    name: str,
    shape: tuple[int, int],
    count: int,
    first: tuple[float, float],
    last: tuple[float, float],
):
    anchors = mediapipe.anchors(NETWORKS[name], shape)
    assert anchors.shape == (count, 2)
    assert tuple(anchors[0]) == first
    assert tuple(anchors[-1]) == last


def test_boxes_and_points_are_decoded_relative_to_the_anchor():
    raw = np.array([[1, 2, 10, 20, 3, 4, *[0] * 10]], np.float32)
    boxes, points = mediapipe.decode(raw, np.array([[50, 60]], np.float32))
    assert boxes.tolist() == [[46, 52, 10, 20]]
    assert points[0, :2].tolist() == [[53, 64], [50, 60]]


def test_extreme_scores_do_not_overflow():
    with np.errstate(all="raise"):
        scores = mediapipe.sigmoid(np.array([-1e6, 0, 1e6], np.float32))
    np.testing.assert_allclose(scores, [0, 0.5, 1], atol=1e-6)


def test_overlapping_faces_are_averaged_by_score():
    boxes = np.array([[0, 0, 10, 10], [100, 0, 10, 10], [3, 0, 10, 10]], np.float32)
    points = np.repeat(boxes[:, None, :2], 6, axis=1)
    scores = np.array([0.8, 0.9, 0.4], np.float32)
    merged = mediapipe.merge(Found(boxes, points, scores, np.array([5, 6, 7], np.float32)))
    np.testing.assert_allclose(merged.boxes, [[100, 0, 10, 10], [1, 0, 10, 10]], atol=1e-5)
    np.testing.assert_allclose(merged.points[:, 0], [[100, 0], [1, 0]], atol=1e-5)
    np.testing.assert_allclose(merged.scores, [0.9, 0.8])
    assert merged.sides.tolist() == [6, 7]


def test_pieces_of_a_face_are_dropped_and_neighbours_kept():
    boxes = [[0, 0, 100, 100], [10, 60, 50, 50], [90, 0, 50, 50], [5, 5, 95, 95]]
    scores = np.array([0.9, 0.8, 0.6, 0.7], np.float32)
    found = Found(np.array(boxes, np.float32), np.zeros((4, 6, 2), np.float32), scores, scores)
    kept = mediapipe.distinct(found)
    assert kept.boxes.tolist() == [[0, 0, 100, 100], [90, 0, 50, 50]]


sizes = st.integers(1, 5000)


@given(sizes, sizes)
def test_tiles_cover_the_image_and_are_few(width: int, height: int):
    image = np.broadcast_to(np.uint8(0), (height, width, 3))
    tiles = mediapipe.tiles(image)
    assert 1 <= len(tiles) <= 8
    side = tiles[0].width
    assert {(t.width, t.height) for t in tiles} == {(side, side)}
    for starts, length in (({t.x for t in tiles}, width), ({t.y for t in tiles}, height)):
        ends = sorted(starts)
        assert ends[0] <= 0
        assert ends[-1] + side >= length
        assert all(b - a <= side for a, b in itertools.pairwise(ends))


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 700), st.integers(8, 300))
def test_a_view_shows_its_square_and_black_around(x: int, y: int, side: int, size: int):
    height, width = 90, 160
    image = np.full((height, width, 3), 255, np.uint8)
    canvas, scale, offset = mediapipe.view(image, Part(x, y, side, side), (size, size))
    ratio = size / side
    seen = [
        max(0, min(a + side, limit) - max(a, 0)) * ratio for a, limit in ((x, width), (y, height))
    ]
    bright = int((canvas[..., 0] == 255).sum())
    assert bright == 0 if min(seen) == 0 else abs(bright**0.5 - (seen[0] * seen[1]) ** 0.5) < size
    if min(seen) > 4:
        centre = np.clip([x + side / 2, y + side / 2], 0, [width, height])
        np.testing.assert_allclose(
            centre * scale + offset, (centre - [x, y]) * ratio, rtol=0, atol=1 + 0.02 * size
        )


@given(sizes, sizes, st.sampled_from(sorted(NETWORKS)))
def test_of_an_oblong_image_no_more_is_looked_at_than_the_networks_steps_want(
    width: int, height: int, name: str
):
    network = NETWORKS[name]
    image = np.broadcast_to(np.uint8(0), (height, width, 3))
    part = mediapipe.whole(image, network)
    shape = mediapipe.frame(part, network)
    assert max(shape) == network.size
    for place, extent, side, canvas in (
        (part.x, part.width, width, shape[1]),
        (part.y, part.height, height, shape[0]),
    ):
        assert place <= 0
        assert place + extent >= side
        assert canvas % network.step == 0
        pixels = side * network.size / max(width, height)
        assert pixels - 1e-6 <= canvas < pixels + network.step


@pytest.mark.parametrize("portrait", PORTRAITS)
@pytest.mark.parametrize("turned", [False, True])
def test_borders_of_black_change_next_to_nothing(
    portrait: str, turned: bool, resources: Resources, portraits: dict[str, bytes]
):
    x, y, side, _ = CANONICAL["back"]["faces"][portrait]["box"]
    width, height = (3.2 * side, 1.8 * side) if turned else (1.8 * side, 3.2 * side)
    left, top = (max(0, int(a + side / 2 - b / 2)) for a, b in ((x, width), (y, height)))
    oblong = rgb(portraits[portrait])[top : top + int(height), left : left + int(width)]
    longest = max(oblong.shape[:2])
    above, before = ((longest - length) // 2 for length in oblong.shape[:2])
    square = np.zeros((longest, longest, 3), np.uint8)
    square[above : above + oblong.shape[0], before : before + oblong.shape[1]] = oblong
    (alone,), (bordered,) = build("mediapipe", resources).detect([oblong, square])
    assert alone.landmarks is not None
    assert bordered.landmarks is not None
    away = alone.landmarks[:3] - bordered.landmarks[:3]
    assert np.abs(np.add(away, [before, above])).max() < 0.03 * side
    assert alone.score == pytest.approx(bordered.score, abs=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_lays_the_maps_out_once(name: str, resources: Resources, tmp_path: Path):
    data = resources.weights.path(NETWORKS[name].weights).read_bytes()
    (tmp_path / "network.onnx").write_bytes(tflite_onnx.convert(data, lanes()))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    for side in FREE[1:]:
        options.add_free_dimension_override_by_name(side, NETWORKS[name].size)
    ort.InferenceSession(tmp_path / "network.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["ReorderInput"] <= 1
    assert kinds["ReorderOutput"] <= 4
    assert not kinds["Relu"]
