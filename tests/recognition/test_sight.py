"""Large photographs seen on fewer pixels: the same faces, at the same places, and none on too few."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from recognition.images import ImageLimits
from recognition.pipeline import Face, Recipe, Recognizer, Selection
from recognition.spec import Resources

LIMITS = ImageLimits()
LONGER = 3200


@pytest.fixture(scope="module")
def recognizer(resources: Resources) -> Recognizer:
    return Recognizer(resources)


def recipe(recognizer: Recognizer, detector: str = "mediapipe") -> Recipe:
    return Recipe.usual(recognizer.models.installed("Dlib"), detector)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def enlarged(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    factor = LONGER / max(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)))


def described(recognizer: Recognizer, data: bytes, *, whole: bool) -> tuple[Face, ...]:
    how = recipe(recognizer)
    sight = recognizer.see(data, LIMITS, how, Selection(), whole=whole)
    return recognizer.describe_seen(sight, how)


@pytest.mark.parametrize("portrait", ["obama.jpg", "biden.jpg"])
def test_a_large_photograph_is_seen_on_half_its_pixels_each_way(
    recognizer: Recognizer, portraits: dict[str, bytes], portrait: str
) -> None:
    image = enlarged(portraits[portrait])
    data = jpeg(image)
    sight = recognizer.see(data, LIMITS, recipe(recognizer), Selection())
    assert max(sight.picture.pixels.shape) == LONGER // 2
    assert (sight.picture.width, sight.picture.height) == image.size
    (here,), (there,) = (described(recognizer, data, whole=whole) for whole in (False, True))
    side = there.detection.box.w
    for a, b in zip(
        (here.detection.box.x, here.detection.box.y, here.detection.box.w, here.detection.box.h),
        (there.detection.box.x, there.detection.box.y, side, there.detection.box.h),
        strict=True,
    ):
        assert abs(a - b) < 0.02 * side
    assert here.detection.landmarks is not None
    assert there.detection.landmarks is not None
    away = here.detection.landmarks[:3] - there.detection.landmarks[:3]
    assert np.abs(away).max() < 0.02 * side
    assert here.measures is not None
    assert there.measures is not None
    assert here.measures.side == pytest.approx(there.measures.side, rel=0.02)
    cosine = here.embedding @ there.embedding
    assert cosine / np.linalg.norm(here.embedding) / np.linalg.norm(there.embedding) > 0.995


def test_small_faces_are_described_by_all_pixels(
    recognizer: Recognizer, portraits: dict[str, bytes]
) -> None:
    """The faces of half the pixels, where they are among all of them."""
    canvas = Image.new("RGB", (LONGER, 2400), (128, 128, 128))
    small = Image.open(io.BytesIO(portraits["obama.jpg"])).convert("RGB")
    small.thumbnail((700, 700))
    canvas.paste(small, (1200, 700))
    data = jpeg(canvas)
    sight = recognizer.see(data, LIMITS, recipe(recognizer), Selection())
    assert sight.picture.pixels.shape == (2400, LONGER, 3)
    (face,) = sight.faces
    assert 75 < face.box.w < 250
    (expected,) = recognizer.locate([sight.picture.pixels], recipe(recognizer), Selection())[0]
    assert np.abs(np.subtract(face.box.centre, expected.box.centre)).max() < 0.05 * face.box.w


@pytest.mark.parametrize("whole", [False, True])
def test_who_wants_all_pixels_gets_them(
    recognizer: Recognizer, portraits: dict[str, bytes], whole: bool
) -> None:
    """A detector of which nobody knows how many are enough; and who asks for all."""
    image = enlarged(portraits["biden.jpg"])
    how = recipe(recognizer, "mediapipe" if whole else "skip")
    sight = recognizer.see(jpeg(image), LIMITS, how, Selection(), whole=whole)
    assert sight.picture.pixels.shape == (image.height, image.width, 3)


def test_deepfaces_alignment_sees_what_deepface_sees(
    recognizer: Recognizer, portraits: dict[str, bytes]
) -> None:
    image = enlarged(portraits["biden.jpg"])
    how = Recipe("Dlib", "mediapipe_short", align="deepface")
    sight = recognizer.see(jpeg(image), LIMITS, how, Selection())
    assert sight.picture.pixels.shape == (image.height, image.width, 3)
