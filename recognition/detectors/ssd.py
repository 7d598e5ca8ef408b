"""OpenCV's face SSD: a small ResNet with single-shot boxes over a 300 x 300 view; boxes only.

Paper: W. Liu et al., SSD: Single Shot MultiBox Detector (2016); network trained by A. Rybnikov for OpenCV (Apache-2.0).
It runs in OpenCV's own code, which defines its last layers; that code takes one image at a time. The files are the
Caffe network that DeepFace uses or, where those are not in the cache but these are, its TensorFlow form in 8 bits.

Measured with the latter on 505 photographs against the faces on which YuNet and another detector agree: the training
mean (104, 177, 123) is subtracted, which DeepFace omits (2 faces more of 608, 7 false ones fewer, boxes nearer by 0.004
IoU); the view is squashed, not padded (3 of 69 faces in groups more).
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.errors import BadWeights
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb
from recognition.weights import Weights

Array = NDArray[np.float32]

SIDE = 300
MEAN = np.array([104, 177, 123], np.float32)
"""Blue, green, red."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What counts as a face; chosen by measurement."""

    min_score: float = 0.7
    """DeepFace's 0.9 finds 566 faces where this finds 587; at 0.5 pictures without people have some."""
    least_inside: float = 0.6
    """Share of the box inside the image: the network also marks places outside of it, where nothing is."""


class Ssd:
    """Upright faces without landmarks. OpenCV's networks keep state, so every concurrent call takes its own."""

    def __init__(self, load: Callable[[], cv2.dnn.Net], search: Search | None = None) -> None:
        self._load, self._search = load, search or Search()
        self._idle: queue.SimpleQueue[cv2.dnn.Net] = queue.SimpleQueue()
        self._idle.put(load())

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        with self._one() as net:
            return [self._detect(net, image) for image in images]

    def _detect(self, net: cv2.dnn.Net, image: Rgb) -> tuple[Detection, ...]:
        net.setInput(pixels(image))
        rows = np.asarray(net.forward(), np.float32).reshape(-1, 7)
        return decode(rows, image, self._search)

    @contextmanager
    def _one(self) -> Iterator[cv2.dnn.Net]:
        try:
            net = self._idle.get_nowait()
        except queue.Empty:
            net = self._load()
        try:
            yield net
        finally:
            self._idle.put(net)


def pixels(image: Rgb) -> Array:
    """(1, 3, 300, 300) float32 BGR without the mean; the image is squashed to a square."""
    view = geometry.resize(image, SIDE, SIDE)[..., ::-1].astype(np.float32) - MEAN
    return np.ascontiguousarray(view.transpose(2, 0, 1)[None])


def decode(rows: Array, image: Rgb, search: Search) -> tuple[Detection, ...]:
    """Faces of (n, 7) rows: image, class (1 is a face), score, and left, top, right, bottom as shares of the image."""
    height, width = image.shape[:2]
    rows = rows[(rows[:, 1] == 1) & (rows[:, 2] >= search.min_score)]
    rows = rows[np.argsort(-rows[:, 2], kind="stable")]
    corners = rows[:, 3:] * np.tile(np.array([width, height], np.float32), 2)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    inside = geometry.clip(boxes, width, height)
    enough = inside[:, 2:].prod(axis=1) >= search.least_inside * boxes[:, 2:].prod(axis=1)
    good = np.flatnonzero(enough & (inside[:, 2:].min(axis=1, initial=np.inf) >= 1))
    return tuple(Detection(geometry.to_box(inside[i]), min(1.0, float(rows[i, 2]))) for i in good)


def _weights(name: str, sha256: str, url: str) -> Weights:
    return Weights(
        name=name,
        sha256=sha256,
        licence="Apache-2.0",
        origin="OpenCV, by A. Rybnikov",
        urls=(url,),
    )


_SAMPLES = "https://github.com/opencv/opencv/raw/4.x/samples/dnn/face_detector"
_NETWORKS = "https://github.com/opencv/opencv_3rdparty/raw"

CAFFE = (
    _weights(
        "deploy.prototxt",
        "dcd661dc48fc9de0a341db1f666a2164ea63a67265c7f779bc12d6b3f2fa67e9",
        "https://github.com/opencv/opencv/raw/4.11.0/samples/dnn/face_detector/deploy.prototxt",
    ),
    _weights(
        "res10_300x300_ssd_iter_140000.caffemodel",
        "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d",
        f"{_NETWORKS}/dnn_samples_face_detector_20170830/res10_300x300_ssd_iter_140000.caffemodel",
    ),
)
TENSORFLOW = (
    _weights(
        "opencv_face_detector.pbtxt",
        "2e2c720657684a43c7c99f321cd872138aa3e68cb036f6103c1d8a4f732608e0",
        f"{_SAMPLES}/opencv_face_detector.pbtxt",
    ),
    _weights(
        "opencv_face_detector_uint8.pb",
        "5c71d752ef2cbf2f457ac82fdd580fcb2522fd04c5efdaed18eb6d9e2843fbed",
        f"{_NETWORKS}/dnn_samples_face_detector_20180220_uint8/opencv_face_detector_uint8.pb",
    ),
)


def load(graph: Path, network: Path) -> cv2.dnn.Net:
    """The network of a Caffe or a TensorFlow pair of files; raises BadWeights."""
    try:
        if network.suffix == ".caffemodel":
            return cv2.dnn.readNetFromCaffe(str(graph), str(network))
        return cv2.dnn.readNetFromTensorflow(str(network), str(graph))
    except cv2.error as error:
        raise BadWeights(f"{network} and {graph} cannot be loaded by OpenCV: {error}") from error


def _build(resources: Resources) -> Ssd:
    graph, network = resources.weights.ensure(resources.held(CAFFE, TENSORFLOW))
    return Ssd(lambda: load(graph, network))


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="ssd",
        summary="Single-shot boxes over a 300 x 300 view: faces that are large in the image, no landmarks",
        licence="Apache-2.0",
        origin="W. Liu et al. 2016; OpenCV's network by A. Rybnikov",
        landmarks=False,
        weights=CAFFE,
        alternatives=(TENSORFLOW,),
        build=_build,
    ),
)
