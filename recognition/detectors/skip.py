"""No detection: the whole image is one face. For crops made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from recognition import geometry
from recognition.spec import DetectorSpec, Resources
from recognition.types import Detection, Rgb


class Skip:
    """One face per image, with score 0, as nothing was looked for, and without landmarks."""

    def detect(self, images: Sequence[Rgb]) -> list[tuple[Detection, ...]]:
        return [(Detection(geometry.whole(image), 0.0),) for image in images]


def _build(resources: Resources) -> Skip:
    return Skip()


SPECS: tuple[DetectorSpec, ...] = (
    DetectorSpec(
        name="skip",
        summary="No detection: the whole image is taken as one face",
        licence="MIT",
        origin="this project",
        landmarks=False,
        weights=(),
        build=_build,
    ),
)
