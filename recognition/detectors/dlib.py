"""dlib: the detector of dlib, histograms of oriented gradients over an image pyramid."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from recognition.spec import DetectorSpec, Resources
from recognition.types import Box, Detection, Rgb

LONGEST_SIDE = 1024
SMALL_SIDE = 640
"""Images up to this long are doubled, so that faces from 40 pixels on are found."""


class Hog:
    """One detector per thread: dlib runs it without the interpreter lock and keeps its pyramid in it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._local = threading.local()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._one(image) for image in images]

    def _one(self, image: Rgb) -> tuple[Detection, ...]:
        longest = max(image.shape[:2])
        scale = min(1.0, LONGEST_SIDE / longest)
        if scale < 1:
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        doubled = 1 if max(image.shape[:2]) <= SMALL_SIDE else 0
        boxes, scores, _ = self._detector().run(image, doubled, 0.0)
        found = [
            Detection(
                Box(r.left() / scale, r.top() / scale, r.width() / scale, r.height() / scale),
                score_of(score),
            )
            for r, score in zip(boxes, scores, strict=True)
        ]
        return tuple(sorted(found, key=lambda f: f.score, reverse=True))

    def _detector(self) -> Any:  # noqa: ANN401 - dlib has no types
        if not hasattr(self._local, "detector"):
            self._local.detector = self._make()
        return self._local.detector


def score_of(margin: float) -> float:
    """The classifier's margin (above 0 is a face, 1 and more is sure) as a share of 1."""
    return min(1.0, 0.5 + max(0.0, margin) / 2)


def build(_resources: Resources) -> Hog:
    return Hog(importlib.import_module("dlib").get_frontal_face_detector)


SPECS = (
    DetectorSpec(
        name="dlib",
        summary="HOG over an image pyramid; upright frontal faces from 40 px",
        licence="BSL-1.0",
        origin="dlib, get_frontal_face_detector (built into the library)",
        landmarks=False,
        weights=(),
        build=build,
    ),
)
