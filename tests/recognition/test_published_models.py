"""SFace and Buffalo_L: a seeded network in place of the published one, through the originals' code and ours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from proof import buffalo, sface, small_network
from proof.faces import Photograph, cosine
from recognition import alignment, geometry, registry
from recognition.images import ImageLimits, decode
from recognition.models import buffalo_l
from recognition.models import sface as sface_model
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.registry import BUILT_IN
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Box, Detection

WIDTH = 480
RECORDED: dict[str, tuple[list[tuple[float, float]], float, list[float]]] = {
    "obama.jpg": (
        [(235.206, 112.762), (288.763, 112.482), (262.548, 145.031), (230.555, 168.233),
         (291.599, 167.625)],
        7.8988,
        [0.16838, -0.05212, -0.43627, 0.54921, 0.33791, -0.31075, -0.46313, 0.25984],
    ),
    "biden.jpg": (
        [(266.328, 158.551), (323.345, 171.286), (294.596, 200.413), (255.717, 227.647),
         (308.984, 235.394)],
        8.2215,
        [0.21992, 0.04892, -0.38999, 0.39678, 0.40450, -0.52149, -0.36149, 0.05270],
    ),
}  # fmt: skip
"""Landmarks, length and first numbers by InsightFace 2.1's ArcFaceONNX, from proof.buffalo --record."""


@pytest.fixture(params=list(RECORDED))
def photograph(request: pytest.FixtureRequest, portraits: dict[str, bytes]) -> Photograph:
    """With the landmarks that both sides are given."""
    image = decode(portraits[request.param], ImageLimits())
    height = round(image.shape[0] * WIDTH / image.shape[1])
    points = np.array(RECORDED[request.param][0], np.float32)
    face = Detection(Box(200, 60, 120, 150), 1.0, points)
    return Photograph(request.param, geometry.resize(image, WIDTH, height), face, 0.6)


def test_sface_gives_what_opencv_gives(photograph: Photograph, tmp_path: Path) -> None:
    network = tmp_path / "sface.onnx"
    small_network.save(network, sface_model.DIMENSION, batch=1, scale=1 / 128)
    assert sface.compare(network, photograph) > 0.9999
    other = Photograph("", photograph.image[..., ::-1], photograph.face, 0.6)
    swapped = cosine(sface.theirs(network, photograph), sface.ours(network, other))
    assert swapped < 0.999, "the order of colours must show"


def test_buffalo_gives_what_insightface_gave(photograph: Photograph, tmp_path: Path) -> None:
    network = tmp_path / "w600k_r50.onnx"
    buffalo.stand_in(network)
    row = buffalo.ours(network, photograph)
    _, length, first = RECORDED[photograph.name]
    assert np.linalg.norm(row) == pytest.approx(length, rel=2e-3)
    assert np.allclose(row[: len(first)], first, atol=0.004 * length)


def test_opencvs_thresholds_are_distances() -> None:
    spec = registry.MODELS["SFace"]
    cosine_ = spec.threshold("yunet", "cosine")
    assert cosine_.value == pytest.approx(0.637)
    assert spec.threshold("yunet", "euclidean_l2").value == 1.128
    assert spec.threshold("yunet", "angular").value == pytest.approx(np.arccos(0.363) / np.pi)
    assert spec.threshold("yunet", "cosine", "deepface").value == 0.593
    assert spec.default_align == "native"


def test_buffalo_is_not_for_commerce() -> None:
    spec = registry.MODELS["Buffalo_L"]
    assert any(w.non_commercial for w in spec.weights)
    recipe = Recipe.usual(spec, "mtcnn")
    assert recipe.align == "deepface"
    assert spec.threshold("mtcnn", "cosine", recipe.align).data.startswith("published by DeepFace")


def mouthless(face: Detection) -> Detection:
    points: NDArray[np.float32] = np.array(face.landmarks, np.float32)
    points[3:] = np.nan
    return Detection(face.box, face.score, points)


def test_the_mouths_centre_stands_for_its_corners() -> None:
    face = Detection(Box(0, 0, 112, 112), 1.0, alignment.ARCFACE.astype(np.float32))
    x, y = alignment.ARCFACE[3:].mean(axis=0)
    known = Detection(face.box, 1.0, mouthless(face).landmarks, mouth=(float(x), float(y)))
    assert np.allclose(alignment.to_template(known, alignment.ARCFACE), np.eye(2, 3), atol=1e-5)
    lower = Detection(face.box, 1.0, known.landmarks, mouth=(float(x), float(y) + 10))
    assert alignment.scale_of(alignment.to_template(lower, alignment.ARCFACE)) < 0.95


def test_faces_without_a_mouth_come_to_the_same_place(
    portraits: dict[str, bytes], resources: Resources, tmp_path: Path
) -> None:
    """BlazeFace's faces, by dlib's predictor and the mouth's centre, land where MTCNN's land by five landmarks."""
    image = decode(portraits["obama2.jpg"], ImageLimits())
    network = tmp_path / "w600k_r50.onnx"
    buffalo.stand_in(network)
    weights = resources.weights
    recognizer = Recognizer(resources, BUILT_IN)
    embedder = buffalo_l.NetworkEmbedder(
        Runtime(1).session(network), buffalo_l.INPUT, 512,
        predictor=buffalo_l.LandmarkPredictor.build(Resources(weights, Runtime(1))),
    )  # fmt: skip
    chips = {
        name: embedder.crop(image, recognizer.detect([image], name, Selection(1))[0][0], "native")
        for name in ("mtcnn", "mediapipe", "opencv")
    }
    for name in ("mediapipe", "opencv"):
        shift, _ = cv2.phaseCorrelate(
            *(chips[n].mean(axis=2).astype(np.float32) for n in ("mtcnn", name))
        )
        assert np.hypot(*shift) < 4, (name, shift)
