"""Values that travel between the parts of the pipeline; all immutable.

Coordinates are pixels of the upright image (EXIF orientation applied), origin at its top left corner.
Left and right are the person's own: on an upright face the right eye has the smaller x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Rgb: TypeAlias = NDArray[np.uint8]
"""(height, width, 3) uint8, channels red, green, blue."""

Points: TypeAlias = NDArray[np.float32]
"""(5, 2) float32 x, y: right eye, left eye, nose tip, right and left mouth corner."""

Embeddings: TypeAlias = NDArray[np.float32]
"""(n, dimension) float32, as the network gives them: not normalised."""

Metric = Literal["cosine", "euclidean", "euclidean_l2", "angular"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean", "euclidean_l2", "angular")

Align = Literal["native", "none", "deepface"]
"""How a face becomes a network's input: as the network was trained, the plain box, or exactly as DeepFace does it."""
ALIGNS: tuple[Align, ...] = get_args(Align)

Normalization = Literal["base", "raw", "Facenet", "Facenet2018", "VGGFace", "VGGFace2", "ArcFace"]
"""DeepFace's arithmetic on pixels; `base` leaves them as the alignment gives them."""
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    w: float
    h: float

    @property
    def area(self) -> float:
        return self.w * self.h

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face found in an image. `score` is in 0..1; `landmarks` is None where a detector has none.

    `mouth` is the mouth's centre, where a detector knows that and not the corners.
    """

    box: Box
    score: float
    landmarks: Points | None = None
    mouth: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """Estimates for one face: age in years; the others are percentages by class, each summing to 100."""

    age: float | None = None
    gender: dict[str, float] | None = None
    race: dict[str, float] | None = None
    emotion: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Authenticity:
    """Whether a face looks live and not like a picture of one; `score`, 0..1, is that of this very verdict."""

    is_real: bool
    score: float


class Detector(Protocol):
    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        """Faces of each image, best score first."""
        ...


class Embedder(Protocol):
    def crop(self, image: Rgb, face: Detection, align: Align) -> Rgb:
        """The network's input for one face: (height, width, 3) uint8 RGB."""
        ...

    def embed(self, crops: Sequence[Rgb], align: Align, normalization: Normalization) -> Embeddings:
        """One row per crop, which was made with that `align`; independent of the size of the batch."""
        ...


class Attribute(Protocol):
    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """This attribute's input for one face: (height, width, 3) uint8 RGB."""
        ...

    def predict(self, crops: Sequence[Rgb]) -> list[Attributes]:
        """One `Attributes` per crop with only this attribute's field set."""
        ...


class AntiSpoofing(Protocol):
    def crop(self, image: Rgb, face: Detection) -> Rgb:
        """The networks' input for one face, taken from the whole image: (networks, height, width, 3) uint8 RGB."""
        ...

    def judge(self, crops: Sequence[Rgb]) -> list[Authenticity]:
        """One per crop; the result does not depend on the size of the batch."""
        ...
