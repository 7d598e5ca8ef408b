"""Bringing faces into the frame that a network was trained on; pure functions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.types import Box, Rgb

Matrix = NDArray[np.float64]
"""(2, 3) float64: an affine map of x, y."""

DLIB_TEMPLATE = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)
"""Where dlib's five points lie in a face of side 1: the left eye's outer and inner corner, the
right eye's outer and inner corner, the base of the nose (dlib, Boost Software Licence)."""


def chip_template(template: Matrix, side: int, padding: float) -> Matrix:
    """A template of side 1 in the pixels of a chip with that much room around the face."""
    return (padding + template) / (2 * padding + 1) * side


def similarity(source: Matrix, target: Matrix) -> Matrix:
    """The rotation, scale and shift that brings (n, 2) points closest to others (Umeyama 1991)."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    variance = (a * a).sum()
    if variance == 0:
        raise ValueError("all points are the same")
    u, strengths, v = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])
    rotation = (u * signs) @ v * ((strengths * signs).sum() / variance)
    shift = target_mean - rotation @ source_mean
    return np.hstack([rotation, shift[:, None]])


def apply(matrix: Matrix, points: Matrix) -> Matrix:
    """(n, 2) points through an affine map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp(image: Rgb, matrix: Matrix, side: int) -> Rgb:
    """The square that the map brings into view, black outside the image.

    A face that shrinks by more than two is averaged down first, so that no pixel is skipped.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        image, matrix = _shrunk(image, matrix, scale, side)
    return np.asarray(
        cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


def square(box: Box) -> Box:
    """The square around the box's centre with its longer side."""
    side = max(box.w, box.h)
    x, y = box.centre
    return Box(x - side / 2, y - side / 2, side, side)


def crop_square(image: Rgb, box: Box, side: int) -> Rgb:
    """The square around a box, scaled to `side`; black outside the image."""
    around = square(box)
    scale = side / max(around.w, 1.0)
    matrix = np.array([[scale, 0.0, -around.x * scale], [0.0, scale, -around.y * scale]])
    return warp(image, matrix, side)


def _shrunk(image: Rgb, matrix: Matrix, scale: float, side: int) -> tuple[Rgb, Matrix]:
    """Only the part in view, averaged to about the target's resolution, and the map from there."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float64)
    inverse = cv2.invertAffineTransform(matrix)
    seen = apply(np.asarray(inverse, np.float64), corners)
    x0, y0 = np.clip(np.floor(seen.min(axis=0)) - 2, 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(seen.max(axis=0)) + 2, 1, [width, height]).astype(int)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    part = image[y0:y1, x0:x1]
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    sx, sy = part.shape[1] / size[0], part.shape[0] / size[1]
    # Pixel centres: an area-averaged pixel stands at the middle of what it covers.
    back = np.array([[sx, 0.0, x0 + (sx - 1) / 2], [0.0, sy, y0 + (sy - 1) / 2], [0, 0, 1]])
    return np.asarray(small, np.uint8), (np.vstack([matrix, [0, 0, 1]]) @ back)[:2]
