"""Boxes and canvases: pure functions. Boxes are (n, 4) rows of x, y, width, height in pixels.

Coordinates are continuous: the box of a whole 10 x 10 image is 0, 0, 10, 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.types import Box, Detection, Rgb

Boxes: TypeAlias = NDArray[np.float32]
"""(n, 4) float32 x, y, width, height."""

Floats: TypeAlias = NDArray[np.floating[Any]]

Indices: TypeAlias = NDArray[np.intp]


def overlap(a: Floats, b: Floats, over: Literal["union", "smaller"] = "union") -> Floats:
    """(n, m) intersection of each of `a` with each of `b`, divided by their union or the smaller area.

    Boxes without area overlap with nothing.
    """
    shared = np.ones((len(a), len(b)), np.result_type(a, b))
    for axis in (0, 1):
        first, second = a[:, axis, None], b[None, :, axis]
        side = np.minimum(first + a[:, axis + 2, None], second + b[None, :, axis + 2])
        side -= np.maximum(first, second)
        shared *= np.maximum(side, 0, out=side)
    areas = (a[:, 2] * a[:, 3])[:, None], (b[:, 2] * b[:, 3])[None]
    whole = np.minimum(*areas) if over == "smaller" else np.add(*areas) - shared
    out: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return out


def nms(
    boxes: Floats, scores: Floats, iou: float, over: Literal["union", "smaller"] = "union"
) -> Indices:
    """Greedy non-maximum suppression: indices of the kept boxes, best score first.

    A box goes when its `overlap` with a kept, better one is above `iou`. Of equal scores the earlier row counts as
    better. Work is O(n * kept): callers cap n.
    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while left.size:
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[overlap(boxes[best : best + 1], boxes[left], over)[0] <= iou]
    return np.array(kept, dtype=np.intp)


def clip(boxes: Floats, width: float, height: float) -> Floats:
    """The parts of the boxes inside an image of that size; width or height 0 where nothing is."""
    limits = np.array([width, height], dtype=boxes.dtype)
    low = np.clip(boxes[:, :2], 0, limits)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
    return np.concatenate([low, np.maximum(high - low, 0)], axis=1)


def square(boxes: Floats) -> Floats:
    """Boxes grown about their centres so that both sides have the longer one's length."""
    side = boxes[:, 2:].max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (boxes[:, 2:] - side) / 2
    return np.concatenate([corner, side, side], axis=1)


def to_box(row: Floats) -> Box:
    """One row as a `Box`."""
    x, y, w, h = (float(value) for value in row)
    return Box(x, y, w, h)


def whole(image: Rgb) -> Box:
    """The box of the entire image."""
    return Box(0.0, 0.0, float(image.shape[1]), float(image.shape[0]))


def pixels(box: Box, width: int, height: int) -> Box:
    """The box in whole pixels within an image of that size; at least one pixel wide and high."""
    x = min(max(round(box.x), 0), width - 1)
    y = min(max(round(box.y), 0), height - 1)
    right = min(max(round(box.x + box.w), x + 1), width)
    bottom = min(max(round(box.y + box.h), y + 1), height)
    return Box(x, y, right - x, bottom - y)


def resize(image: Rgb, width: int, height: int) -> Rgb:
    """Resampled to that size: pixel areas averaged where it shrinks, linear where it grows."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def reduce(image: Rgb, width: int, height: int) -> Rgb:
    """Nearly as `resize`, in a fraction of the time: linear by halves to twice the size, which is averaged."""
    if width * height >= image.shape[0] * image.shape[1]:
        return resize(image, width, height)
    twice, now = (2 * width, 2 * height), (image.shape[1], image.shape[0])
    while now != twice:
        now = max(twice[0], -(-now[0] // 2)), max(twice[1], -(-now[1] // 2))
        image = cv2.resize(image, now, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(
        np.uint8, copy=False
    )


def scaled(face: Detection, factors: tuple[float, float]) -> Detection:
    """The face in an image that is larger by these factors of x and y."""
    x, y = factors
    box = Box(x * face.box.x, y * face.box.y, x * face.box.w, y * face.box.h)
    points = None if face.landmarks is None else (face.landmarks * factors).astype(np.float32)
    mouth = None if face.mouth is None else (x * face.mouth[0], y * face.mouth[1])
    return Detection(box, face.score, points, mouth)


def shrink(image: Rgb, longest: int) -> tuple[Rgb, float]:
    """The image with its longer side at most `longest`, and the scale from the original (<= 1)."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image, 1.0
    return resize(image, max(1, round(width * scale)), max(1, round(height * scale))), scale


def within(image: Rgb, pixels: int) -> tuple[Rgb, Floats]:
    """The image with at most about that many pixels, and the (2,) x, y factors that lead back to the original."""
    height, width = image.shape[:2]
    scale = math.sqrt(pixels / (width * height))
    if scale >= 1:
        return image, np.ones(2, np.float32)
    small = resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
    return small, np.array([width / small.shape[1], height / small.shape[0]], np.float32)


def letterbox(image: Rgb, size: int, fill: int = 0) -> tuple[Rgb, float, tuple[float, float]]:
    """The image scaled to fit and centred on a (size, size, 3) canvas, with the scale and the x, y offset.

    A point at p in the image is at `p * scale + offset` on the canvas.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    inner = resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = (size - inner.shape[1]) // 2, (size - inner.shape[0]) // 2
    canvas = np.full((size, size, 3), fill, dtype=np.uint8)
    canvas[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return canvas, scale, (float(x), float(y))


def same_size(images: Sequence[Rgb], most: int) -> Iterator[list[int]]:
    """Indices of all images in groups of one height and width, up to `most` in each."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    for group in groups.values():
        yield from (group[i : i + most] for i in range(0, len(group), most))
