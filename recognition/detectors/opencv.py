"""The Haar cascade that OpenCV carries: upright frontal faces, boxes only.

Paper: P. Viola and M. Jones, Rapid Object Detection using a Boosted Cascade of Simple Features (2001); cascade trained
by R. Lienhart for Intel (Intel License Agreement, BSD-like, in the file). The step between sizes is DeepFace's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from recognition import geometry
from recognition.errors import WeightsMissing
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb

PIXELS = 640 * 480
"""Larger images are shrunk to this area first; the cascade's window is 24 pixels there."""
SCALE_STEP = 1.1
NEIGHBOURS = 6
LEAST_WEIGHT = 2.0
"""With 6 neighbours: on LFW more faces and no more false ones than with 10 neighbours and no bound (DeepFace)."""


class HaarCascade:
    """Upright frontal faces; the cascade's own measure of certainty is mapped to 0..1 by `score`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # An OpenCV classifier keeps state while it runs: one for each thread.
        self._local = threading.local()
        self._classifier()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first, without landmarks."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        small, back = geometry.within(image, PIXELS)
        found, _, weights = self._classifier().detectMultiScale3(
            cv2.cvtColor(small, cv2.COLOR_RGB2GRAY),
            scaleFactor=SCALE_STEP,
            minNeighbors=NEIGHBOURS,
            outputRejectLevels=True,
        )
        weight = np.asarray(weights, np.float64).reshape(-1)
        boxes = np.asarray(found, np.float32).reshape(-1, 4) * np.tile(back, 2)
        boxes = geometry.clip(boxes, image.shape[1], image.shape[0])
        order = np.argsort(-weight, kind="stable")
        return tuple(
            Detection(geometry.to_box(boxes[i]), score(float(weight[i])))
            for i in order
            if weight[i] >= LEAST_WEIGHT
        )

    def _classifier(self) -> cv2.CascadeClassifier:
        classifier: cv2.CascadeClassifier | None = getattr(self._local, "classifier", None)
        if classifier is None:
            classifier = cv2.CascadeClassifier(str(self._path))
            if classifier.empty():
                raise WeightsMissing(
                    f"{self._path} is missing or unreadable; it comes with opencv-python-headless 4.x"
                )
            self._local.classifier = classifier
        return classifier


def score(weight: float) -> float:
    """A logistic curve fitted to finds on LFW: about the share of those with that weight that are faces."""
    return 1 / (1 + math.exp(1.65 - weight))


def _build(resources: Resources) -> HaarCascade:
    return HaarCascade(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml")


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="opencv",
        summary="Haar cascade built into OpenCV; upright frontal faces, no landmarks",
        licence="Intel License Agreement For Open Source Computer Vision Library (BSD-like)",
        origin="P. Viola and M. Jones 2001; haarcascade_frontalface_default.xml by R. Lienhart",
        landmarks=False,
        weights=(),
        build=_build,
    ),
)
