"""A network of the user's own: any ONNX graph that turns one picture of a face into one vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.embedder import Input, NetworkEmbedder
from recognition.errors import ModelUnavailable, RecognitionError
from recognition.landmarks import WEIGHTS as LANDMARK_WEIGHTS
from recognition.landmarks import LandmarkPredictor
from recognition.runtime import Session
from recognition.spec import ModelSpec, Resources, Thresholds
from recognition.weights import Weights


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Own:
    """What a user's file says of a network. `path` is that file; `weights` has the graph's place and hash."""

    path: Path
    name: str
    summary: str
    licence: str
    origin: str
    dimension: int
    given: Input
    weights: Weights
    mirrored: bool
    thresholds: Thresholds


def spec(own: Own) -> ModelSpec:
    aligned = own.given.template is not None
    return ModelSpec(
        name=own.name,
        summary=own.summary,
        licence=own.licence,
        origin=own.origin,
        dimension=own.dimension,
        input_size=own.given.size,
        version=fingerprint(own),
        weights=(own.weights, LANDMARK_WEIGHTS) if aligned else (own.weights,),
        build=partial(_build, own),
        mirrored=own.mirrored,
        thresholds=_thresholds(own),
        described_in=own.path,
    )


def _thresholds(own: Own) -> Mapping[str, Thresholds]:
    """They belong to the network's own alignment: with another, strangers come much closer."""
    unknown: Thresholds = MappingProxyType({})
    box = own.given.template is None and own.given.margin == 0
    return MappingProxyType(
        {"": own.thresholds, "/none": own.thresholds if box else unknown, "/deepface": unknown}
    )


def fingerprint(own: Own) -> int:
    """31 bits of the hash of all that an embedding depends on, whatever it is called."""
    told: dict[str, Any] = {
        "weights": own.weights.sha256,
        "dimension": own.dimension,
        "mirrored": own.mirrored,
        "input": {k: _plain(v) for k, v in asdict(own.given).items()},
    }
    text = json.dumps(told, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _build(own: Own, resources: Resources) -> NetworkEmbedder:
    """Raises ModelUnavailable, which names the file, if the graph is not what the user's file says."""
    try:
        (path,) = resources.weights.ensure([own.weights])
        network = resources.runtime.session(path)
        _check_graph(path, network)
    except RecognitionError as error:
        raise ModelUnavailable(
            f"{own.path}: weights: {error}; if it was meant to change, restart what uses it"
        ) from error
    single = _check_runs(own, network)
    predictor = None if own.given.template is None else LandmarkPredictor.build(resources)
    return NetworkEmbedder(network, own.given, own.dimension, single=single, predictor=predictor)


def _check_graph(path: Path, network: Session) -> None:
    import onnx

    if len(network.inputs) != 1:
        raise ModelUnavailable(
            f"{path} has {len(network.inputs)} inputs, not one: {network.inputs}"
        )
    graph = onnx.load(path, load_external_data=False).graph
    outside = [t.name for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ModelUnavailable(f"{path} keeps {outside[0]} in another file; save it as one file")


def _check_runs(own: Own, network: Session) -> bool:
    """Whether the graph takes one face at a time only. Raises ModelUnavailable."""
    one = _answer(own, network, 1)
    if isinstance(one, str):
        raise ModelUnavailable(f"{own.path}: {one}")
    two = "a batch of 1" if network.shape[:1] == (1,) else _answer(own, network, 2)
    return isinstance(two, str)


def _answer(own: Own, network: Session, faces: int) -> NDArray[np.float32] | str:
    """(faces, dimension) for grey pictures, or what is wrong."""
    crops = [np.full((*own.given.size, 3), 127, np.uint8)] * faces
    try:
        out = network(own.given.tensor(crops, "native", "base"))[0]
    except Exception as error:
        return f"input: the network does not run on it: {error}"
    if out.size != faces * own.dimension:
        found = out.size // faces if out.size % faces == 0 else out.shape
        return f"dimension: it says {own.dimension}, the network gives {found} values a face"
    return np.asarray(out.reshape(faces, own.dimension), np.float32)
