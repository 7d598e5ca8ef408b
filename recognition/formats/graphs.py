"""What running the graphs that are made here takes to know, apart from what makes them: that is slow to import."""

from __future__ import annotations

DLIB_SIDE = 150
DLIB_DIMENSION = 128
FASNET_SIDE = 80
XCEPTION_SIDE = 64

FREE = ("n", "height", "width")
"""Dimensions of the input of a graph made of a TensorFlow Lite file that are not fixed."""

RETINAFACE_LEVELS = (("m3", 32), ("m2", 16), ("m1", 8))
"""Names of the context modules and pixels per cell, in the order of the outputs."""
RETINAFACE_OUTPUTS: tuple[str, ...] = tuple(
    f"{kind}_stride{stride}"
    for _, stride in RETINAFACE_LEVELS
    for kind in ("cls_prob", "bbox", "landmark")
)
