"""DeepFace's geometry and arithmetic: cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recognition import deepface
from recognition.types import Box, Detection, Points

RANDOM = np.random.default_rng(5)
IMAGE = RANDOM.integers(0, 256, (60, 80, 3), dtype=np.uint8)


def eyes(right: tuple[float, float], left: tuple[float, float]) -> Points:
    unknown = (np.nan, np.nan)
    return np.array([right, left, unknown, unknown, unknown], np.float32)


def test_level_eyes_cut_out_the_box() -> None:
    face = Detection(Box(10.9, 20.2, 31.7, 25.5), 1.0, eyes((15, 30), (35, 30)))
    assert np.array_equal(deepface.cut(IMAGE, face), IMAGE[20:45, 10:41])


def test_what_lies_outside_the_image_is_black() -> None:
    face = Detection(Box(-5, 50, 20, 20), 1.0)
    out = deepface.cut(IMAGE, face)
    assert out.shape == (20, 20, 3)
    assert np.array_equal(out[:10, 5:], IMAGE[50:60, 0:15])
    assert not out[:, :5].any()
    assert not out[10:].any()


def test_a_quarter_turn_levels_the_eyes() -> None:
    """The left eye straight below the right one: the face lies on its side and is stood up."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[30:36, 48:52] = (200, 0, 0)  # right eye
    image[64:70, 48:52] = (0, 200, 0)  # left eye
    face = Detection(Box(25, 25, 50, 50), 1.0, eyes((50, 33), (50, 67)))
    out = deepface.cut(image, face)
    red = np.argwhere(out[..., 0] > 100).mean(axis=0)
    green = np.argwhere(out[..., 1] > 100).mean(axis=0)
    assert abs(red[0] - green[0]) < 1  # one height
    assert green[1] - red[1] == pytest.approx(34, abs=1)  # the left eye to the right of the other


def test_letterbox_is_centred_and_black_beside() -> None:
    white = np.full((40, 20, 3), 255, np.uint8)
    out = deepface.letterbox(white, (55, 47))
    columns = np.flatnonzero(out.any(axis=(0, 2)))
    assert out.shape == (55, 47, 3)
    assert (columns[0], columns[-1]) == (10, 36)  # 27 of 47 columns, 10 of 20 on the left
    assert out.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base", (30 / 255, 20 / 255, 10 / 255)),
        ("raw", (30, 20, 10)),
        ("Facenet2018", (30 / 127.5 - 1, 20 / 127.5 - 1, 10 / 127.5 - 1)),
        ("ArcFace", (-97.5 / 128, -107.5 / 128, -117.5 / 128)),
        ("VGGFace", (30 - 93.594, 20 - 104.7624, 10 - 129.1863)),
        ("VGGFace2", (30 - 91.4953, 20 - 103.8827, 10 - 131.0912)),
        ("Facenet", (1.5**0.5, 0, -(1.5**0.5))),
    ],
)
def test_normalization_of_a_pixel(name: str, expected: tuple[float, float, float]) -> None:
    crop = np.full((2, 2, 3), (10, 20, 30), np.uint8)  # red, green, blue
    out = deepface.tensor([crop, crop], name)  # type: ignore[arg-type]
    assert out.shape == (2, 2, 2, 3)
    assert out.dtype == np.float32
    assert out[1, 0, 0] == pytest.approx(expected, abs=1e-5)


def test_the_border_and_the_way_back() -> None:
    padded, (x, y) = deepface.border(IMAGE)
    assert (x, y) == (40, 30)
    assert padded.shape == (120, 160, 3)
    assert np.array_equal(padded[30:90, 40:120], IMAGE)
    face = Detection(Box(50, 40, 9, 9), 1.0, eyes((52, 43), (57, 43)))
    back = deepface.moved(face, -x, -y)
    assert (back.box.x, back.box.y) == (10, 10)
    assert back.landmarks is not None
    assert back.landmarks[0].tolist() == [12, 13]
