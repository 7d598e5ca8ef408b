"""Where a network wants the face to be: templates, the transform onto them, and the warp. Pure functions."""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.types import Box, Detection, Rgb

Floats: TypeAlias = NDArray[np.float64]

DLIB_CHIP: Floats = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ]
)
"""dlib's mean face in the unit square: outer and inner corner of the left eye, of the right eye, base of the nose."""


def dlib_chip(side: float, padding: float) -> Floats:
    """(5, 2) pixels of dlib's five points on a square chip, with `padding` shares of the face on every side.

    Half a pixel less than in dlib's template, as its chips show what lies half a pixel further on.
    """
    return (padding + DLIB_CHIP) / (2 * padding + 1) * side - 0.5


def similarity(source: Floats, target: Floats) -> Floats:
    """(2, 3) turn, uniform scale and shift that brings (n, 2) points closest to others, by least squares.

    Closed form of S. Umeyama, Least-squares estimation of transformation parameters between two point patterns
    (1991); never a reflection. Points that all coincide are shifted only.
    """
    # In the plane a point is a complex number, and so is a turn with a scale.
    before, after = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    from_mean, to_mean = before.sum() / len(before), after.sum() / len(after)
    away = before - from_mean
    spread = np.vdot(away, away).real
    turn = np.vdot(away, after - to_mean) / spread if spread > 0 else 1.0 + 0j
    shift = to_mean - turn * from_mean
    return np.array(
        [(turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag)], np.float64
    )


def apply(matrix: Floats, points: Floats) -> Floats:
    """(n, 2) points moved by a (2, 3) transform."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: Floats) -> Floats:
    """The (2, 3) transform that undoes an invertible one."""
    (a, b, x), (c, d, y) = matrix.tolist()
    size = a * d - b * c
    a, b, c, d = d / size, -b / size, -c / size, a / size
    return np.array([(a, b, -a * x - b * y), (c, d, -c * x - d * y)])


def compose(second: Floats, first: Floats) -> Floats:
    """The (2, 3) transform that does `first` and then `second`."""
    both = second[:, :2] @ first
    both[:, 2] += second[:, 2]
    return both


def scale_of(matrix: Floats) -> float:
    """How much a similarity transform enlarges."""
    return math.hypot(matrix[0, 0], matrix[1, 0])


ARCFACE: Floats = np.array(
    [
        (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)  # fmt: skip
"""The five landmarks on the chip of 112 pixels that ArcFace and its followers train on (J. Deng et al. 2019)."""


def arcface(side: int) -> Floats:
    """(5, 2) pixels of ArcFace's landmarks on a larger square chip, as InsightFace places them.

    Raises ValueError for a side that is no multiple of 112 or 128, for which there is no convention.
    """
    if side % 112 == 0:
        return np.asarray(ARCFACE * (side / 112), np.float64)
    if side % 128 == 0:
        return np.asarray((ARCFACE + np.array([8.0, 0.0])) * (side / 128), np.float64)
    raise ValueError(
        f"the place of ArcFace's landmarks is not agreed on for a chip of {side} pixels"
    )


def to_template(face: Detection, template: Floats) -> Floats:
    """(2, 3) from the image to the chip on which the landmarks lie at `template` (5, 2), by those that are known.

    The mouth's centre, if it is known, stands for its corners. Without both eyes: the middle of the box to the middle
    of the points, by size.
    """
    if face.landmarks is not None:
        points = face.landmarks.astype(np.float64)
        known = np.asarray(np.isfinite(points).all(axis=1), np.bool_)
        if known[:2].all() and np.ptp(points[known]) > 0:
            source, target = points[known], template[known]
            if face.mouth is not None and not known[3:].any():
                source = np.vstack([source, face.mouth])
                target = np.vstack([target, template[3:].mean(axis=0)])
            return similarity(source, target)
    scale = TEMPLATE_SHARE * float(np.ptp(template[:, 1])) / max(1.0, math.sqrt(face.box.area))
    return np.column_stack(
        [np.eye(2) * scale, template.mean(axis=0) - scale * np.array(face.box.centre)]
    )


def to_square(box: Box, size: tuple[int, int], margin: float = 0.0) -> Floats:
    """(2, 3) from the image to a (height, width) canvas that shows the box, grown by `margin` shares, in its middle."""
    height, width = size
    scale = min(width / max(1.0, box.w), height / max(1.0, box.h)) / (1.0 + margin)
    centre = np.array([(width - 1) / 2, (height - 1) / 2]) - scale * (np.array(box.centre) - 0.5)
    return np.column_stack([np.eye(2) * scale, centre])


TEMPLATE_SHARE = 2.5
"""Side of a detector's box over the height of eyes to mouth, about."""


def warp(image: Rgb, matrix: Floats, side: int, height: int | None = None) -> Rgb:
    """(height or side, side, 3) uint8: the image moved by `matrix`, whose integers are pixels' centres; black outside.

    Only the part that is seen is read; it is averaged down first where it is more than twice too large.
    """
    tall = side if height is None else height
    part, matrix = _seen(image, matrix, (side, tall))
    shrink = int(1 / max(scale_of(matrix), 1e-6))
    if shrink > 1 and min(part.shape[:2]) >= 1:
        width, height = max(1, part.shape[1] // shrink), max(1, part.shape[0] // shrink)
        fx, fy = part.shape[1] / width, part.shape[0] / height
        part = geometry.resize(part, width, height)
        # Centres: x_large = (x_small + 0.5) * f - 0.5.
        grow = np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])
        matrix = matrix @ grow
    out = cv2.warpAffine(
        part, matrix, (side, tall), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return out.astype(np.uint8, copy=False)


def _seen(image: Rgb, matrix: Floats, size: tuple[int, int]) -> tuple[Rgb, Floats]:
    """The part of the image that lands on the canvas, and the transform from there."""
    width, height = size
    ranges = []
    for (along_x, along_y, start), limit in zip(
        invert(matrix).tolist(), (image.shape[1], image.shape[0]), strict=True
    ):
        x, y = along_x * width, along_y * height
        corners = start, start + x, start + y, start + (x + y)
        low = min(max(math.floor(min(corners)) - 2, 0), limit - 1)
        ranges.append((low, min(max(math.ceil(max(corners)) + 3, low + 1), limit)))
    (left, right), (top, bottom) = ranges
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (left, top)
    return image[top:bottom, left:right], moved
