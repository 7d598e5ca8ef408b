"""The Haar cascade on real photographs."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from recognition.detectors import opencv
from recognition.errors import WeightsMissing
from recognition.spec import Resources
from recognition.types import Box, Detection, Detector, Rgb

POINTS = json.loads((Path(__file__).parent / "canonical" / "mtcnn.json").read_text())["images"]


def rgb(data: bytes) -> Rgb:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def surrounds(box: Box, points: NDArray[np.float64]) -> bool:
    """Whether all five landmarks lie well inside a box that is no larger than a face."""
    low, high = points.min(axis=0), points.max(axis=0)
    eyes = float(np.linalg.norm(points[1] - points[0]))
    inside = box.x < low[0] and box.y < low[1] and high[0] < box.x + box.w
    return bool(inside and high[1] < box.y + box.h and 2 * eyes < box.w < 4 * eyes)


def landmarks(name: str, image: Rgb) -> NDArray[np.float64]:
    known = POINTS[name]
    stretch = np.array(image.shape[1::-1]) / known["size"]
    return np.array(known["faces"][0]["points"]) * stretch


def same(a: tuple[Detection, ...], b: tuple[Detection, ...]) -> bool:
    return [(f.box, f.score) for f in a] == [(f.box, f.score) for f in b]


@pytest.fixture(scope="module")
def detector(resources: Resources) -> Detector:
    return opencv.SPECS[0].build(resources)


@pytest.mark.parametrize("name", POINTS)
def test_the_best_find_is_the_face(name: str, portraits: dict[str, bytes], detector: Detector):
    image = rgb(portraits[name])
    faces = detector.detect([image])[0]
    assert surrounds(faces[0].box, landmarks(name, image))
    assert faces[0].score > 0.95
    assert faces[0].landmarks is None
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)


def test_a_batch_gives_what_single_images_give_in_any_thread(
    portraits: dict[str, bytes], detector: Detector
):
    images = [rgb(data)[::2, ::2].copy() for data in portraits.values()] * 4
    together = detector.detect(images)
    assert all(together)
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda image: detector.detect([image])[0], images))
    assert all(map(same, together, shared))
    assert detector.detect([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (23, 23), (24, 24), (1, 3000), (3000, 30)])
def test_tiny_thin_and_empty_images_have_no_faces(detector: Detector, shape: tuple[int, int]):
    assert detector.detect([np.full((*shape, 3), 200, np.uint8)]) == [()]


def test_a_huge_picture_is_searched_at_the_working_size(
    detector: Detector, portraits: dict[str, bytes]
):
    image = rgb(portraits["obama.jpg"])
    large = image.repeat(5, 0).repeat(5, 1)
    found = detector.detect([large])[0][0]
    assert surrounds(found.box, landmarks("obama.jpg", large))


def test_score_rises_with_the_weight():
    scores = [opencv.score(weight) for weight in (-5, opencv.LEAST_WEIGHT, 3, 8, 20)]
    assert scores == sorted(scores)
    assert 0 < scores[0] < 0.5 < scores[1]
    assert 0.99 < scores[3] < scores[4] <= 1


def test_a_missing_cascade_is_named(tmp_path: Path):
    with pytest.raises(WeightsMissing, match=r"absent\.xml"):
        opencv.HaarCascade(tmp_path / "absent.xml")


def test_groups_and_pictures_without_people(detector: Detector, shared_data: Path):
    def count(file: str) -> int:
        return len(detector.detect([rgb((shared_data / "edge" / file).read_bytes())])[0])

    assert count("group_3.jpg") == 4
    assert count("group_bald_guys.jpg") == 24
    assert sum(count(f"noface_{name}.jpg") for name in ("background", "dogs")) <= 1
