"""How usable a face is for recognition: pure functions of its pixels and its detection."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import cv2

from recognition.types import Detection, Points, Rgb

GOOD_SIDE_PX = 80.0
GOOD_SHARPNESS = 120.0
SIDE_PX = 112


@dataclass(frozen=True, slots=True)
class Measures:
    """`side`: the box's shorter side in pixels; `sharpness`: variance of the Laplacian of the face scaled to 112 px;
    `brightness`: mean grey, 0..255; `yaw`: how far the nose is from the middle of the eyes, over their distance
    (0 is frontal, None without these points); `score`: the detector's."""

    side: float
    sharpness: float
    brightness: float
    yaw: float | None
    score: float


def measure(image: Rgb, face: Detection) -> Measures:
    """A face of which hardly a pixel is in the image has a side of 0."""
    height, width = image.shape[:2]
    x0, y0 = max(0, int(face.box.x)), max(0, int(face.box.y))
    x1 = min(width, int(face.box.x + face.box.w))
    y1 = min(height, int(face.box.y + face.box.h))
    yaw = _yaw(face.landmarks)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return Measures(0.0, 0.0, 0.0, yaw, face.score)
    grey = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    side = float(min(face.box.w, face.box.h))
    return Measures(side, float(deviation[0, 0]) ** 2, cv2.mean(grey)[0], yaw, face.score)


def quality(image: Rgb, face: Detection) -> float:
    """0..1: the geometric mean of size, sharpness, exposure and detector score, each in 0..1.

    Size is the box's shorter side over 80 px; sharpness the variance of the Laplacian of the face
    scaled to 112 px over 120; exposure how far the mean grey is from black and white.
    """
    return overall(measure(image, face))


def overall(found: Measures) -> float:
    """`quality` of what was measured."""
    if found.side == 0:
        return 0.0
    exposure = 1.0 - abs(found.brightness / 127.5 - 1.0) ** 2
    values = (
        found.side / GOOD_SIDE_PX,
        found.sharpness / GOOD_SHARPNESS,
        exposure,
        max(found.score, 0.05),
    )
    parts = [min(max(value, 0.0), 1.0) for value in values]
    return math.prod(parts) ** (1 / len(parts))


def _yaw(points: Points | None) -> float | None:
    if points is None:
        return None
    right, left, nose = (complex(x, y) for x, y in points[:3].tolist())
    eyes, away = left - right, nose - (right + left) / 2
    if eyes == 0 or not cmath.isfinite(eyes) or not cmath.isfinite(away):
        return None
    return abs((away * eyes.conjugate()).real) / abs(eyes) ** 2
