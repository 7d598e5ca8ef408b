"""Weights of Keras models saved as HDF5, without Keras: the arrays of each layer, in the file's order."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recognition.errors import BadWeights

Array = NDArray[np.float32]

MOST_LAYERS = 10_000
MOST_BYTES = 2 * 2**30
"""Of all arrays together, as the file states their shapes; checked before they are read."""

_DAMAGE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
)
"""What h5py raises for damaged files, missing entries, and entries of another kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer that has weights; convolution kernels are (height, width, in, out)."""

    name: str
    arrays: tuple[Array, ...]


def read(source: bytes | Path) -> tuple[Layer, ...]:
    """The layers that have weights; raises BadWeights for what is not a Keras file, or a damaged one.

    Weights alone (`save_weights`) or with the model (`save`): nothing but arrays and their names is looked at.
    """
    try:
        with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
            root = file.get("model_weights", file)
            names = _names(root, "layer_names")
            _need(len(names) <= MOST_LAYERS, f"{len(names)} layers")
            found = [(name, _datasets(root[name])) for name in names]
            size = sum(dataset.size * 4 for _, datasets in found for dataset in datasets)
            _need(size <= MOST_BYTES, f"{size} bytes of weights")
            layers = (Layer(name, tuple(map(_array, datasets))) for name, datasets in found)
            return tuple(layer for layer in layers if layer.arrays)
    except _DAMAGE as error:
        raise BadWeights(f"not Keras weights, or damaged ones: {error}") from error


def _names(group: h5py.Group, attribute: str) -> list[str]:
    values = group.attrs[attribute]
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    return [group[name] for name in _names(group, "weight_names")]


def _array(dataset: Any) -> Array:  # noqa: ANN401 # h5py gives groups and datasets alike
    _need(isinstance(dataset, h5py.Dataset), "weights are not an array")
    _need(dataset.dtype == np.float32, f"weights of type {dataset.dtype}")
    _need(dataset.external is None and not dataset.is_virtual, "weights lie in other files")
    array: Array = dataset[()]
    _need(bool(np.isfinite(array).all()), "weights are not finite")
    return array


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise BadWeights(f"a file of Keras weights cannot be read: {what}")
