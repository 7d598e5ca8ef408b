"""What MTCNN's two cascades have in common: how the networks' outputs move boxes and place landmarks.

Paper: K. Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded CNNs (2016). Boxes are (n, 4) rows
of x, y, width, height; the networks count sizes from the first pixel to the last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recognition.geometry import Boxes

Array = NDArray[np.float32]

CELL, STRIDE = 12, 2
"""Window and step of the first network, in pixels of a pyramid level."""


def adjust(boxes: Boxes, offsets: Array) -> Boxes:
    """Corners moved by shares of the box's size, counted in pixels from the first to the last."""
    size = np.tile(boxes[:, 2:] + 1, 2)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return from_corners(corners + offsets * size)


def from_corners(corners: Array) -> Boxes:
    """(n, 4) left, top, right, bottom to x, y, width, height; a box turned inside out has no size."""
    return np.concatenate([corners[:, :2], np.maximum(corners[:, 2:] - corners[:, :2], 0)], axis=1)


def points(boxes: Boxes, landmarks: Array) -> Array:
    """(n, 5, 2) points of (n, 10) shares of the box's size: all x, then all y.

    The network's own order is that of `types.Points`: its first eye is the one at the left of the picture.
    """
    shares = landmarks.reshape(-1, 2, 5).transpose(0, 2, 1)
    placed: Array = boxes[:, None, :2] - 1 + shares * (boxes[:, None, 2:] + 1)
    return placed
