"""The five-point predictor as a graph places the points where dlib places them, and takes no other file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import dlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition import alignment
from recognition.errors import BadWeights
from recognition.formats import dlib_points
from recognition.formats.dlib_points import LEAVES, QUESTIONS
from recognition.images import ImageLimits, decode
from recognition.landmarks import PATCH, WEIGHTS, DlibPredictor, LandmarkPredictor
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Box, Detection, Rgb
from recognition.weights import WeightsCache

CORNER, SIDE = 38, 125
"""The square in a patch whose pixels are the 38th to the 162nd."""


@pytest.fixture(scope="module")
def data(weights_cache: WeightsCache) -> bytes:
    return weights_cache.path(WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def patches(portraits: dict[str, bytes]) -> list[Rgb]:
    """Heads larger and smaller, turned, moved up to the edge and beyond, and noise."""
    found = [np.full((PATCH, PATCH, 3), value, np.uint8) for value in (0, 128, 255)]
    for jpeg in portraits.values():
        image = decode(jpeg, ImageLimits())
        face = max(dlib.get_frontal_face_detector()(image, 0), key=lambda r: r.area())
        middle = face.center()
        for turn in (-25, -10, 0, 5, 15):
            for growth in (0.5, 0.9, 1.0, 1.2):
                for shift in (-60, -6, 0, 9):
                    scale = growth * SIDE / face.width()
                    matrix = cv2.getRotationMatrix2D((middle.x, middle.y), turn, scale)
                    matrix[:, 2] += (PATCH / 2 + shift - middle.x, PATCH / 2 - middle.y)
                    found.append(alignment.warp(image, matrix, PATCH))
    noise = np.random.default_rng(0).integers(0, 256, (4, PATCH, PATCH, 3), np.uint8)
    return [*found, *noise]


@pytest.fixture(scope="module")
def own(resources: Resources) -> DlibPredictor:
    return DlibPredictor.build(resources)


def test_points_are_those_of_dlib(
    patches: list[Rgb], own: DlibPredictor, data: bytes, tmp_path: Path
) -> None:
    """To the pixel, but for the face in a hundred where another rounding tips a tree over."""
    path = tmp_path / "points.onnx"
    path.write_bytes(dlib_points.convert(data, PATCH, (CORNER, CORNER, 162, 162)))
    network = Runtime().session(path, ["points"])
    square = Box(CORNER, CORNER, SIDE, SIDE)
    away = []
    for patch in patches:
        (points,) = network((patch.astype(int).sum(axis=2) // 3).astype(np.uint8))
        assert (points.shape, points.dtype) == ((5, 2), np.float64)
        away.append(np.abs(points - own.points(patch, square)).max())
    assert len(away) > 300
    assert max(away) <= 2
    assert np.count_nonzero(away) <= len(away) / 50


def test_a_face_is_placed_where_dlib_places_it(
    portraits: dict[str, bytes], own: DlibPredictor, resources: Resources
) -> None:
    predictor = LandmarkPredictor.build(resources)
    image = decode(portraits["obama.jpg"], ImageLimits())
    found = max(dlib.get_frontal_face_detector()(image, 0), key=lambda r: r.area())
    box = Box(found.left(), found.top(), found.width(), found.height())
    points = predictor.find(image, Detection(box, 1.0))
    assert np.abs(points - own.points(image, box)).max() < 0.03 * box.w


@given(st.integers(0, 2**QUESTIONS - 1))
def test_the_leaf_is_where_the_answers_lead(answers: int) -> None:
    """A yes leads to the first of a question's two followers."""
    node = 0
    while node < QUESTIONS:
        node = 2 * node + (1 if answers >> node & 1 else 2)
    assert dlib_points.leaf_of_answers()[answers] == node - QUESTIONS
    assert node - QUESTIONS < LEAVES


def _damaged(data: bytes) -> Iterator[tuple[bytes, str]]:
    yield data[:-1], "too early"
    yield data[: len(data) // 2], "too early|shape"
    yield data + b"\x01\x00", "bytes follow"
    yield b"\x01\x02" + data[2:], "shape or version"
    yield b"\x11" + data[1:], "sign"
    yield b"\x00" + data, "length"
    yield b"", "too early"
    # An exponent of the first mean, then the number of rounds.
    yield data[:10] + b"\x01\x7f" + data[12:], "out of range"
    rounds = data.index(b"\x01\x0f\x02\xf4\x01\x01\x0f")
    yield data[:rounds] + b"\x01\x0e" + data[rounds + 2 :], "shape or version"
    trees = rounds + 5
    yield data[:trees] + b"\x01\x0e" + data[trees + 2 :], "another shape"
    # The first question's first pixel.
    pixel = trees + 2
    size = 1 + (data[pixel] & 0x0F)
    yield data[:pixel] + b"\x02\x20\x03" + data[pixel + size :], "pixel or point"


def test_other_files_are_refused(data: bytes) -> None:
    for changed, why in _damaged(data):
        with pytest.raises(BadWeights, match=why):
            dlib_points.read(changed)


@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    with pytest.raises(BadWeights):
        dlib_points.convert(content, PATCH, (CORNER, CORNER, 162, 162))
