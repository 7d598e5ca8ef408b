"""How usable a face is for recognition: a pure function of its pixels and its detection."""

from __future__ import annotations

import cv2
import numpy as np

from recognition.types import Detection, Rgb

GOOD_SIDE_PX = 80.0
GOOD_SHARPNESS = 120.0
SIDE_PX = 112


def quality(image: Rgb, face: Detection) -> float:
    """0..1: the geometric mean of size, sharpness, exposure and detector score, each in 0..1.

    Size is the box's shorter side over 80 px; sharpness the variance of the Laplacian of the face
    scaled to 112 px over 120; exposure how far the mean grey is from black and white.
    """
    height, width = image.shape[:2]
    x0, y0 = max(0, int(face.box.x)), max(0, int(face.box.y))
    x1 = min(width, int(face.box.x + face.box.w))
    y1 = min(height, int(face.box.y + face.box.h))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return 0.0
    grey = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var()) / GOOD_SHARPNESS
    exposure = 1.0 - abs(float(grey.mean()) / 127.5 - 1.0) ** 2
    side = min(face.box.w, face.box.h) / GOOD_SIDE_PX
    parts = np.clip([side, sharpness, exposure, max(face.score, 0.05)], 0.0, 1.0)
    return float(np.prod(parts) ** (1 / len(parts)))
