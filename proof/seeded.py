"""Made-up weights that any numpy makes anew from the names of the layers: well-behaved enough to compare outputs of."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping

import h5py
import numpy as np
from numpy.typing import NDArray

from recognition.formats.retinaface import Shapes

Arrays = tuple[NDArray[np.float32], ...]

QUIET = 0.3
"""Of the usual spread: for the last convolution of a residual unit, lest sums grow, and for scores."""


def retinaface(shapes: Mapping[str, Shapes]) -> dict[str, Arrays]:
    """Arrays for each layer; a kernel comes with its bias if it has one, a normalisation as Keras orders it."""
    return {name: _arrays(name, expected) for name, expected in shapes.items()}


def _arrays(name: str, shapes: Shapes) -> Arrays:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name == "bn_data":
        return tuple(np.full(3, value, np.float32) for value in (1, 0, 120, 4000))
    if len(shapes) == 4:
        gamma, variance = (random.uniform(0.8, 1.2, shapes[0]) for _ in range(2))
        beta, mean = (random.normal(0, 0.1, shapes[0]) for _ in range(2))
        return tuple(a.astype(np.float32) for a in (gamma, beta, mean, variance))
    kernel = random.standard_normal(shapes[0], np.float32)
    kernel *= np.float32(_spread(name) * math.sqrt(2 / math.prod(shapes[0][:3])))
    return (kernel, *(random.normal(0, 0.1, shape).astype(np.float32) for shape in shapes[1:]))


def _spread(name: str) -> float:
    """Heads give small shares of an anchor, and scores that are not all 1 in float32."""
    if name.endswith("_conv3") or "cls_score" in name:
        return QUIET
    return 0.1 if "bbox" in name or "landmark" in name else 1.0


def keras_file(arrays: Mapping[str, Arrays]) -> bytes:
    """As Keras' `save_weights` lays out HDF5: a group and its list of names for each layer."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in arrays]
        for name, values in arrays.items():
            group = file.create_group(name)
            parts = [f"{name}/{i}:0" for i in range(len(values))]
            group.attrs["weight_names"] = [part.encode() for part in parts]
            for part, value in zip(parts, values, strict=True):
                group.create_dataset(part, data=value)
    return buffer.getvalue()
