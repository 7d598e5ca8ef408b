"""A face as DeepFace gives it to a network, so that its users keep their thresholds and embeddings.

Geometry and arithmetic of DeepFace 0.0.103 by S. I. Serengil (MIT), written anew: the image gets a black border of half
its size, the face's surroundings are turned about their centre until the eyes are level, the box is cut out and
letterboxed in black. All boxes are whole pixels.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.spec import Threshold
from recognition.types import METRICS, Box, Detection, Metric, Normalization, Points, Rgb

Floats = NDArray[np.float32]

MEANS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"VGGFace": (93.5940, 104.7624, 129.1863), "VGGFace2": (91.4953, 103.8827, 131.0912)}
)
"""Blue, green, red of the mean face of each data set, 0..255."""


def border(image: Rgb) -> tuple[Rgb, tuple[int, int]]:
    """The image with black around it, half of its size on every side, and the x, y of its old corner."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    padded = cv2.copyMakeBorder(
        image, height, height, width, width, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return np.asarray(padded, np.uint8), (width, height)


def moved(face: Detection, x: float, y: float) -> Detection:
    """The detection in an image whose corner lies at -x, -y of the former one's."""
    box = replace(face.box, x=face.box.x + x, y=face.box.y + y)
    mouth = None if face.mouth is None else (face.mouth[0] + x, face.mouth[1] + y)
    shifted: Points | None = None
    if face.landmarks is not None:
        shifted = (face.landmarks + np.array([x, y])).astype(np.float32)
    return replace(face, box=box, landmarks=shifted, mouth=mouth)


def chosen(
    faces: Sequence[Detection], image: Rgb, most: int | None, expand_percentage: float
) -> list[Detection]:
    """The largest of the faces, if only so many are wanted, grown in whole pixels and cut at the image's edges."""
    if most is not None and most < len(faces):
        faces = heapq.nlargest(most, faces, key=lambda face: face.box.area)
    return [replace(face, box=_grown(face.box, image, expand_percentage)) for face in faces]


def _grown(box: Box, image: Rgb, percentage: float) -> Box:
    height, width = image.shape[:2]
    x, y, w, h = (int(side) for side in (box.x, box.y, box.w, box.h))
    if percentage > 0:
        wide, high = w + int(w * percentage / 100), h + int(h * percentage / 100)
        x, y = max(0, x - int((wide - w) / 2)), max(0, y - int((high - h) / 2))
        w, h = min(width - x, wide), min(height - y, high)
    right, bottom = min(width, x + w), min(height, y + h)
    x, y = max(0, x), max(0, y)
    return Box(x, y, max(0, right - x), max(0, bottom - y))


def crop(image: Rgb, face: Detection, size: tuple[int, int]) -> Rgb:
    """(height, width, 3) uint8 RGB of that size: the box, turned until the eyes are level, letterboxed in black.

    Without two eyes it is not turned. What lies outside the image is black.
    """
    return letterbox(cut(image, face), size)


def cut(image: Rgb, face: Detection) -> Rgb:
    """(h, w, 3) uint8 RGB: the box, turned until the eyes are level, in the image's own resolution."""
    x, y = int(face.box.x), int(face.box.y)
    w, h = max(1, int(face.box.w)), max(1, int(face.box.h))
    left, top = w // 2, h // 2
    around = _part(image, (x - left, y - top), (w + 2 * left, h + 2 * top))
    tilt = _tilt(face.landmarks)
    if tilt == 0:
        return around[top : top + h, left : left + w]
    height, width = around.shape[:2]
    turn = cv2.getRotationMatrix2D((width // 2, height // 2), math.degrees(tilt), 1.0)
    turned = cv2.warpAffine(
        around, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT
    )
    x0, y0, x1, y1 = _projected((left, top, w, h), tilt, (width, height))
    return np.asarray(turned[y0:y1, x0:x1], np.uint8)


def letterbox(image: Rgb, size: tuple[int, int]) -> Rgb:
    """(height, width, 3): scaled linearly to fit, in the middle of a black canvas of that size."""
    height, width = size
    factor = min(height / image.shape[0], width / image.shape[1])
    w, h = max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor))
    inner = cv2.resize(image, (w, h))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[top : top + h, left : left + w] = inner
    return canvas


def tensor(crops: Sequence[Rgb], normalization: Normalization) -> Floats:
    """(n, height, width, 3) float32 BGR of uint8 RGB crops of one size: 0..1 for `base`."""
    values = np.stack(crops)[..., ::-1].astype(np.float32) / np.float32(255)
    if normalization == "base":
        return values
    values *= 255
    if normalization in MEANS:
        values -= np.asarray(MEANS[normalization], np.float32)
    elif normalization == "Facenet2018":
        values = values / np.float32(127.5) - 1
    elif normalization == "ArcFace":
        values = (values - np.float32(127.5)) / np.float32(128)
    elif normalization == "Facenet":
        values = standardised(values)
    return values


def standardised(images: Floats) -> Floats:
    """(n, height, width, 3) float32: each image less its mean, over its deviation, as FaceNet was trained.

    An image of one colour is divided by 1 / sqrt(number of values) instead.
    """
    each = images.reshape(len(images), -1)
    mean = each.mean(axis=1)[:, None, None, None]
    std = np.maximum(each.std(axis=1), 1 / math.sqrt(each.shape[1]))[:, None, None, None]
    return np.asarray((images - mean) / std, np.float32)


def thresholds(
    cosine: float, euclidean: float, euclidean_l2: float, angular: float
) -> Mapping[Metric, Threshold]:
    """DeepFace's own, which belong to this pipeline with `base`."""
    values = (cosine, euclidean, euclidean_l2, angular)
    return MappingProxyType(
        {
            metric: Threshold(metric=metric, value=value, data="published by DeepFace 0.0.103")
            for metric, value in zip(METRICS, values, strict=True)
        }
    )


def everywhere(
    cosine: float, euclidean: float, euclidean_l2: float, angular: float
) -> Mapping[str, Mapping[Metric, Threshold]]:
    """Of a model for which there are no others: `published by` says that nobody measured them on another alignment."""
    own = thresholds(cosine, euclidean, euclidean_l2, angular)
    return MappingProxyType({"": own, "/none": own})


def _part(image: Rgb, corner: tuple[int, int], size: tuple[int, int]) -> Rgb:
    """(height, width, 3) of the image from a corner on; black outside."""
    (x, y), (width, height) = corner, size
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(image.shape[1], x + width), min(image.shape[0], y + height)
    if (x0, y0, x1, y1) == (x, y, x + width, y + height):
        return image[y:y1, x:x1]
    out = np.zeros((height, width, 3), np.uint8)
    if x1 > x0 and y1 > y0:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return out


def _tilt(points: Points | None) -> float:
    """Radians by which the line from the right to the left eye is turned; 0 without both."""
    if points is None or not np.isfinite(points[:2]).all():
        return 0.0
    (right_x, right_y), (left_x, left_y) = points[:2].astype(np.float64).tolist()
    return math.atan2(left_y - right_y, left_x - right_x)


def _projected(
    box: tuple[int, int, int, int], tilt: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Where the box (x, y, w, h) lies after the turn: its centre is turned with the image, its sides are kept."""
    x, y, w, h = box
    width, height = size
    across, down = x + w / 2 - width / 2, y + h / 2 - height / 2
    cosine, sine = math.cos(tilt), math.sin(tilt)
    left = across * cosine + down * sine + width / 2 - w / 2
    top = down * cosine - across * sine + height / 2 - h / 2
    return (
        max(int(left), 0),
        max(int(top), 0),
        min(int(left + w), width),
        min(int(top + h), height),
    )
