"""RetinaFace with a ResNet-50, as the retina-face package (serengil, 0.0.19, MIT) runs it for DeepFace.

Paper: J. Deng et al., RetinaFace: Single-stage Dense Face Localisation in the Wild (2019). Sizes, anchors, threshold
and suppression are that package's; the code was written for this project. Both its files are taken: the Keras weights,
converted once, or its ONNX graph, which has the same input and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.errors import BadWeights
from recognition.formats.graphs import RETINAFACE_OUTPUTS as OUTPUTS
from recognition.geometry import Boxes
from recognition.runtime import Session, Tensor
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb
from recognition.weights import Weights

Array: TypeAlias = NDArray[np.float32]

ANCHORS = ((32, (512.0, 256.0)), (16, (128.0, 64.0)), (8, (32.0, 16.0)))
"""Pixels per cell, and the sides of a cell's two square anchors."""
CENTRE = 7.5
"""Of the first cell's anchors: the middle of pixels 0 to 15, at every stride."""
LARGEST_LOG = 6.0
"""Offsets of sizes are cut here: larger boxes are cut at the image's edges anyway."""


@dataclass(frozen=True, slots=True)
class Search:
    """How an image is searched; the package's values."""

    shorter: int = 1024
    """Pixels of the input's shorter side: smaller images are enlarged."""
    longer: int = 1980
    """At most, of the longer side."""
    min_score: float = 0.9
    same_face: float = 0.4
    """IoU from which on two boxes are one face."""
    most_candidates: int = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """(n, 4) left, top, right, bottom in whole pixels that belong to the face, (n,) scores, (n, 5, 2) points."""

    corners: Array
    scores: Array
    points: Array


class RetinaFace:
    """Faces with five landmarks. Images are searched one by one: each fills the processor as it is."""

    def __init__(self, session: Session, search: Search | None = None) -> None:
        self._session = session
        self._search = search or Search()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        search = self._search
        large, scale = resize(image, search)
        outputs = self._session(large[None].astype(np.float32))
        found = decode(outputs, search)
        size = np.array([large.shape[1], large.shape[0]], np.float32)
        corners = np.clip(found.corners, 0, np.tile(size - 1, 2)) / np.float32(scale)
        sides = corners[:, 2:] - corners[:, :2]
        # Counting the last pixel in, as when the threshold was chosen.
        counted = np.concatenate([corners[:, :2], sides + 1], axis=1)
        kept = geometry.nms(counted, found.scores, search.same_face)
        boxes = np.concatenate([corners[:, :2], sides], axis=1)[kept]
        boxes = geometry.clip(boxes, image.shape[1], image.shape[0])
        points = found.points[kept] / np.float32(scale)
        return tuple(
            Detection(geometry.to_box(box), float(score), landmarks)
            for box, score, landmarks in zip(boxes, found.scores[kept], points, strict=True)
            if min(box[2:]) > 0
        )


def resize(image: Rgb, search: Search) -> tuple[Rgb, float]:
    """The image with its shorter side at `shorter`, or its longer one at `longer`, and the scale."""
    height, width = image.shape[:2]
    scale = search.shorter / min(height, width)
    if round(scale * max(height, width)) > search.longer:
        scale = search.longer / max(height, width)
    if min(height, width) * scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8), scale
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return large.astype(np.uint8, copy=False), scale


def decode(outputs: Sequence[Tensor], search: Search) -> Found:
    """The candidates of one image in the network's input, best score first; raises BadWeights.

    `outputs` are for each stride (1, rows, columns, 4) probabilities, 8 box offsets, 20 landmark offsets.
    """
    if [out.ndim and out.shape[-1] for out in outputs] != [4, 8, 20] * len(ANCHORS):
        raise BadWeights(f"outputs {[out.shape for out in outputs]} are not those of RetinaFace")
    levels = [
        _level([out[0] for out in outputs[3 * i : 3 * i + 3]], i, search.min_score)
        for i in range(len(ANCHORS))
    ]
    corners, scores, points = (
        np.concatenate(parts)
        for parts in zip(*((f.corners, f.scores, f.points) for f in levels), strict=True)
    )
    best = np.argsort(-scores, kind="stable")[: search.most_candidates]
    return Found(corners[best], scores[best], points[best])


def _level(outputs: Sequence[Array], level: int, min_score: float) -> Found:
    """The candidates of one stride: offsets are shares of the anchor's side, logarithms for sizes."""
    stride, sides = ANCHORS[level]
    probabilities, boxes, landmarks = outputs
    rows, columns, anchor = np.nonzero(probabilities[:, :, 2:] >= min_score)
    scores = probabilities[rows, columns, 2 + anchor]
    box = boxes.reshape(*boxes.shape[:2], 2, 4)[rows, columns, anchor]
    points = landmarks.reshape(*landmarks.shape[:2], 2, 5, 2)[rows, columns, anchor]
    side = np.array(sides, np.float32)[anchor, None]
    centre = np.stack([columns, rows], axis=1).astype(np.float32) * stride + np.float32(CENTRE)
    middle = centre + box[:, :2] * side
    reach = (np.exp(np.minimum(box[:, 2:], LARGEST_LOG)) * side - 1) / 2
    corners: Boxes = np.concatenate([middle - reach, middle + reach], axis=1)
    return Found(corners, scores, centre[:, None] + points * side[:, None])


_LICENCE = "MIT as published; converted from InsightFace's, for non-commercial research only"
_ORIGIN = (
    "RetinaFace-R50 of InsightFace, trained on WIDER FACE; retina-face by Sefik Ilkin Serengil"
)
_RELEASE = "https://github.com/serengil/deepface_models/releases/download/v1.0"
_MIRROR = "https://huggingface.co/serengil/deepface/resolve/main"

KERAS = Weights(
    name="retinaface.h5",
    # As several projects that fetch it from there have recorded it.
    sha256="ecb2393a89da3dd3d6796ad86660e298f62a0c8ae7578d92eb6af14e0bb93adf",
    licence=_LICENCE,
    origin=_ORIGIN,
    urls=(f"{_RELEASE}/retinaface.h5", f"{_MIRROR}/retinaface.h5"),
    non_commercial=True,
    size=118_667_368,
)
ONNX = Weights(
    name="retinaface.onnx",
    sha256=None,
    licence=_LICENCE,
    origin=_ORIGIN,
    urls=(f"{_RELEASE}/retinaface.onnx", f"{_MIRROR}/retinaface.onnx"),
    non_commercial=True,
)


def _build(resources: Resources) -> RetinaFace:
    if resources.weights.present(ONNX):
        return RetinaFace(resources.runtime.session(resources.weights.path(ONNX)))
    path = resources.weights.derived("retinaface_1.onnx", [KERAS], _converted)
    return RetinaFace(resources.runtime.session(path, OUTPUTS))


def _converted(paths: Sequence[Path]) -> bytes:
    from recognition.formats import retinaface

    return retinaface.convert(paths[0].read_bytes())


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="retinaface",
        summary="RetinaFace with a ResNet-50 on images enlarged to 1024 pixels; five landmarks; slow without a GPU",
        licence=_LICENCE,
        origin=_ORIGIN,
        landmarks=True,
        weights=(KERAS,),
        alternatives=((ONNX,),),
        build=_build,
    ),
)
