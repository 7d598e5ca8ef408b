"""MTCNN: three small networks that propose, refine and finish faces, each on fewer and larger crops.

Paper: K. Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded CNNs (2016). Weights, thresholds
and conventions follow the mtcnn package 1.0.0 by Iván de Paz Centeno (MIT); this cascade was written for this project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import cascade, geometry
from recognition.cascade import CELL, STRIDE
from recognition.formats import mtcnn_networks
from recognition.geometry import Boxes, Floats, Indices
from recognition.runtime import Session
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb

Array = NDArray[np.float32]

_GREY = (127.5, 127.5, 127.5)
"""What lies outside the image: 0 for the networks."""


@dataclass(frozen=True, slots=True)
class Cascade:
    """How the cascade runs. Sizes are pixels of the working image; the caps bound the work on any image."""

    pixels: int = 1024 * 768
    """Larger images are shrunk to this area before anything else."""
    min_face: int = 20
    factor: float = 0.709
    scores: tuple[float, float, float] = (0.6, 0.7, 0.8)
    most_per_level: int = 1024
    most_proposals: int = 1024
    most_refined: int = 256
    exact: bool = False
    """Like the package to the last bit that matters: its order of equal scores, and crops as precise as floating point
    numbers are. Slower, and no better."""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """(n, 4) boxes in the working image with their (n,) scores, best first."""

    boxes: Boxes
    scores: Array

    def best(self, most: int) -> _Candidates:
        return _Candidates(self.boxes[:most], self.scores[:most])


class Mtcnn:
    """Faces with five landmarks. Holds no state beyond the networks."""

    def __init__(
        self, pnet: Session, rnet: Session, onet: Session, cascade: Cascade | None = None
    ) -> None:
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self._cascade = cascade or Cascade()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        small, back = geometry.within(image, self._cascade.pixels)
        # float32: rounding the pyramid's levels to whole grey values moves boxes by several per cent.
        working = small.astype(np.float32)
        found = self._refine(working, self._propose(working))
        boxes, scores, points = self._finish(working, found)
        boxes = geometry.clip(boxes * np.tile(back, 2), image.shape[1], image.shape[0])
        return tuple(
            Detection(geometry.to_box(box), float(score), landmarks)
            for box, score, landmarks in zip(boxes, scores, points * back, strict=True)
            if min(box[2:]) >= 1
        )

    def _propose(self, image: Array) -> _Candidates:
        """Square candidates of the first network, run over a pyramid of sizes."""
        levels = [self._level(level, scale) for level, scale in pyramid(image, self._cascade)]
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(found.boxes for found in levels)])
        scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in levels)])
        found = self._suppress(boxes, scores, 0.7).best(self._cascade.most_proposals)
        return _Candidates(geometry.square(found.boxes), found.scores)

    def _level(self, level: Array, scale: float) -> _Candidates:
        offsets, score = (out[0] for out in self._pnet(level[None]))
        rows, columns = np.nonzero(score[0] > self._cascade.scores[0])
        if len(rows) > self._cascade.most_per_level:
            best = np.argsort(-score[0, rows, columns])[: self._cascade.most_per_level]
            rows, columns = rows[np.sort(best)], columns[np.sort(best)]
        corner = np.stack([columns, rows], axis=1).astype(np.float32) * STRIDE + 1
        corners = np.concatenate([corner, corner + (CELL - 1)], axis=1)
        corners = (corners + offsets[:, rows, columns].T * (CELL - 1)) / np.float32(scale)
        return self._suppress(cascade.from_corners(corners), score[0, rows, columns], 0.5)

    def _refine(self, image: Array, found: _Candidates) -> _Candidates:
        if not len(found.boxes):
            return found
        offsets, score = self._rnet(self._crops(image, found.boxes, 24))
        kept = score[:, 0] > self._cascade.scores[1]
        boxes = cascade.adjust(found.boxes, offsets)[kept]
        refined = self._suppress(boxes, score[kept, 0], 0.7).best(self._cascade.most_refined)
        return _Candidates(geometry.square(refined.boxes), refined.scores)

    def _finish(self, image: Array, found: _Candidates) -> tuple[Boxes, Array, Array]:
        """(n, 4) boxes, (n,) scores, (n, 5, 2) landmarks."""
        if not len(found.boxes):
            return found.boxes, found.scores, np.zeros((0, 5, 2), np.float32)
        offsets, landmarks, score = self._onet(self._crops(image, found.boxes, 48))
        kept = np.flatnonzero(score[:, 0] > self._cascade.scores[2])
        boxes = cascade.adjust(found.boxes, offsets)[kept]
        order = ranking(score[kept, 0], later_first=self._cascade.exact)
        best = unsuppressed(boxes, order, 0.7, over="smaller")
        kept = kept[best]
        return boxes[best], score[kept, 0], cascade.points(found.boxes[kept], landmarks[kept])

    def _suppress(self, boxes: Boxes, scores: Array, iou: float) -> _Candidates:
        """What is left of the candidates, best score first."""
        kept = unsuppressed(boxes, ranking(scores, later_first=self._cascade.exact), iou)
        return _Candidates(boxes[kept], scores[kept])

    def _crops(self, image: Array, boxes: Boxes, side: int) -> Array:
        return (exact_crops if self._cascade.exact else crops)(image, boxes, side)


def pyramid(image: Array, cascade: Cascade) -> Iterator[tuple[Array, float]]:
    """The image shrunk for faces of `min_face` pixels to those that fill its shorter side, with the scales.

    Every level is made from the whole image: shortcuts through smaller ones move boxes by several per cent.
    """
    height, width = image.shape[:2]
    scale = CELL / cascade.min_face
    while min(height, width) * scale >= CELL:
        size = int(width * scale), int(height * scale)
        level = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield level.astype(np.float32, copy=False), scale
        scale *= cascade.factor


def crops(image: Array, boxes: Boxes, side: int) -> Array:
    """(n, side, side, 3): the boxes' content, grey outside the image.

    Bilinear samples whose outer ones lie on the box's edges, not smoothed where they are far apart: what the networks'
    scores were tuned on. All crops are taken in one call.
    """
    low, step = _samples(image, boxes, side)
    # A row per box, as OpenCV does not take maps with more than 32767 rows or columns.
    grid = np.indices((side, side), np.float32).reshape(2, -1)
    x = low[:, :1] + grid[1] * step[:, :1]
    y = low[:, 1:] + grid[0] * step[:, 1:]
    taken = cv2.remap(
        image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=_GREY
    )
    return taken.reshape(len(boxes), side, side, 3).astype(np.float32, copy=False)


def exact_crops(image: Array, boxes: Boxes, side: int) -> Array:
    """As `crops`, whose weights are 32nds; and what lies beyond the outer pixels' centres is all grey."""
    low, step = _samples(image, boxes.astype(np.float64), side)
    steps = np.arange(side)
    parts = []
    for (x0, y0), (across, down) in zip(low, step, strict=True):
        columns, x = _between(x0 + across * steps, image.shape[1])
        rows, y = _between(y0 + down * steps, image.shape[0])
        top, bottom = (
            image[row][:, columns[0]] * (1 - x) + image[row][:, columns[1]] * x for row in rows
        )
        parts.append(top * (1 - y[:, None]) + bottom * y[:, None])
    taken = np.stack(parts) if parts else np.zeros((0, side, side, 3))
    return np.where(np.isnan(taken), _GREY[0], taken).astype(np.float32)


def _between(places: Floats, size: int) -> tuple[tuple[Indices, Indices], Floats]:
    """The pixels about each place, and the (n, 1) share of the second one: NaN beyond the outer ones' centres."""
    first = np.clip(np.floor(places), 0, size - 1).astype(np.intp)
    share = np.where((places < 0) | (places > size - 1), np.nan, places - first)
    return (first, np.minimum(first + 1, size - 1)), share[:, None]


def _samples(image: Array, boxes: Floats, side: int) -> tuple[Floats, Floats]:
    """(n, 2) x, y of each box's first sample, and from one to the next."""
    size = np.array([image.shape[1], image.shape[0]], boxes.dtype)
    return boxes[:, :2] * (size - 1) / size, boxes[:, 2:] * (size - 1) / size / (side - 1)


def ranking(scores: Array, *, later_first: bool) -> Indices:
    """Rows by score, the best first; of equal ones the earlier or the later row."""
    if later_first:
        return np.argsort(scores.astype(np.float64))[::-1]
    return np.argsort(-scores, kind="stable")


def unsuppressed(
    boxes: Boxes, order: Indices, limit: float, over: Literal["union", "smaller"] = "union"
) -> Indices:
    """Of the rows in that order those that no earlier one overlaps, not even one that is itself dropped."""
    clashes = geometry.overlap(boxes[order], boxes[order], over) > limit
    return order[~np.triu(clashes, 1).any(axis=0)]


def _build(resources: Resources) -> Mtcnn:
    return Mtcnn(*mtcnn_networks.load(resources))


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="mtcnn",
        summary="Cascade of three small networks over an image pyramid; five landmarks",
        licence="MIT",
        origin="K. Zhang et al. 2016; weights of mtcnn 1.0.0 by Iván de Paz Centeno",
        landmarks=True,
        weights=mtcnn_networks.WEIGHTS,
        build=_build,
    ),
)
