"""The three networks of MTCNN, from their package into ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.formats.mtcnn_layout import ONET, PNET, RNET, Architecture
from recognition.runtime import Session
from recognition.spec import Resources
from recognition.weights import Weights


def _weights(file: str, sha256: str) -> Weights:
    return Weights(
        name=f"mtcnn_{file}",
        sha256=sha256,
        licence="MIT",
        origin="mtcnn 1.0.0 by Iván de Paz Centeno",
        package="mtcnn==1.0.0",
        member=f"mtcnn/assets/weights/{file}",
    )


_NETWORKS: tuple[tuple[Weights, Architecture], ...] = (
    (
        _weights("pnet.lz4", "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5"),
        PNET,
    ),
    (
        _weights("rnet.lz4", "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee"),
        RNET,
    ),
    (
        _weights("onet.lz4", "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3"),
        ONET,
    ),
)
WEIGHTS: tuple[Weights, ...] = tuple(weights for weights, _ in _NETWORKS)


def load(resources: Resources) -> tuple[Session, Session, Session]:
    """Proposing, refining and finishing network; raises WeightsMissing or BadWeights."""
    resources.weights.ensure(WEIGHTS)
    pnet, rnet, onet = (_session(resources, *network) for network in _NETWORKS)
    return pnet, rnet, onet


def _session(resources: Resources, weights: Weights, architecture: Architecture) -> Session:
    def convert(paths: Sequence[Path]) -> bytes:
        from recognition.formats import mtcnn_lz4

        return mtcnn_lz4.convert(paths[0].read_bytes(), architecture)

    name = weights.name.replace(".lz4", "_2.onnx")
    path = resources.weights.derived(name, [weights], convert)
    return resources.runtime.session(path, architecture.heads)
