"""YOLO trained on faces, versions 8, 11 and 12: one pass over the whole image; the smallest gives five landmarks.

Networks: Ultralytics (AGPL-3.0), nothing of which is needed or used here: the published PyTorch files are exported once
to ONNX by whoever runs the service, or the published ONNX files are used. Weights and the choice of network for each
name are DeepFace's (0.0.103); so are its confidence and, by Ultralytics' defaults, the size and the suppression. The
preparation and the decoding were written for this project.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.errors import BadWeights
from recognition.runtime import Session
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb
from recognition.weights import Weights

Array: TypeAlias = NDArray[np.float32]
Size: TypeAlias = tuple[int, int]
"""Height, width."""

SIDE = 640
"""Pixels of the input's longer side, where the network does not say."""
STRIDE = 32
"""Both sides of the input are multiples of it."""
GREY = 114
"""What lies outside the image."""
MIN_SCORE = 0.25
SAME_FACE = 0.7
"""IoU above which two boxes are one face."""
MOST_CANDIDATES = 4096
MOST_FACES = 300
BATCH = 8
"""Images in one run: more cost memory and save no time on a processor."""

_RAW = {5: 0, 15: 2, 20: 3}
"""Rows of an output (n, rows, cells): numbers per key point. Box, score, then five key points."""
_FINISHED = {6: 0, 16: 2, 21: 3}
"""Columns of an output (n, faces, columns), suppressed within the network: corners, score, class, key points."""


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """An image on the network's input: (height, width, 3) RGB; p in the image is at `p * scale + offset`."""

    pixels: Rgb
    scale: Array
    """(2,) x, y: they differ by what rounding to whole pixels does."""
    offset: Array


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Faces on one canvas, best score first: (n, 4) boxes, (n,) scores, (n, 5, 2) points or None."""

    boxes: geometry.Boxes
    scores: Array
    points: Array | None

    def take(self, rows: geometry.Indices) -> Found:
        points = None if self.points is None else self.points[rows]
        return Found(self.boxes[rows], self.scores[rows], points)


class Yolo:
    """One network. Holds no state beyond it."""

    def __init__(self, session: Session, min_score: float = MIN_SCORE) -> None:
        if len(session.shape) != 4:
            raise BadWeights(f"input {session.shape} is not (batch, channels, height, width)")
        self._session = session
        self._min_score = min_score
        batch, _, height, width = session.shape
        self._batch = batch if isinstance(batch, int) else None
        self._size: Size | None = None
        if isinstance(height, int) and isinstance(width, int):
            self._size = (height, width)

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes and landmarks are cut at the image's edges."""
        canvases = [self._canvas(image) for image in images]
        found: dict[int, tuple[Detection, ...]] = {}
        for rows in _batches(canvases, self._batch or BATCH):
            for row, output in zip(rows, self._run([canvases[i] for i in rows]), strict=False):
                found[row] = _finish(
                    suppress(read(output, self._min_score)), canvases[row], images[row]
                )
        return [found[i] for i in range(len(images))]

    def _canvas(self, image: Rgb) -> Canvas:
        if self._size is None:
            return letterbox(image, (SIDE, SIDE), STRIDE)
        return letterbox(image, self._size)

    def _run(self, canvases: Sequence[Canvas]) -> Array:
        """The outputs for canvases of one size; there may be more of them than canvases."""
        stack = np.stack([canvas.pixels for canvas in canvases]).transpose(0, 3, 1, 2)
        tensor = stack.astype(np.float32) / np.float32(255)
        missing = max(0, (self._batch or 0) - len(canvases))
        tensor = np.pad(tensor, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return np.asarray(self._session(tensor)[0], np.float32)


def letterbox(image: Rgb, size: Size, stride: int = 0) -> Canvas:
    """The image scaled to fit into `size` and centred on grey; `stride` trims the grey to the least multiple.

    Linear resampling without smoothing, as in training.
    """
    height, width = image.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * ratio)), max(1, round(width * ratio))
    room = size[0] - inner[0], size[1] - inner[1]
    if stride:
        room = room[0] % stride, room[1] % stride
    top, left = room[0] // 2, room[1] // 2
    pixels = np.full((inner[0] + room[0], inner[1] + room[1], 3), GREY, np.uint8)
    small = image
    if inner != (height, width):
        small = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    pixels[top : top + inner[0], left : left + inner[1]] = small
    scale = np.array([inner[1] / width, inner[0] / height], np.float32)
    return Canvas(pixels, scale, np.array([left, top], np.float32))


def read(output: Array, min_score: float) -> Found:
    """The candidates in one image's output, before suppression; raises BadWeights for what is no such output.

    (5, cells): centre x, y, width, height, score; (15 or 20, cells): and five key points of x, y(, visibility).
    (faces, 6, 16 or 21): left, top, right, bottom, score, class and the same key points, where the network suppresses.
    """
    finished = output.ndim == 2 and output.shape[1] in _FINISHED
    if not finished and (output.ndim != 2 or output.shape[0] not in _RAW):
        raise BadWeights(
            f"an output of shape {output.shape} is not that of a face detector exported by Ultralytics"
        )
    rows = output if finished else output.T
    good = np.flatnonzero(rows[:, 4] > min_score)
    good = good[np.argsort(-rows[good, 4], kind="stable")][:MOST_CANDIDATES]
    rows = rows[good]
    numbers = _FINISHED[rows.shape[1]] if finished else _RAW[rows.shape[1]]
    size = rows[:, 2:4] - rows[:, :2] if finished else rows[:, 2:4]
    corner = rows[:, :2] if finished else rows[:, :2] - size / 2
    boxes = np.concatenate([corner, size], axis=1)
    if not numbers:
        return Found(boxes, rows[:, 4], None)
    points = rows[:, -5 * numbers :].reshape(-1, 5, numbers)[:, :, :2]
    return Found(boxes, rows[:, 4], points)


def suppress(found: Found) -> Found:
    """One box of each face. Of a network that suppresses by itself nothing more goes."""
    return found.take(geometry.nms(found.boxes, found.scores, SAME_FACE)[:MOST_FACES])


def _finish(found: Found, canvas: Canvas, image: Rgb) -> tuple[Detection, ...]:
    """In the image's frame. The networks' order of points is that of `types.Points`."""
    height, width = image.shape[:2]
    corner = (found.boxes[:, :2] - canvas.offset) / canvas.scale
    boxes = np.concatenate([corner, found.boxes[:, 2:] / canvas.scale], axis=1)
    boxes = geometry.clip(boxes, width, height)
    points: Sequence[Array | None] = [None] * len(boxes)
    if found.points is not None:
        limits = np.array([width, height], np.float32)
        points = list(np.clip((found.points - canvas.offset) / canvas.scale, 0, limits))
    return tuple(
        Detection(geometry.to_box(box), min(1.0, float(score)), landmarks)
        for box, score, landmarks in zip(boxes, found.scores, points, strict=True)
        if min(box[2:]) > 0
    )


def _batches(canvases: Sequence[Canvas], most: int) -> Iterator[list[int]]:
    """Indices of canvases of one size, at most so many at once."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, canvas in enumerate(canvases):
        by_size[canvas.pixels.shape].append(i)
    for rows in by_size.values():
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A published file: `source` is where, and whether there is an ONNX file beside the PyTorch one."""

    name: str
    source: str
    exported: bool = False
    landmarks: bool = False

    @property
    def weights(self) -> Weights:
        """The ONNX file, which is published, or exported from the PyTorch file that is."""
        file = f"{self.name}-face.{'onnx' if self.exported else 'pt'}"
        url = self.source if self.landmarks else f"{self.source}/releases/download/1.0.0/{file}"
        return Weights(
            name=f"{self.name}-face.onnx",
            sha256=None,
            licence=_LICENCE,
            origin=_origin(self),
            urls=(url,) if self.exported else (),
            how="" if self.exported else EXPORT.format(file=file, url=url, side=SIDE),
        )


EXPORT = (
    "made once from {file} ({url}) with Ultralytics (AGPL-3.0) in an environment of its own: "
    "python -m venv yolo-export && yolo-export/bin/pip install ultralytics onnx onnxslim && "
    "yolo-export/bin/yolo export model={file} format=onnx imgsz={side} dynamic=True"
)
_LICENCE = "AGPL-3.0 as of Ultralytics' networks (its publishers name GPL-3.0 or nothing)"
_YAPALAB = "https://github.com/YapaLab/yolo-face"
_AKANAMETOV = "https://github.com/akanametov/yolo-face"

NETWORKS: tuple[Network, ...] = (
    Network(
        name="yolov8n",
        source="https://drive.google.com/uc?id=1qcr9DbgsX3ryrz2uU8w4Xm3cOrRywXqb",
        landmarks=True,
    ),
    Network(name="yolov8m", source=_YAPALAB),
    Network(name="yolov8l", source=_YAPALAB),
    Network(name="yolov11n", source=_AKANAMETOV),
    Network(name="yolov11s", source=_AKANAMETOV),
    Network(name="yolov11m", source=_AKANAMETOV),
    Network(name="yolov11l", source=_YAPALAB),
    Network(name="yolov12n", source=_YAPALAB, exported=True),
    Network(name="yolov12s", source=_YAPALAB, exported=True),
    Network(name="yolov12m", source=_YAPALAB, exported=True),
    Network(name="yolov12l", source=_YAPALAB),
)


def _origin(network: Network) -> str:
    owner = "github.com/derronqi/yolov8-face" if network.landmarks else network.source[8:]
    return f"{network.name}-face of {owner}, trained on WIDER FACE"


def _build(network: Network, resources: Resources) -> Yolo:
    return Yolo(resources.runtime.session(resources.weights.path(network.weights)))


def _spec(network: Network) -> DetectorSpec:
    return DetectorSpec(
        name=network.name,
        summary=f"YOLO{network.name[4:]} trained on faces; "
        + ("five landmarks" if network.landmarks else "no landmarks"),
        licence=_LICENCE,
        origin=_origin(network),
        landmarks=network.landmarks,
        weights=(network.weights,),
        build=partial(_build, network),
    )


SPECS: tuple[DetectorSpec, ...] = tuple(_spec(network) for network in NETWORKS)
