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


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """At which sizes faces are looked for, in pixels; the filters see faces from 80 on. Chosen by measurement."""

    first: int = 1024
    """Longer side of the image at the first look."""
    second: int = 2048
    """And at the second one, for images without a face or with a small one at the first."""
    small: int = 120
    """Side below which a face of the first look hints at others that were too small."""
    most_growth: float = 2.0
    """How much images are enlarged, to find faces from 40 pixels on."""
    least_score: float = -0.2
    """dlib's own limit is 0; below -0.2 less than 4 of 5 finds are faces."""


class DlibHog:
    """A detector of dlib's keeps state while it runs, so every concurrent call takes its own."""

    def __init__(self, dlib: ModuleType, search: Search) -> None:
        self._dlib, self._search = dlib, search
        self._idle: queue.SimpleQueue[_Hog] = queue.SimpleQueue()
        self._idle.put(dlib.get_frontal_face_detector())

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Upright frontal faces of each image, best score first; boxes may reach over the image's edge."""
        with self._one() as detector:
            return [self._detect(detector, image) for image in images]

    def _detect(self, detector: _Hog, image: Rgb) -> tuple[Detection, ...]:
        search, longest = self._search, max(image.shape[0], image.shape[1])
        near = min(search.first / longest, search.most_growth)
        far = min(search.second / longest, search.most_growth)
        found = self._look(detector, image, near)
        smallest = min((face.box.w * near for face in found), default=0.0)
        if far > near and smallest < search.small:
            found = self._look(detector, image, far) or found
        return tuple(sorted(found, key=lambda face: face.score, reverse=True))

    def _look(self, detector: _Hog, image: Rgb, scale: float) -> list[Detection]:
        height, width = image.shape[:2]
        # dlib's own doubling finds a few faces more than a bilinear one.
        double = scale == 2
        size = (width, height) if double else (round(width * scale), round(height * scale))
        working = geometry.resize(image, max(1, size[0]), max(1, size[1]))
        back = width / working.shape[1], height / working.shape[0]
        found = detector.run(working, int(double), self._search.least_score)
        return [
            Detection(_box(r, back), probability(score)) for r, score, _ in zip(*found, strict=True)
        ]

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
    """dlib's score, the distance to the filters' hyperplane (-0.2 to about 3), as 0.88..1: a logistic curve.

    It is about the share of finds with that score, in LFW and group photographs, where MTCNN sees a face too.
    """
    return 1 / (1 + math.exp(-8 * (score + 0.45)))


def _box(rectangle: _Rectangle, back: tuple[float, float]) -> Box:
    x, y = rectangle.left() * back[0], rectangle.top() * back[1]
    return Box(x, y, rectangle.width() * back[0], rectangle.height() * back[1])


def _build(_: Resources) -> DlibHog:
    return DlibHog(importlib.import_module("dlib"), Search())


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
