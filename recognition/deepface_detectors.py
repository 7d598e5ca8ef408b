"""The detectors as DeepFace 0.0.103 runs them, for `align` deepface: its settings, its whole pixels, its channel order.

`facesearch` looks for faces in ways that find more of them, or place them better; an embedding that is to agree with
one of DeepFace's needs the very box that DeepFace cuts out. Each of these is given DeepFace's picture, with its border
(`deepface.border`), and answers in whole pixels of that. Facts of DeepFace by S. I. Serengil (MIT), written anew.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.detectors import centerface, fastmtcnn, mediapipe, mtcnn, ssd, yunet
from recognition.errors import WeightsMissing
from recognition.formats import any_size, mtcnn_networks
from recognition.landmarks import DlibPredictor
from recognition.spec import Resources
from recognition.types import Box, Detection, Detector, Points, Rgb

Array = NDArray[np.float32]

LARGEST = 32 << 20
"""Pixels of an image with its border up to which nothing is shrunk. DeepFace has no bound, and takes minutes and
gigabytes for larger ones."""
AT_ONCE = 16 << 20
"""Likewise, where a network sees the whole image at once: some 2 GB."""


class Cascade:
    """One of OpenCV's Haar cascades in DeepFace's setting. A classifier keeps state while it runs: one a thread."""

    def __init__(self, name: str) -> None:
        self._path = Path(cv2.__file__).parent / "data" / f"haarcascade_{name}.xml"
        self._local = threading.local()
        self._classifier()

    def boxes(self, image: Rgb) -> tuple[NDArray[np.intp], Array]:
        """(n, 4) x, y, width, height in whole pixels and (n,) weights, in the classifier's order."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found, _, weights = self._classifier().detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=10, outputRejectLevels=True
        )
        return (
            np.asarray(found, np.intp).reshape(-1, 4),
            np.asarray(weights, np.float32).reshape(-1),
        )

    def _classifier(self) -> cv2.CascadeClassifier:
        classifier: cv2.CascadeClassifier | None = getattr(self._local, "classifier", None)
        if classifier is None:
            classifier = cv2.CascadeClassifier(str(self._path))
            if classifier.empty():
                raise WeightsMissing(
                    f"{self._path} is missing or unreadable; it comes with opencv-python-headless 4.x"
                )
            self._local.classifier = classifier
        return classifier


class Eyes:
    """The two largest eyes that OpenCV's cascade sees in a face: DeepFace's for detectors that give none."""

    def __init__(self) -> None:
        self._cascade = Cascade("eye")

    def complete(self, image: Rgb, face: Detection) -> Detection:
        """With eyes as landmarks, the others NaN; as it was if it has eyes, or fewer than two are seen."""
        if face.landmarks is not None:
            return face
        x, y, w, h = (int(v) for v in (face.box.x, face.box.y, face.box.w, face.box.h))
        part = image[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
        if not part.size:
            return face
        boxes, _ = self._cascade.boxes(np.ascontiguousarray(part))
        largest = sorted(boxes.tolist(), key=lambda box: box[2] * box[3], reverse=True)[:2]
        if len(largest) < 2:
            return face
        right, left = sorted(largest, key=lambda box: box[0])
        centres = [
            (x + int(a + width / 2), y + int(b + height / 2))
            for a, b, width, height in (right, left)
        ]
        return replace(face, landmarks=eyes(*centres))


class Haar:
    """`opencv`: every find of the cascade in the image as it is; the eyes are those of a second cascade."""

    def __init__(self) -> None:
        self._faces, self._eyes = Cascade("frontalface_default"), Eyes()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        boxes, weights = self._faces.boxes(image)
        # DeepFace's confidence: it falls as the cascade gets surer.
        found = (
            Detection(geometry.to_box(box.astype(np.float64)), (100 - float(weight)) / 100)
            for box, weight in zip(boxes, weights, strict=True)
        )
        return tuple(self._eyes.complete(image, face) for face in found)


class Hog:
    """`dlib`: the image doubled, blue taken for red; eyes by the predictor in the detector's own square."""

    def __init__(self, dlib: ModuleType, predictor: DlibPredictor) -> None:
        self._dlib, self._predictor = dlib, predictor
        self._local = threading.local()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._detect(np.ascontiguousarray(image[..., ::-1])) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        if not hasattr(self._local, "detector"):
            self._local.detector = self._dlib.get_frontal_face_detector()
        double = image.shape[0] * image.shape[1] <= LARGEST
        rectangles, scores, _ = self._local.detector.run(image, int(double))
        return tuple(
            self._face(image, rectangle, float(score))
            for rectangle, score in zip(rectangles, scores, strict=True)
        )

    def _face(self, image: Rgb, rectangle: object, score: float) -> Detection:
        left, top, right, bottom = (
            int(getattr(rectangle, side)()) for side in ("left", "top", "right", "bottom")
        )
        square = Box(left, top, right - left + 1, bottom - top + 1)
        points = self._predictor.points(image, square)
        x, y = max(0, left), max(0, top)
        box = Box(x, y, min(right, image.shape[1]) - x, min(bottom, image.shape[0]) - y)
        left_eye, right_eye = ((points[i] + points[i + 1]) // 2 for i in (0, 2))
        return Detection(box, min(max(0.0, score), 1.0), eyes(right_eye, left_eye))


class Single:
    """`ssd`: the mean is not subtracted, only sure faces, corners in whole pixels of the 300 x 300 view."""

    def __init__(self, load: Callable[[], cv2.dnn.Net]) -> None:
        self._load = load
        self._local = threading.local()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        if not hasattr(self._local, "net"):
            self._local.net = self._load()
        return [self._detect(self._local.net, image) for image in images]

    def _detect(self, net: cv2.dnn.Net, image: Rgb) -> tuple[Detection, ...]:
        view = cv2.resize(image[..., ::-1], (ssd.SIDE, ssd.SIDE))
        net.setInput(cv2.dnn.blobFromImage(view))
        rows = np.asarray(net.forward(), np.float32).reshape(-1, 7)
        rows = rows[(rows[:, 1] == 1) & (rows[:, 2] >= 0.9)]
        back = np.tile(np.array(image.shape[1::-1]) / ssd.SIDE, 2)
        corners = np.trunc(np.trunc(rows[:, 3:] * ssd.SIDE) * back)
        return tuple(
            Detection(Box(x0, y0, x1 - x0, y1 - y0), float(score))
            for (x0, y0, x1, y1), score in zip(corners.tolist(), rows[:, 2], strict=True)
        )


class Mediapipe:
    """The short-range network in one pass, blue taken for red, at least 0.5 sure: the 0.7 that DeepFace asks for has no
    effect."""

    def __init__(self, network: mediapipe.BlazeFace) -> None:
        self._network = network

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._detect(image[..., ::-1]) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        found = self._network.read(corner_to_corner(image, self._network.size), 0.5)
        found = mediapipe.merge(found)
        faces = (
            Detection(geometry.to_box(box), float(score), mediapipe.landmarks(points))
            for box, score, points in zip(found.boxes, found.scores, found.points, strict=True)
        )
        return tuple(rounded(face, np.trunc) for face in faces)


def corner_to_corner(image: Rgb, side: int) -> tuple[Rgb, Array, Array]:
    """As `mediapipe.view` of the whole image, sampled as MediaPipe does: not smoothed, corners brought to corners."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    offset = (side - scale * np.array([width, height])) / 2
    matrix = np.column_stack([np.eye(2) * scale, offset])
    canvas = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(canvas, np.uint8), np.full(2, scale, np.float32), offset.astype(np.float32)


class Yu:
    """`yunet`: the longer side at most 640, at least 0.9 sure, whole pixels before and after the way back."""

    def __init__(self, network: yunet.YuNet) -> None:
        self._network = network

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        ratio = min(1.0, 640 / max(height, width))
        view = image
        if ratio < 1:
            view = np.asarray(
                cv2.resize(image, (int(width * ratio), int(height * ratio))), np.uint8
            )
        (found,) = self._network.detect([view])
        return tuple(
            rounded(geometry.scaled(rounded(face, np.trunc), (1 / ratio, 1 / ratio)), np.trunc)
            for face in found
        )


@dataclass(frozen=True, slots=True)
class WholePixels:
    """Of another detector: boxes and landmarks in whole pixels."""

    detector: Detector
    way: Callable[[Array], Array]
    """numpy.trunc or numpy.rint."""
    corners: bool = False
    """Of the box's corners, not of its corner and its size."""

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        found = self.detector.detect(images)
        return [
            tuple(rounded(face, self.way, corners=self.corners) for face in faces)
            for faces in found
        ]


@dataclass(frozen=True, slots=True)
class Within:
    """Another detector over images of at most so many pixels."""

    detector: Detector
    pixels: int

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Rgb) -> tuple[Detection, ...]:
        small, (x, y) = geometry.within(image, self.pixels)
        (found,) = self.detector.detect([small])
        return tuple(geometry.scaled(face, (float(x), float(y))) for face in found)


def rounded(face: Detection, way: Callable[[Array], Array], *, corners: bool = False) -> Detection:
    """Without what DeepFace does not know: the mouth's centre."""
    box = np.array([face.box.x, face.box.y, face.box.w, face.box.h])
    if corners:
        low, high = way(box[:2]), way(box[:2] + box[2:])
        box = np.concatenate([low, high - low])
    points = None if face.landmarks is None else way(face.landmarks)
    return Detection(geometry.to_box(way(box)), face.score, points)


def eyes(right: Sequence[float] | Array, left: Sequence[float] | Array) -> Points:
    """(5, 2) float32 with NaN for the other landmarks."""
    unknown = (np.nan, np.nan)
    return np.array([right, left, unknown, unknown, unknown], np.float32)


def _hog(resources: Resources) -> Detector:
    return Hog(importlib.import_module("dlib"), DlibPredictor.build(resources))


def _mtcnn(resources: Resources) -> Detector:
    networks = mtcnn_networks.load(resources)
    return WholePixels(mtcnn.Mtcnn(*networks, mtcnn.Cascade(pixels=LARGEST, exact=True)), np.rint)


def _fastmtcnn(resources: Resources) -> Detector:
    networks = mtcnn_networks.load(resources)
    return WholePixels(fastmtcnn.FastMtcnn(*networks, fastmtcnn.Cascade(pixels=LARGEST)), np.trunc)


def _ssd(resources: Resources) -> Detector:
    graph, network = resources.weights.ensure(resources.held(ssd.CAFFE, ssd.TENSORFLOW))
    return Single(lambda: ssd.load(graph, network))


def _mediapipe(resources: Resources) -> Detector:
    return Mediapipe(mediapipe.load(resources, mediapipe.SHORT))


def _yunet(resources: Resources) -> Detector:
    (weights,) = resources.held(*yunet.CHOICES)
    search = yunet.Search(longest=640, min_score=0.9)
    return Yu(yunet.YuNet(any_size.session(resources, weights), search))


def _centerface(resources: Resources) -> Detector:
    (weights,) = resources.held((centerface.CARRIED,), (centerface.PUBLISHED,))
    search = centerface.Search(longest=AT_ONCE, min_score=0.35)
    network = centerface.CenterFace(any_size.session(resources, weights), search)
    return WholePixels(Within(network, AT_ONCE), np.trunc)


BUILDERS: Mapping[str, Callable[[Resources], Detector]] = MappingProxyType(
    {
        "opencv": lambda _: Haar(),
        "ssd": _ssd,
        "dlib": _hog,
        "mtcnn": _mtcnn,
        "fastmtcnn": _fastmtcnn,
        "mediapipe": _mediapipe,
        "yunet": _yunet,
        "centerface": _centerface,
    }
)
"""By our names, which are DeepFace's. RetinaFace and YOLO run in its settings anyway."""


SHORT_SIGHTED = frozenset({"mediapipe"})
"""With DeepFace's border, which halves the face, its network sees few portraits: where it sees none the usual detector
is asked, as the embedding is then nobody's to agree with."""


def build(name: str, usual: Callable[[Resources], Detector], resources: Resources) -> Detector:
    """The detector as DeepFace runs it; one that DeepFace does not have, as it is, in whole pixels."""
    if name in BUILDERS:
        return BUILDERS[name](resources)
    return WholePixels(usual(resources), np.trunc, corners=name == "retinaface")
