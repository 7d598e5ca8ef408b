"""The layers of MTCNN's three networks, whose weights `mtcnn_lz4` reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pool:
    """Max pooling with stride 2; `same` keeps a last, incomplete window."""

    size: int
    same: bool = True


@dataclass(frozen=True, slots=True)
class Architecture:
    """Convolutions, each followed by PReLU and perhaps pooling, then a dense layer, then the named heads."""

    side: int | None
    """Side of the square input; None for the network that slides over an image."""
    pools: tuple[Pool | None, ...]
    dense: bool
    heads: tuple[str, ...]


PNET = Architecture(None, (Pool(2), None, None), dense=False, heads=("offsets", "score"))
RNET = Architecture(
    24, (Pool(3), Pool(3, same=False), None), dense=True, heads=("offsets", "score")
)
ONET = Architecture(
    48,
    (Pool(3), Pool(3, same=False), Pool(2), None),
    dense=True,
    heads=("offsets", "landmarks", "score"),
)
