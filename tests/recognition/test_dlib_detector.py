"""The HOG detector on photographs: places, sizes, several faces, none, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from recognition import geometry
from recognition.detectors.dlib import SPECS, probability
from recognition.images import ImageLimits, decode
from recognition.spec import Resources
from recognition.types import Detection, Detector, Rgb


@pytest.fixture(scope="module")
def detector(resources: Resources) -> Detector:
    return SPECS[0].build(resources)


@pytest.fixture(scope="module")
def images(portraits: dict[str, bytes]) -> dict[str, Rgb]:
    return {name: decode(data, ImageLimits()) for name, data in portraits.items()}


FACES = {
    "obama.jpg": (496, 255, 240),
    "obama2.jpg": (311, 446, 300),
    "obama3.jpg": (796, 449, 290),
    "biden.jpg": (580, 402, 324),
}
"""About the middle and the side of a square from the brows to the chin."""


def only(found: list[tuple[Detection, ...]]) -> Detection:
    ((face,),) = found
    return face


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 3.0])
def test_portraits_in_all_sizes(
    name: str, scale: float, detector: Detector, images: dict[str, Rgb]
) -> None:
    image = images[name]
    height, width = (round(side * scale) for side in image.shape[:2])
    face = only(detector.detect([geometry.resize(image, width, height)]))
    x, y, side = FACES[name]
    assert face.box.centre == pytest.approx((x * scale, y * scale), abs=0.1 * side * scale)
    assert face.box.w == pytest.approx(side * scale, rel=0.25)
    assert face.box.w == pytest.approx(face.box.h, rel=0.05)
    assert face.score > 0.95
    assert face.landmarks is None


def test_small_faces(detector: Detector, images: dict[str, Rgb]) -> None:
    """From 40 pixels on, and next to a large face too; a look at a coarse picture alone misses them."""
    image = images["biden.jpg"]
    small = geometry.resize(image, round(970 * 45 / 324), round(2204 * 45 / 324))
    face = only(detector.detect([small[: round(1000 * 45 / 324)]]))
    assert face.box.w == pytest.approx(45, rel=0.25)
    canvas = np.full((1400, 1600, 3), 127, np.uint8)
    canvas[:300, 1400 : 1400 + small.shape[1]] = small[:300]
    found = detector.detect([canvas])[0]
    assert [f.box.centre[0] > 1400 for f in found] == [True]


def test_several_faces_best_first(detector: Detector, images: dict[str, Rgb]) -> None:
    left = geometry.resize(images["obama.jpg"], 600, 750)
    right = geometry.resize(images["biden.jpg"][:1200], 600, 750)
    (found,) = detector.detect([np.concatenate([left, right], axis=1)])
    assert len(found) == 2
    assert {face.box.centre[0] > 600 for face in found} == {True, False}
    assert found[0].score >= found[1].score


def test_each_image_has_its_own_faces(detector: Detector, images: dict[str, Rgb]) -> None:
    blank = np.full((300, 400, 3), 90, np.uint8)
    found = detector.detect([images["obama.jpg"], blank, images["biden.jpg"]])
    assert [len(faces) for faces in found] == [1, 0, 1]
    assert detector.detect([]) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (9000, 2), (40, 40)])
def test_odd_shapes(shape: tuple[int, int], detector: Detector) -> None:
    assert detector.detect([np.zeros((*shape, 3), np.uint8)]) == [()]


def test_images_that_must_not_be_written(detector: Detector, images: dict[str, Rgb]) -> None:
    image = images["obama.jpg"].copy()
    image.flags.writeable = False
    assert len(detector.detect([image])[0]) == 1
    assert len(detector.detect([image[:, ::-1]])[0]) == 1


def test_threads(detector: Detector, images: dict[str, Rgb]) -> None:
    """Calls at the same time see their own images only."""
    names = list(FACES) * 4
    alone = {name: only(detector.detect([images[name]])).box for name in FACES}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: only(detector.detect([images[name]])).box, names))
    assert together == [alone[name] for name in names]


def test_scores_are_probabilities() -> None:
    values = [probability(score) for score in (-0.2, 0, 0.5, 1, 3)]
    assert values == sorted(values)
    assert 0.85 < values[0] < 0.9
    assert values[-1] <= 1


def test_groups_and_no_faces(detector: Detector, shared_data: Path) -> None:
    expected = {"group_8faces.jpg": 7, "group_bald_guys.jpg": 24, "group_3.jpg": 3}
    empty = ("noface_background.jpg", "noface_dogs.jpg", "noface_compreface_017_0.jpg")
    for name in (*expected, *empty):
        image = decode((shared_data / "edge" / name).read_bytes(), ImageLimits())
        (found,) = detector.detect([image])
        if name in expected:
            assert len(found) >= expected[name]
        else:
            assert found == ()
