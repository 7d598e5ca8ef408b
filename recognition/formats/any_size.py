"""Sessions of graphs that were saved for one input size, for any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.runtime import Session
from recognition.spec import Resources
from recognition.weights import Weights

_VERSION = 1
"""Part of the converted file's name: raise it when `onnx_shapes.free` makes another graph."""


def session(resources: Resources, weights: Weights) -> Session:
    """The network of that file for any batch and size; raises WeightsMissing or BadWeights."""
    name = weights.name.removesuffix(".onnx") + f"_any{_VERSION}.onnx"
    return resources.runtime.session(resources.weights.derived(name, [weights], _freed))


def _freed(paths: Sequence[Path]) -> bytes:
    from recognition.formats import onnx_shapes

    return onnx_shapes.free(paths[0].read_bytes())
