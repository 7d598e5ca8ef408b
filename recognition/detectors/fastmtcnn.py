"""MTCNN as facenet-pytorch runs it: the same three networks as `mtcnn`, with many images in one pass.

Paper: K. Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded CNNs (2016). Thresholds, rounding
and resampling follow facenet-pytorch 2.6.0 by Timothy Esler (MIT), whose networks hold the very numbers of the mtcnn
package (compared value by value); this cascade was written for this project. Levels and crops are exact means of whole
pixels, taken from one table of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import cascade, geometry
from recognition.cascade import CELL, STRIDE
from recognition.formats import mtcnn_networks
from recognition.geometry import Boxes, Indices
from recognition.runtime import Session
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb

Array = NDArray[np.float32]
Sums = NDArray[np.int32]
"""(images, height + 1, width + 1, 3): the sums of all pixels above and to the left."""
Grid = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cascade:
    """How the cascade runs. Sizes are pixels of the working image; the caps bound the work on any image."""

    pixels: int = 1024 * 768
    """Larger images are shrunk to this area before anything else."""
    min_face: int = 20
    factor: float = 0.709
    scores: tuple[float, float, float] = (0.6, 0.7, 0.7)
    most_per_level: int = 1024
    most_proposals: int = 1024
    most_refined: int = 256
    batch: int = 8
    """Images in one pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """(n, 4) boxes in the working images, their (n,) scores and the (n,) places of their images in the pass.

    `extra` has n rows of what else a network said: offsets, or the corners of landmarks.
    """

    boxes: Boxes
    scores: Array
    owners: Indices
    extra: Array

    def take(self, rows: NDArray[Any]) -> Candidates:
        return Candidates(self.boxes[rows], self.scores[rows], self.owners[rows], self.extra[rows])


class FastMtcnn:
    """Faces with five landmarks. Holds no state beyond the networks."""

    def __init__(
        self, pnet: Session, rnet: Session, onet: Session, settings: Cascade | None = None
    ) -> None:
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self._cascade = settings or Cascade()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        views = [geometry.within(image, self._cascade.pixels) for image in images]
        found: list[tuple[Detection, ...]] = [()] * len(images)
        for rows in geometry.same_size([view for view, _ in views], self._cascade.batch):
            sums = np.stack(
                [cv2.integral(views[row][0]).astype(np.int32, copy=False) for row in rows]
            )
            faces = self._finish(sums, self._refine(sums, self._propose(sums)))
            for at, row in enumerate(rows):
                own = faces.take(faces.owners == at)
                found[row] = detections(own, views[row][1], images[row])
        return found

    def _propose(self, sums: Sums) -> Candidates:
        """Square candidates of the first network, run over a pyramid of sizes."""
        levels = [self._level(level, scale) for level, scale in pyramid(sums, self._cascade)]
        found = join([nothing(4), *levels])
        found = found.take(best(found, 0.7, self._cascade.most_proposals))
        moved = found.extra * np.tile(found.boxes[:, 2:], 2)
        corners = np.concatenate([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]], 1)
        boxes = geometry.square(cascade.from_corners(corners + moved))
        return Candidates(boxes, found.scores, found.owners, found.extra)

    def _level(self, level: Array, scale: float) -> Candidates:
        offsets, score = self._pnet(level)
        owners, rows, columns = np.nonzero(score[:, 0] >= self._cascade.scores[0])
        corner = np.stack([columns, rows], axis=1).astype(np.float32) * STRIDE
        low = np.floor((corner + 1) / np.float32(scale))
        high = np.floor((corner + CELL) / np.float32(scale))
        boxes = cascade.from_corners(np.concatenate([low, high], axis=1))
        scores, moved = score[owners, 0, rows, columns], offsets[owners, :, rows, columns]
        found = Candidates(boxes, scores, owners, moved)
        return found.take(best(found, 0.5, self._cascade.most_per_level, narrow=True))

    def _refine(self, sums: Sums, found: Candidates) -> Candidates:
        found, tensor = crops(sums, found, 24)
        if not len(tensor):
            return found
        offsets, score = self._rnet(tensor)
        found = Candidates(found.boxes, score[:, 0], found.owners, offsets)
        found = found.take(found.scores > self._cascade.scores[1])
        found = found.take(best(found, 0.7, self._cascade.most_refined))
        boxes = geometry.square(cascade.adjust(found.boxes, found.extra))
        return Candidates(boxes, found.scores, found.owners, found.extra)

    def _finish(self, sums: Sums, found: Candidates) -> Candidates:
        """Faces, with (n, 10) landmarks, x before y, in `extra`."""
        found, tensor = crops(sums, found, 48)
        if not len(tensor):
            return nothing(10)
        offsets, landmarks, score = self._onet(tensor)
        good = score[:, 0] > self._cascade.scores[2]
        points = cascade.points(found.boxes, landmarks).reshape(-1, 10)
        boxes = cascade.adjust(found.boxes, offsets)
        faces = Candidates(boxes, score[:, 0], found.owners, points).take(good)
        return faces.take(best_of_pieces(faces, 0.7))


def pyramid(sums: Sums, settings: Cascade) -> Iterator[tuple[Array, float]]:
    """(images, rows, columns, 3) means, with their scales.

    For faces of `min_face` pixels to those that fill the shorter side.
    """
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    scale = CELL / settings.min_face
    left = min(height, width) * scale
    while left >= CELL:
        y = bins(np.zeros(1, np.intp), np.array([height]), int(height * scale + 1))
        x = bins(np.zeros(1, np.intp), np.array([width]), int(width * scale + 1))
        yield means(sums, np.arange(len(sums)), y, x), scale
        scale, left = scale * settings.factor, left * settings.factor


def crops(sums: Sums, found: Candidates, side: int) -> tuple[Candidates, Array]:
    """The candidates that have pixels in their images, and (n, side, side, 3) means of those pixels."""
    limits = np.array([sums.shape[2] - 1, sums.shape[1] - 1])
    low = np.maximum(found.boxes[:, :2].astype(np.intp), 1) - 1
    high = np.minimum((found.boxes[:, :2] + found.boxes[:, 2:]).astype(np.intp), limits)
    good = (high > low).all(axis=1)
    low, high, found = low[good], high[good], found.take(good)
    y = bins(low[:, 1], high[:, 1], side)
    x = bins(low[:, 0], high[:, 0], side)
    return found, means(sums, found.owners, y, x)


def bins(low: Indices, high: Indices, count: int) -> tuple[Grid, Grid]:
    """(n, count) first and one past the last pixel of `count` shares of each range.

    Neighbours may have a pixel in common.
    """
    steps = np.arange(count)
    length = (high - low)[:, None]
    first = steps * length // count
    last = -(-(steps + 1) * length // count)
    return low[:, None] + first, low[:, None] + last


def means(sums: Sums, owners: Indices, y: tuple[Grid, Grid], x: tuple[Grid, Grid]) -> Array:
    """(n, rows, columns, 3) float32: mean pixels of the cells that the bins in y and x make in each owner's image."""
    (top, bottom), (left, right) = y, x
    image = owners[:, None, None]

    def corner(rows: Grid, columns: Grid) -> Sums:
        return sums[image, rows[:, :, None], columns[:, None, :]]

    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    return (total / area[..., None]).astype(np.float32)


def best(found: Candidates, iou: float, most: int, *, narrow: bool = False) -> Indices:
    """Rows that suppression leaves of each image, best first, up to `most`; `narrow` also caps what goes into it."""
    rows = []
    for owner in np.unique(found.owners):
        own = np.flatnonzero(found.owners == owner)
        if narrow:
            own = own[np.argsort(-found.scores[own], kind="stable")[:most]]
        rows.append(own[geometry.nms(found.boxes[own], found.scores[own], iou)][:most])
    return np.concatenate([np.zeros(0, np.intp), *rows])


def best_of_pieces(found: Candidates, limit: float) -> Indices:
    """Rows of each image, best first, without those of which the smaller lies by `limit` in a better one's box.

    Scores of faces are often equal to the last bit; then the later row counts as better, as in the reference.
    """
    grown = found.boxes + np.array([0, 0, 1, 1], np.float32)
    rows = []
    for owner in np.unique(found.owners):
        own = np.flatnonzero(found.owners == owner)[::-1]
        rows.append(own[geometry.nms(grown[own], found.scores[own], limit, over="smaller")])
    return np.concatenate([np.zeros(0, np.intp), *rows])


def join(parts: Sequence[Candidates]) -> Candidates:
    """All rows of the parts."""
    return Candidates(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.owners for part in parts]),
        np.concatenate([part.extra for part in parts]),
    )


def nothing(extra: int) -> Candidates:
    """No candidate."""
    empty = np.zeros((0, 4), np.float32)
    return Candidates(
        empty,
        np.zeros(0, np.float32),
        np.zeros(0, np.intp),
        np.zeros((0, extra), np.float32),
    )


def detections(faces: Candidates, back: geometry.Floats, image: Rgb) -> tuple[Detection, ...]:
    """One `Detection` per row, boxes cut at the image's edges; `back` leads from the working image to the image."""
    boxes = geometry.clip(faces.boxes * np.tile(back, 2), image.shape[1], image.shape[0])
    points = faces.extra.reshape(-1, 5, 2) * back
    return tuple(
        Detection(geometry.to_box(box), float(score), marks.astype(np.float32))
        for box, score, marks in zip(boxes, faces.scores, points, strict=True)
        if min(box[2:]) >= 1
    )


def _build(resources: Resources) -> FastMtcnn:
    return FastMtcnn(*mtcnn_networks.load(resources))


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="fastmtcnn",
        summary="MTCNN as in facenet-pytorch, many images in one pass; five landmarks",
        licence="MIT",
        origin="K. Zhang et al. 2016; weights of mtcnn 1.0.0, those of facenet-pytorch 2.6.0",
        landmarks=True,
        weights=mtcnn_networks.WEIGHTS,
        build=_build,
    ),
)
