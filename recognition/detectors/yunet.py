"""YuNet: one small network that marks faces with five landmarks at three strides.

Paper: W. Wu, H. Peng and S. Yu, YuNet: A Tiny Millisecond-level Face Detector (2023). Weights of OpenCV's model zoo
(MIT) or of the authors (Apache-2.0); input, decoding and suppression agree with OpenCV's FaceDetectorYN, but were
written for this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.errors import BadWeights
from recognition.formats import any_size
from recognition.geometry import Boxes
from recognition.runtime import Session
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb
from recognition.weights import Weights

Array = NDArray[np.float32]

STRIDES = (8, 16, 32)
HEADS = ("cls", "obj", "bbox", "kps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How faces are looked for. Sizes are pixels of the network's input."""

    longest: int = 640
    """Images with a longer side are shrunk to it."""
    min_score: float = 0.7
    iou: float = 0.3
    most: int = 2000
    """Candidates of one image that are looked at, the best ones."""
    batch: int = 8
    """Images in one run of the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """(n, 4) boxes, (n, 5, 2) landmarks and (n,) scores."""

    boxes: Boxes
    points: Array
    scores: Array

    def take(self, rows: NDArray[np.intp]) -> Found:
        return Found(self.boxes[rows], self.points[rows], self.scores[rows])


class YuNet:
    """Faces with five landmarks. Holds no state beyond the network."""

    def __init__(self, session: Session, search: Search | None = None) -> None:
        missing = {f"{head}_{s}" for head in HEADS for s in STRIDES} - set(session.outputs)
        if missing:
            raise BadWeights(f"not a YuNet network: it has no outputs {sorted(missing)}")
        self._session = session
        self._search = search or Search()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        views = [geometry.shrink(image, self._search.longest)[0] for image in images]
        found: list[tuple[Detection, ...]] = [()] * len(images)
        for rows in geometry.same_size(views, self._search.batch):
            tensor = np.stack([pixels(views[row]) for row in rows])
            outputs = dict(zip(self._session.outputs, self._session(tensor), strict=True))
            for at, row in enumerate(rows):
                faces = self._faces({k: v[at] for k, v in outputs.items()}, tensor.shape[3])
                found[row] = detections(faces, views[row], images[row])
        return found

    def _faces(self, outputs: Mapping[str, Array], width: int) -> Found:
        levels = [
            decode([outputs[f"{head}_{s}"] for head in HEADS], s, width, self._search.min_score)
            for s in STRIDES
        ]
        found = Found(
            np.concatenate([level.boxes for level in levels]),
            np.concatenate([level.points for level in levels]),
            np.concatenate([level.scores for level in levels]),
        )
        found = found.take(np.argsort(-found.scores, kind="stable")[: self._search.most])
        return found.take(geometry.nms(found.boxes, found.scores, self._search.iou))


def pixels(image: Rgb) -> Array:
    """(3, height, width) float32 BGR 0..255, black below and to the right up to multiples of 32."""
    height, width = image.shape[:2]
    out = np.zeros((3, -(-height // 32) * 32, -(-width // 32) * 32), np.float32)
    out[:, :height, :width] = image[..., ::-1].transpose(2, 0, 1)
    return out


def decode(heads: Sequence[Array], stride: int, width: int, min_score: float) -> Found:
    """Faces of one level in input pixels, before suppression.

    `heads` are (cells, 1) class and objectness scores, (cells, 4) centres and logarithms of sizes, and (cells, 10)
    points, all in strides and relative to the cell; cells go row by row over an input of that width.
    """
    kind, presence, box, point = heads
    scores = np.sqrt(np.clip(kind[:, 0], 0, 1) * np.clip(presence[:, 0], 0, 1))
    good = np.flatnonzero(scores >= min_score)
    rows, columns = np.divmod(good, width // stride)
    cell = np.stack([columns, rows], axis=1).astype(np.float32)
    centre = (cell + box[good, :2]) * stride
    size = np.exp(np.minimum(box[good, 2:], 20)) * stride
    points = (point[good].reshape(-1, 5, 2) + cell[:, None]) * stride
    return Found(np.concatenate([centre - size / 2, size], axis=1), points, scores[good])


def detections(found: Found, view: Rgb, image: Rgb) -> tuple[Detection, ...]:
    """One `Detection` of the image per row found in its view, in the same order."""
    height, width = image.shape[:2]
    back = np.array([width / view.shape[1], height / view.shape[0]], np.float32)
    boxes = geometry.clip(found.boxes * np.tile(back, 2), width, height)
    return tuple(
        Detection(geometry.to_box(box), float(score), points)
        for box, score, points in zip(boxes, found.scores, found.points * back, strict=True)
        if min(box[2:]) >= 1
    )


ZOO = Weights(
    name="face_detection_yunet_2023mar.onnx",
    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    licence="MIT",
    origin="OpenCV model zoo",
    urls=(
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
        "face_detection_yunet_2023mar.onnx",
    ),
)
"""The file that DeepFace uses."""


def _authors(name: str, sha256: str) -> Weights:
    return Weights(
        name=name,
        sha256=sha256,
        licence="Apache-2.0",
        origin="S. Yu, libfacedetection.train",
        urls=(f"https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx/{name}",),
    )


CHOICES = (
    (ZOO,),
    (
        _authors(
            "yunet_n_dynamic.onnx",
            "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        ),
    ),
    (
        _authors(
            "yunet_n_320_320.onnx",
            "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
        ),
    ),
)
"""Of which the first that is in the cache is used; they are one network, trained twice."""


def _build(resources: Resources) -> YuNet:
    (weights,) = resources.held(*CHOICES)
    return YuNet(any_size.session(resources, weights))


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="yunet",
        summary="One small network at three strides; five landmarks",
        licence="MIT",
        origin="W. Wu et al. 2023; weights of OpenCV's model zoo",
        landmarks=True,
        weights=CHOICES[0],
        alternatives=CHOICES[1:],
        build=_build,
    ),
)
