"""The detectors as DeepFace runs them: on the sample people its own boxes and embeddings, written down by the proof."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from indexer.settings import Settings
from indexer.workshop import recognizer as recognizer_of
from recognition import deepface, deepface_detectors
from recognition.detectors import yunet
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.registry import DETECTORS
from recognition.spec import available
from recognition.types import Box, Detection, Embeddings, Rgb

CANONICAL = json.loads((Path(__file__).parent / "canonical" / "pipelines.json").read_text())
PACKAGED = [name for name in CANONICAL if name not in ("ssd", "yunet")]

LARGE = 4_000_000
"""Bytes from which on a picture takes some detectors seconds; the proof takes them all."""


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return recognizer_of(Settings())


@pytest.fixture(scope="module")
def people(portraits: dict[str, bytes]) -> dict[str, Rgb]:
    return {file: decode(data, ImageLimits()) for file, data in portraits.items()}


@pytest.mark.parametrize("detector", CANONICAL)
def test_the_same_photograph_gives_the_same_embedding(
    recognizer: Recognizer, people: dict[str, Rgb], detector: str
) -> None:
    if (
        not available(DETECTORS[detector], recognizer.resources.weights)
        and detector not in PACKAGED
    ):
        pytest.skip(f"the weights of {detector} are in no package and not on this machine")
    if detector == "yunet" and not only_the_small_form(recognizer):
        pytest.skip("DeepFace was given another training of yunet than the one on this machine")
    recipe = Recipe("Dlib", detector, "deepface")
    for told in CANONICAL[detector]:
        image, boxes = people[told["file"]], np.array(told["boxes"]).reshape(-1, 4)
        if told["cut"]:
            left, top, right, bottom = told["cut"]
            image = image[top:bottom, left:right]
        if image.size > LARGE:
            continue
        (found,) = recognizer.represent([image], recipe, Selection())
        if not len(boxes) and detector in deepface_detectors.SHORT_SIGHTED:
            assert found, told["file"]
            continue
        assert len(found) == len(boxes), told["file"]
        for face in found:
            box = face.detection.box
            place = np.array([max(0, box.x), max(0, box.y), box.w, box.h])  # as DeepFace tells it
            near = int(np.abs(boxes - place).sum(axis=1).argmin())
            if detector != "skip":  # whose height and width DeepFace tells in the wrong order
                assert np.abs(boxes[near] - place).max() <= 1, told["file"]
            assert alike(told["embeddings"][near], face.embedding) > 0.999, told["file"]


def alike(theirs: list[float], ours: Embeddings) -> float:
    """Cosine of what is written down of theirs."""
    a, b = np.array(theirs), ours[: len(theirs)].astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def only_the_small_form(recognizer: Recognizer) -> bool:
    held = [recognizer.resources.weights.present(weights) for (weights,) in yunet.CHOICES]
    return held == [False, False, True]


def test_native_faces_are_others(recognizer: Recognizer, people: dict[str, Rgb]) -> None:
    """What the proof is there for: without DeepFace's way the embedding is another one."""
    told = CANONICAL["opencv"][0]
    (found,) = recognizer.represent(
        [people[told["file"]]], Recipe("Dlib", "opencv"), Selection(max_faces=1)
    )
    assert alike(told["embeddings"][0], found[0].embedding) < 0.999


def test_only_the_largest_are_chosen_and_grown_in_whole_pixels() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    faces = [Detection(Box(10, 10, 20, 20), 1.0), Detection(Box(150, 40, 41, 51), 0.5)]
    (largest,) = deepface.chosen(faces, image, 1, 0)
    assert largest.box == Box(150, 40, 41, 51)
    (grown,) = deepface.chosen(faces[1:], image, None, 50)
    assert grown.box == Box(140, 28, 60, 72)
    assert [face.box for face in deepface.chosen(faces, image, 5, 0)] == [f.box for f in faces]


def test_a_face_without_two_eyes_is_not_turned() -> None:
    face = Detection(Box(5, 5, 40, 40), 1.0)
    grey = np.full((60, 60, 3), 128, np.uint8)
    assert deepface_detectors.Eyes().complete(grey, face) is face
    outside = Detection(Box(80, 80, 10, 10), 1.0)
    assert deepface_detectors.Eyes().complete(grey, outside) is outside
