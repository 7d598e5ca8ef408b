"""Published HDF5 weights into one of our Keras networks, and that into an ONNX graph; runs in a process of its own."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from recognition.errors import BadWeights
from recognition.formats import keras_h5
from recognition.keras import graph
from recognition.runtime import Runtime

AGREEMENT = 0.999
"""Least cosine between what Keras and what the graph answer to the same input; rounding leaves more."""


def convert(network: str, source: Path, target: Path) -> None:
    """Write the graph of `module:function` with the weights of `source`; raises BadWeights.

    The graph is run beside the network before it counts.
    """
    built = pkgutil.resolve_name(network)()
    load(built, keras_h5.read(source), source.name)
    onnx.save(graph.write(built), str(target))
    onnx.checker.check_model(str(target))
    compare(built, target)


def load(network: Any, layers: Sequence[keras_h5.Layer], name: str) -> None:  # noqa: ANN401 # Keras is untyped
    """Give each layer with weights those of the file's next one: that is how Keras saves them; names do not count."""
    own = [layer for layer in network.layers if layer.weights]
    if len(own) != len(layers):
        raise BadWeights(f"{name} has weights for {len(layers)} layers, the network {len(own)}")
    for place, (layer, found) in enumerate(zip(own, layers, strict=True), 1):
        shapes = [tuple(array.shape) for array in found.arrays]
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if shapes != wanted:
            raise BadWeights(
                f"{name}: layer {place}, {found.name}, has weights {shapes}, the network {wanted}"
            )
        layer.set_weights(list(found.arrays))


def compare(network: Any, path: Path) -> None:  # noqa: ANN401
    """Raises BadWeights where the graph does not compute what the network does."""
    shape = network.inputs[0].shape[1:]
    given = np.random.default_rng(0).random((2, *shape), np.float32)
    answer = network.predict_on_batch(given)
    expected = np.asarray(answer[0] if isinstance(answer, list) else answer, np.float32)
    (found,) = Runtime(threads=1).session(path, [graph.OUTPUT])(given)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise BadWeights("the network's answers are not finite: its weights are damaged")
    closest = min(_cosine(a, b) for a, b in zip(expected, found, strict=True))
    if closest < AGREEMENT:
        raise BadWeights(f"the ONNX graph and the Keras network disagree, cosine {closest:.6f}")


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """1 for two rows of zeros."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))
