"""dlib's frontal face detector: histograms of oriented gradients under five linear filters.

N. Dalal and B. Triggs, Histograms of oriented gradients for human detection (2005); dlib's own code and filters.
"""

from __future__ import annotations

import importlib
import math
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from recognition import geometry
from recognition.spec import DetectorSpec, Resources
from recognition.types import Box, Detection, Rgb


class _Rectangle(Protocol):
    def left(self) -> int: ...
    def top(self) -> int: ...
    def width(self) -> int: ...
    def height(self) -> int: ...


class _Hog(Protocol):
    def run(
        self, image: Rgb, upsample: int, adjust_threshold: float, /
    ) -> tuple[Sequence[_Rectangle], Sequence[float], Sequence[int]]: ...


@dataclass(frozen=True, slots=True)
class Working:
    """The size at which faces are looked for; the filters see faces from 80 pixels on."""

    largest: int = 1024
    """Longer side in pixels, above which images are shrunk."""
    most_growth: float = 2.0
    """How much smaller images are enlarged to find faces from 40 pixels on."""

    def scale(self, image: Rgb) -> float:
        height, width = image.shape[:2]
        return float(min(self.largest / max(height, width), self.most_growth))


class DlibHog:
    """A detector of dlib's keeps state while it runs, so every concurrent call takes its own."""

    def __init__(self, dlib: ModuleType, working: Working) -> None:
        self._dlib, self._working = dlib, working
        self._idle: queue.SimpleQueue[_Hog] = queue.SimpleQueue()
        self._idle.put(dlib.get_frontal_face_detector())

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Upright frontal faces of each image, best score first; boxes may reach over the image's edge."""
        with self._one() as detector:
            return [self._detect(detector, image) for image in images]

    def _detect(self, detector: _Hog, image: Rgb) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        scale = self._working.scale(image)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        working = geometry.resize(image, *size)
        back = width / size[0], height / size[1]
        rectangles, scores, _ = detector.run(working, 0, 0.0)
        found = [
            Detection(_box(r, back), probability(score))
            for r, score in zip(rectangles, scores, strict=True)
        ]
        return tuple(sorted(found, key=lambda face: face.score, reverse=True))

    @contextmanager
    def _one(self) -> Iterator[_Hog]:
        try:
            detector = self._idle.get_nowait()
        except queue.Empty:
            detector = self._dlib.get_frontal_face_detector()
        try:
            yield detector
        finally:
            self._idle.put(detector)


def probability(score: float) -> float:
    """dlib's score, the distance to the filters' threshold (0 to about 3), as 0.5..1: logistic of its double."""
    return 1 / (1 + math.exp(-2 * score))


def _box(rectangle: _Rectangle, back: tuple[float, float]) -> Box:
    x, y = rectangle.left() * back[0], rectangle.top() * back[1]
    return Box(x, y, rectangle.width() * back[0], rectangle.height() * back[1])


def _build(_: Resources) -> DlibHog:
    return DlibHog(importlib.import_module("dlib"), Working())


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="dlib",
        summary="Histograms of oriented gradients; upright frontal faces from 40 pixels on",
        licence="BSL-1.0",
        origin="dlib by Davis King, filters built in",
        landmarks=False,
        weights=(),
        build=_build,
    ),
)
