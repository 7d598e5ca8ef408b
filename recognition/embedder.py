"""Any embedding network on ONNX Runtime: what it wants to be given, and how faces become that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recognition import alignment, deepface
from recognition.errors import BadWeights
from recognition.landmarks import LandmarkPredictor
from recognition.runtime import Session
from recognition.types import Align, Detection, Embeddings, Normalization, Rgb

Colour = Literal["rgb", "bgr"]
Layout = Literal["nhwc", "nchw"]
BATCH = 32
"""Faces per run of the network: more of them take memory and save no time."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Input:
    """What a network was trained on.

    `size` is (height, width); `mean` and `std` are of values 0..255, one for all channels or one for each in the order
    of `colour`; `per_image` then subtracts each image's own mean and divides by its own deviation. `template` is where
    the five landmarks lie on the chip, (5, 2) pixels; None takes the box, grown by `margin` shares.
    `deepface` says what the network gets when a face comes by DeepFace's way: DeepFace's own tensor, or this arithmetic
    on DeepFace's crop.
    """

    size: tuple[int, int]
    colour: Colour = "rgb"
    layout: Layout = "nchw"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    per_image: bool = False
    template: alignment.Floats | None = None
    margin: float = 0.0
    deepface: Literal["tensor", "own"] = "own"

    def crop(self, image: Rgb, face: Detection, align: Align) -> Rgb:
        """(height, width, 3) uint8 RGB."""
        if align == "deepface":
            return deepface.crop(image, face, self.size)
        if align == "none" or self.template is None:
            margin = 0.0 if align == "none" else self.margin
            matrix = alignment.to_square(face.box, self.size, margin)
        else:
            matrix = alignment.to_template(face, self.template)
        return alignment.warp(image, matrix, self.size[1], self.size[0])

    def tensor(
        self, crops: Sequence[Rgb], align: Align, normalization: Normalization
    ) -> NDArray[np.float32]:
        """(n, height, width, 3) or (n, 3, height, width) float32 of uint8 RGB crops."""
        if align == "deepface" and self.deepface == "tensor":
            values = deepface.tensor(crops, normalization)
        else:
            values = self._own(np.stack(crops))
        if self.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, np.float32)

    def _own(self, crops: Rgb) -> NDArray[np.float32]:
        pixels = crops[..., ::-1] if self.colour == "bgr" else crops
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = np.asarray((pixels.astype(np.float32) - mean) / std, np.float32)
        return deepface.standardised(values) if self.per_image else values


class NetworkEmbedder:
    """May be used from several threads at once. `unit`: rows are divided by their length.

    `single`: the graph takes one face at a time; else that is so if its input says so. `predictor` finds the eyes and
    the nose of faces whose detector does not find the mouth's corners (docs/accuracy.md: it finds them better).
    """

    def __init__(
        self,
        network: Session,
        given: Input,
        dimension: int,
        *,
        single: bool = False,
        unit: bool = False,
        predictor: LandmarkPredictor | None = None,
    ) -> None:
        self._network, self._input, self._dimension = network, given, dimension
        self._batch = 1 if single or network.shape[:1] == (1,) else BATCH
        self._unit = unit
        self._predictor = predictor

    def crop(self, image: Rgb, face: Detection, align: Align) -> Rgb:
        """(height, width, 3) uint8 RGB."""
        fitted = align == "native" and self._input.template is not None
        if fitted and self._predictor is not None and not _whole(face):
            face = replace(face, landmarks=self._predictor.eyes_and_nose(image, face))
        return self._input.crop(image, face, align)

    def embed(self, crops: Sequence[Rgb], align: Align, normalization: Normalization) -> Embeddings:
        """(n, dimension) float32, not normalised. Raises BadWeights if the graph answers otherwise."""
        rows = [np.zeros((0, self._dimension), np.float32)]
        for start in range(0, len(crops), self._batch):
            part = crops[start : start + self._batch]
            out = self._network(self._input.tensor(part, align, normalization))[0]
            rows.append(self._checked(out, len(part)))
        values = np.concatenate(rows)
        if not self._unit:
            return values
        lengths = np.linalg.norm(values, axis=1, keepdims=True) + 1e-10
        return np.asarray(values / lengths, np.float32)

    def _checked(self, out: NDArray[np.float32], faces: int) -> Embeddings:
        if out.size != faces * self._dimension:
            raise BadWeights(
                f"the network gives {out.shape} for {faces} faces, not {self._dimension} values each"
            )
        return out.reshape(faces, self._dimension).astype(np.float32, copy=False)


def _whole(face: Detection) -> bool:
    """Whether all five landmarks are known."""
    return face.landmarks is not None and bool(np.isfinite(face.landmarks).all())
