"""Transforms and the warp, against numbers worked out another way."""

from __future__ import annotations

import cv2
import dlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition import alignment
from recognition.images import ImageLimits, decode
from recognition.landmarks import WEIGHTS, DlibPredictor, LandmarkPredictor
from recognition.models.dlib import PADDING, SIDE, to_chip
from recognition.spec import Resources
from recognition.types import Box, Detection, Rgb
from recognition.weights import WeightsCache


def turn(degrees: float, scale: float, x: float, y: float) -> alignment.Floats:
    angle = np.radians(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


@given(st.floats(-179, 179), st.floats(0.1, 10), st.floats(-500, 500), st.floats(-500, 500))
def test_similarity_recovers_a_transform(d: float, k: float, x: float, y: float) -> None:
    expected = turn(d, k, x, y)
    found = alignment.similarity(
        alignment.DLIB_CHIP, alignment.apply(expected, alignment.DLIB_CHIP)
    )
    assert np.allclose(found, expected, atol=1e-7 * max(1, abs(x), abs(y), k))


def test_similarity_is_the_best_one() -> None:
    """No small change of turn, scale or shift comes closer; a mirror image is not turned over."""
    rng = np.random.default_rng(5)
    source = rng.normal(size=(5, 2))
    target = source * [-1, 1] + rng.normal(scale=0.1, size=(5, 2))
    found = alignment.similarity(source, target)

    def error(matrix: alignment.Floats) -> float:
        return float(((alignment.apply(matrix, source) - target) ** 2).sum())

    for degrees, scale, x, y in [(1, 1, 0, 0), (0, 1.01, 0, 0), (0, 1, 0.01, 0), (0, 1, 0, 0.01)]:
        for nudge in (turn(degrees, scale, x, y), alignment.invert(turn(degrees, scale, x, y))):
            assert error(alignment.compose(nudge, found)) > error(found)
    assert np.linalg.det(found[:, :2]) >= 0


def test_similarity_of_one_point_shifts() -> None:
    found = alignment.similarity(np.full((5, 2), 3.0), np.full((5, 2), 7.0))
    assert np.allclose(found, [[1, 0, 4], [0, 1, 4]])


def test_compose_and_invert() -> None:
    first, second = turn(30, 2, 5, -3), turn(-70, 0.4, 1, 9)
    points = alignment.DLIB_CHIP
    both = alignment.apply(alignment.compose(second, first), points)
    assert np.allclose(both, alignment.apply(second, alignment.apply(first, points)))
    back = alignment.compose(alignment.invert(first), first)
    assert np.allclose(back, [[1, 0, 0], [0, 1, 0]])
    assert alignment.scale_of(first) == pytest.approx(2)


def spots(size: int, centres: alignment.Floats, radius: float) -> Rgb:
    """White Gaussian spots on black; their centres can be measured back to a fraction of a pixel."""
    y, x = np.mgrid[:size, :size]
    light = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)) for cx, cy in centres)
    return np.repeat((255 * np.clip(light, 0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("scale", [0.05, 0.13, 0.3, 0.49, 0.51, 1.0, 3.0])
@pytest.mark.parametrize("degrees", [0, 25, -100])
def test_warp_puts_points_where_the_matrix_says(scale: float, degrees: float) -> None:
    """To a tenth of a pixel, whatever is averaged down on the way."""
    centre = np.array([[700.0, 500.0]])
    image = spots(1200, centre, 6 / scale)
    matrix = turn(degrees, scale, 0, 0)
    matrix[:, 2] = np.array([60.3, 84.8]) - alignment.apply(matrix, centre)[0]
    out = alignment.warp(image, matrix, 150).astype(float)[:, :, 0]
    assert out.shape == (150, 150)
    y, x = np.mgrid[:150, :150]
    measured = (out * x).sum() / out.sum(), (out * y).sum() / out.sum()
    assert measured == pytest.approx((60.3, 84.8), abs=0.1)


def test_warp_averages_where_it_shrinks() -> None:
    """A fine chequerboard becomes grey, not one of its colours."""
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    out = alignment.warp(np.repeat(board[:, :, None], 3, axis=2), turn(7, 0.125, 0, 0), 80)
    inside = out[20:60, 20:60].astype(float)
    assert abs(inside - 127.5).max() < 3


@pytest.mark.parametrize("shift", [-1e4, -150.0, 151.0, 1e6])
def test_warp_is_black_outside(shift: float) -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    assert alignment.warp(white, turn(0, 1, shift, 0), 150).max() == 0
    partly = alignment.warp(white, turn(0, 1, 100, 0), 150)
    assert partly[:100, 101:].min() == 255
    assert partly[:, :99].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 3)])
def test_warp_of_tiny_images(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    for scale in (0.01, 0.4, 1.0, 50.0):
        out = alignment.warp(image, turn(10, scale, 5, 5), 20)
        assert out.shape == (20, 20, 3)
        assert out.dtype == np.uint8


@pytest.fixture(scope="module")
def images(portraits: dict[str, bytes]) -> dict[str, Rgb]:
    return {name: decode(data, ImageLimits()) for name, data in portraits.items()}


@pytest.fixture(scope="module")
def predictor(resources: Resources) -> LandmarkPredictor:
    return LandmarkPredictor.build(resources)


@pytest.fixture(scope="module")
def own(resources: Resources) -> DlibPredictor:
    return DlibPredictor.build(resources)


def hog_box(image: Rgb) -> tuple[dlib.rectangle, Box]:
    found = max(dlib.get_frontal_face_detector()(image, 0), key=lambda r: r.area())
    return found, Box(found.left(), found.top(), found.width(), found.height())


def test_chips_are_those_of_dlib(
    images: dict[str, Rgb], own: DlibPredictor, weights_cache: WeightsCache
) -> None:
    """Same box: the same points, and nearly the same pixels, though another way of averaging."""
    theirs = dlib.shape_predictor(str(weights_cache.path(WEIGHTS)))
    for image in images.values():
        rectangle, box = hog_box(image)
        shape = theirs(image, rectangle)
        points = own.points(image, box)
        assert np.array_equal(points, [(p.x, p.y) for p in shape.parts()])
        ours = alignment.warp(image, to_chip(points), SIDE).astype(float)
        reference = dlib.get_face_chip(image, shape, SIDE, PADDING).astype(float)
        shift, _ = cv2.phaseCorrelate(ours.mean(axis=2), reference.mean(axis=2))
        assert np.hypot(*shift) < 0.4
        assert abs(ours - reference).mean() < 6


def test_points_do_not_depend_on_the_box(
    images: dict[str, Rgb], predictor: LandmarkPredictor, own: DlibPredictor
) -> None:
    """Boxes of other shapes, sizes and places lead to the points that dlib's own leads to."""
    for image in images.values():
        _, box = hog_box(image)
        expected = own.points(image, box)
        face = np.ptp(expected[:, 0]) / np.ptp(alignment.DLIB_CHIP[:, 0])
        (x, y), side = box.centre, box.w
        for width, height, dx, dy in [
            (1.0, 1.0, 0.0, 0.0),
            (1.1, 1.1, 0.0, -0.1),
            (0.85, 1.2, 0.0, -0.1),
            (0.7, 0.7, 0.0, 0.0),
            (2.0, 2.4, 0.05, -0.1),
        ]:
            other = Box(
                x + (dx - width / 2) * side,
                y + (dy - height / 2) * side,
                width * side,
                height * side,
            )
            found = predictor.find(image, Detection(other, 0.0))
            assert np.abs(found - expected).max() < 0.06 * face, (width, height)


def test_eyes_and_nose(images: dict[str, Rgb], predictor: LandmarkPredictor) -> None:
    image = images["obama.jpg"]
    _, box = hog_box(image)
    points = predictor.eyes_and_nose(image, Detection(box, 0.0))
    assert points.shape == (5, 2)
    assert points.dtype == np.float32
    assert np.isnan(points[3:]).all()
    right, left, nose = points[:3]
    assert right[0] < nose[0] < left[0]
    assert nose[1] > max(right[1], left[1])
    # Placed by hand on the photograph: pupils and tip of the nose.
    assert np.abs(points[:3] - [[443, 213], [549, 212], [496, 270]]).max() < 10


def test_turned_faces_are_found_by_their_landmarks(
    images: dict[str, Rgb], predictor: LandmarkPredictor
) -> None:
    """Even upside down, where a box alone would mislead."""
    image = images["biden.jpg"]
    _, box = hog_box(image)
    upright = predictor.eyes_and_nose(image, Detection(box, 0.0))
    expected = predictor.find(image, Detection(box, 1.0, upright))
    face = np.ptp(expected[:, 0])
    for degrees in (40, 90, 180, -135):
        matrix = cv2.getRotationMatrix2D(box.centre, degrees, 1)
        turned = np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1]), np.uint8)
        marks = alignment.apply(matrix, upright.astype(float)).astype(np.float32)
        found = predictor.find(turned, Detection(box, 1.0, marks))
        assert np.abs(found - alignment.apply(matrix, expected)).max() < 0.05 * face


def test_landmarks_that_say_nothing_are_ignored(
    images: dict[str, Rgb], predictor: LandmarkPredictor
) -> None:
    image = images["biden.jpg"]
    _, box = hog_box(image)
    expected = predictor.find(image, Detection(box, 1.0))
    for marks in (np.full((5, 2), np.nan, np.float32), np.full((5, 2), 7, np.float32)):
        assert np.array_equal(predictor.find(image, Detection(box, 1.0, marks)), expected)
