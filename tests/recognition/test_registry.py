"""Registering is testing: every spec is complete, and every part does its work on a photograph."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from recognition import registry
from recognition.errors import UnknownName, WeightsMissing
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.spec import Resources, alternatives, available
from recognition.types import METRICS, Rgb
from recognition.verification import compare


@pytest.fixture(scope="module")
def recognizer(resources: Resources) -> Recognizer:
    return Recognizer(resources)


@pytest.fixture(scope="module")
def images(portraits: dict[str, bytes]) -> dict[str, Rgb]:
    return {name: decode(data, ImageLimits()) for name, data in portraits.items()}


def test_specs_are_complete() -> None:
    for spec in (
        *registry.MODELS.values(),
        *registry.DETECTORS.values(),
        *registry.ATTRIBUTES.values(),
    ):
        assert spec.licence
        assert spec.origin
        assert spec.summary
        for weights in chain(spec.weights, *alternatives(spec)):
            assert weights.sha256 is None or len(weights.sha256) == 64
            assert "==" in weights.package or weights.urls or weights.how
    for model in registry.MODELS.values():
        assert {"", "/none"} <= set(model.thresholds)
        for name, thresholds in model.thresholds.items():
            assert name.partition("/")[0] in ("", *registry.DETECTORS)
            assert set(thresholds) in ({*METRICS}, {*METRICS} - {"euclidean"})
            for threshold in thresholds.values():
                published = threshold.data.startswith("published by")
                assert published or (threshold.accuracy or 0) > 0.9
                assert published or (threshold.slope or 0) > 0
                assert threshold.data
                assert threshold.value > 0


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="mediapipe"):
        registry.detector("nonesuch")


@pytest.mark.parametrize("detector", [name for name in registry.DETECTORS if name != "skip"])
def test_every_detector_tells_the_two_men_apart(
    detector: str, recognizer: Recognizer, images: dict[str, Rgb]
) -> None:
    recipe = Recipe("Dlib", detector)
    try:
        recognizer.warm(recipe)
    except WeightsMissing:
        pytest.skip(f"the weights of {detector} are not on this machine and cannot be had here")
    one = Selection(max_faces=1)
    found = {name: recognizer.represent([image], recipe, one)[0] for name, image in images.items()}
    rows = {name: recognizer.embeddings(faces, recipe) for name, faces in found.items()}
    assert all(len(row) == 1 for row in rows.values())
    for metric in METRICS:
        own = registry.MODELS["Dlib"].threshold(detector, metric)
        same = compare(rows["obama.jpg"], rows["obama2.jpg"], own)
        other = compare(rows["obama.jpg"], rows["biden.jpg"], own)
        assert same.verified, (metric, same)
        assert not other.verified, (metric, other)
        assert same.confidence > 50 > other.confidence
    eyes = found["obama.jpg"][0].detection.landmarks
    assert eyes is not None
    assert eyes[0, 0] < eyes[1, 0], "the person's right eye is on the left of the image"


@pytest.mark.parametrize("model", list(registry.MODELS))
def test_batches_do_not_change_embeddings(
    model: str, recognizer: Recognizer, images: dict[str, Rgb]
) -> None:
    spec = registry.MODELS[model]
    packaged = all(weights.package for weights in spec.weights)
    if not packaged and not available(spec, recognizer.resources.weights):
        pytest.skip("its weights are in no package; seeded ones are tested in test_keras")
    recipe = Recipe(model, "mediapipe")
    together = recognizer.represent(list(images.values()), recipe, Selection())
    for image, faces in zip(images.values(), together, strict=True):
        alone = recognizer.represent([image], recipe, Selection())[0]
        for a, b in zip(alone, faces, strict=True):
            assert a.embedding.shape == (spec.dimension,)
            assert a.embedding.dtype == np.float32
            assert np.allclose(a.embedding, b.embedding, atol=1e-5)


def test_a_mirror_image_has_the_same_embedding(
    recognizer: Recognizer, images: dict[str, Rgb]
) -> None:
    recipe = Recipe("Dlib", "mediapipe")
    crop = recognizer.crop(
        images["obama.jpg"],
        recognizer.detect([images["obama.jpg"]], "mediapipe", Selection())[0][0],
        recipe,
    )
    rows = recognizer.embed([crop, np.ascontiguousarray(crop[:, ::-1])], recipe)
    assert np.allclose(rows[0], rows[1], atol=1e-5)


def test_turned_faces_stay_the_same_person(recognizer: Recognizer, images: dict[str, Rgb]) -> None:
    """The alignment undoes a tilt that the detector still finds."""
    import cv2

    recipe = Recipe("Dlib", "mediapipe")
    image = images["obama2.jpg"]
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1)
    turned = np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)
    rows = [
        recognizer.embeddings(recognizer.represent([i], recipe, Selection(1))[0], recipe)
        for i in (image, turned)
    ]
    own = registry.MODELS["Dlib"].threshold("mediapipe", "cosine")
    assert compare(rows[0], rows[1], own).distance < 0.02


def test_selection_limits_and_grows(recognizer: Recognizer, images: dict[str, Rgb]) -> None:
    image = images["biden.jpg"]
    pair = np.concatenate([image, image[:, ::-1]], axis=1)
    both = recognizer.detect([pair], "mediapipe", Selection())[0]
    assert len(both) >= 2
    assert len(recognizer.detect([pair], "mediapipe", Selection(max_faces=1))[0]) == 1
    grown = recognizer.detect([image], "mediapipe", Selection(1, expand_percentage=50))[0][0]
    plain = recognizer.detect([image], "mediapipe", Selection(1))[0][0]
    assert grown.box.w == pytest.approx(1.5 * plain.box.w, rel=0.05)


def test_empty_batches(recognizer: Recognizer) -> None:
    recipe = Recipe("Dlib", "mediapipe")
    assert recognizer.represent([], recipe, Selection()) == []
    assert recognizer.embed([], recipe).shape == (0, 128)
