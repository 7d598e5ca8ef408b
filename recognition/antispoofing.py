"""Whether a face was photographed live, or from paper, a screen or a mask: two small networks on one photograph.

Networks and cropping: Silent-Face-Anti-Spoofing by Minivision (Apache-2.0), with the verdict and the score as DeepFace
gives them. An indication, not a certified detection of attacks; see docs/antispoofing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition import geometry
from recognition.formats.graphs import FASNET_SIDE as SIDE
from recognition.runtime import Session
from recognition.spec import AntiSpoofingSpec, Resources
from recognition.types import Authenticity, Box, Detection, Rgb
from recognition.weights import Weights

Array = NDArray[np.float32]

NAME = "Fasnet"
SCALES = (2.7, 4.0)
"""Sides of the two networks' crops over those of the face's box."""
LIVE = 1
"""The class of live faces; the other two are printed and replayed ones."""
BATCH = 32
"""Faces per run of a network."""


class Fasnet:
    def __init__(self, networks: Sequence[Session]) -> None:
        self._networks = tuple(networks)

    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """(2, 80, 80, 3) uint8 RGB: what lies around the box, for either network."""
        box = geometry.pixels(face.box, image.shape[1], image.shape[0])
        return np.stack([_resized(image, *surrounding(box, image, scale)) for scale in SCALES])

    def judge(self, crops: Sequence[Rgb]) -> list[Authenticity]:
        """The class with the most of both networks' probability decides; the score is their mean for that class."""
        if not crops:
            return []
        shares = self.probabilities(crops).astype(np.float64).sum(axis=0)
        return [Authenticity(bool(row.argmax() == LIVE), float(row.max() / 2)) for row in shares]

    def probabilities(self, crops: Sequence[Rgb]) -> Array:
        """(2, n, 3) float32: of each network, for each crop, n at least 1."""
        faces = tensor(crops)
        runs = [faces[start : start + BATCH] for start in range(0, len(faces), BATCH)]
        return np.stack(
            [
                np.concatenate([network(np.ascontiguousarray(run[:, index]))[0] for run in runs])
                for index, network in enumerate(self._networks)
            ]
        )


def surrounding(box: Box, image: Rgb, scale: float) -> tuple[slice, slice]:
    """Rows and columns of the box grown about its centre: no further than the image is large, then moved into it."""
    height, width = image.shape[:2]
    scale = min((height - 1) / box.h, (width - 1) / box.w, scale)
    x, y = box.centre
    return _span(y, box.h * scale, height - 1), _span(x, box.w * scale, width - 1)


def _span(centre: float, length: float, last: int) -> slice:
    """Indices of that many pixels about the centre, and one more; 0 to `last` bound them."""
    start = max(centre - length / 2, 0.0)
    end = centre + length / 2 + (start - (centre - length / 2))
    if end > last:
        start, end = start - (end - last), float(last)
    return slice(max(int(start), 0), int(end) + 1)


def _resized(image: Rgb, rows: slice, columns: slice) -> Rgb:
    """(80, 80, 3): single pixels interpolated also where it shrinks, as in the networks' training."""
    out = cv2.resize(image[rows, columns], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return out.astype(np.uint8, copy=False)


def tensor(crops: Sequence[Rgb]) -> Array:
    """(n, 2, 3, 80, 80) float32 BGR in 0..255 of (2, 80, 80, 3) uint8 RGB crops."""
    return np.stack(crops)[..., ::-1].transpose(0, 1, 4, 2, 3).astype(np.float32)


def _weights(name: str, sha256: str) -> Weights:
    return Weights(
        name=name,
        sha256=sha256,
        licence="Apache-2.0",
        origin="Silent-Face-Anti-Spoofing, Minivision",
        urls=(
            "https://github.com/minivision-ai/Silent-Face-Anti-Spoofing/raw/master/resources/"
            f"anti_spoof_models/{name}",
        ),
    )


V2_WEIGHTS = _weights(
    "2.7_80x80_MiniFASNetV2.pth",
    "a5eb02e1843f19b5386b953cc4c9f011c3f985d0ee2bb9819eea9a142099bec0",
)
V1SE_WEIGHTS = _weights(
    "4_0_0_80x80_MiniFASNetV1SE.pth",
    "84ee1d37d96894d5e82de5a57df044ef80a58be2b218b5ed7cdfd875ec2f5990",
)


WEIGHTS = (V2_WEIGHTS, V1SE_WEIGHTS)
_CONVERTED = ("minifasnet_v2_1.onnx", "minifasnet_v1se_1.onnx")
"""In the order of `WEIGHTS` and `SCALES`."""


def _build(resources: Resources) -> Fasnet:
    return Fasnet([_session(resources, index) for index in range(len(WEIGHTS))])


def _session(resources: Resources, index: int) -> Session:
    def convert(paths: Sequence[Path]) -> bytes:
        from recognition.formats import minifasnet  # noqa: PLC0415 - slow to import, used once

        layout = (minifasnet.V2, minifasnet.V1SE)[index]
        return minifasnet.convert(paths[index].read_bytes(), layout)

    # Both sources for either file: they are fetched, or asked for, together.
    path = resources.weights.derived(_CONVERTED[index], WEIGHTS, convert)
    return resources.runtime.session(path, ["probabilities"])


SPECS: tuple[AntiSpoofingSpec, ...] = (
    AntiSpoofingSpec(
        name=NAME,
        summary="Live or a picture of a face, by MiniFASNet V2 and V1SE on one photograph; not certified",
        licence=V2_WEIGHTS.licence,
        origin=V2_WEIGHTS.origin,
        weights=WEIGHTS,
        build=_build,
    ),
)
