"""dlib's serialized face recognition network, read without dlib.

The stream holds the layers from the input outwards, each announced by a length-prefixed name. Only
the layer types of the 29-convolution ResNet occur. Facts about the format: dlib's own serializers
(Boost Software Licence).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recognition.errors import BadWeights

MAX_FLOATS = 8_000_000
MAX_LAYERS = 500
_NAMES = b"con_4|affine_|relu_|max_pool_2|avg_pool_2|add_prev_|fc_2"
_LAYER = re.compile(rb"\x01[\x04-\x0a](" + _NAMES + rb")")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """`weights` (out, in, rows, columns), `bias` (out,)."""

    weights: Floats
    bias: Floats
    stride: int
    padding: int


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Per channel: x * scale + shift."""

    scale: Floats
    shift: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """`weights` (in, out), no bias."""

    weights: Floats


@dataclass(frozen=True, slots=True)
class Pooling:
    """`size` 0 stands for the whole map."""

    kind: str
    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class Simple:
    """A layer without parameters: relu_ or add_prev_."""

    kind: str


Layer = Convolution | Affine | Dense | Pooling | Simple


def read_layers(data: bytes) -> list[Layer]:
    """All layers in order. Raises BadWeights if the bytes are not such a network."""
    if b"input_rgb_image_sized" not in data[:1024]:
        raise BadWeights("not a dlib face recognition network")
    layers = list(_layers(data))
    if not layers or len(layers) > MAX_LAYERS:
        raise BadWeights(f"{len(layers)} layers found; not a dlib face recognition network")
    return layers


def _layers(data: bytes) -> Iterator[Layer]:
    position = 0
    while match := _LAYER.search(data, position):
        name = match.group(1).decode()
        reader = _Reader(data, match.end())
        yield _layer(name, reader)
        position = reader.position


def _layer(name: str, reader: _Reader) -> Layer:
    if name == "con_4":
        return _convolution(reader)
    if name == "affine_":
        flat = reader.tensor().ravel()
        half = flat.size // 2
        return Affine(flat[:half], flat[half:])
    if name == "fc_2":
        outputs, inputs = reader.integer(), reader.integer()
        return Dense(_shaped(reader.tensor(), (inputs, outputs)))
    if name in ("max_pool_2", "avg_pool_2"):
        rows, columns, stride, across, padding, beside = (reader.integer() for _ in range(6))
        if (rows, stride, padding) != (columns, across, beside):
            raise BadWeights("a pooling window is not square")
        return Pooling(name[:3], rows, stride, padding)
    return Simple(name)


def _convolution(reader: _Reader) -> Convolution:
    parameters = reader.tensor().ravel()
    filters, rows, columns, stride, across, padding, beside = (reader.integer() for _ in range(7))
    if (stride, padding) != (across, beside) or filters <= 0 or rows * columns <= 0:
        raise BadWeights("a convolution is not of the kind expected")
    weights, bias = parameters[: parameters.size - filters], parameters[parameters.size - filters :]
    inputs = weights.size // (filters * rows * columns)
    return Convolution(_shaped(weights, (filters, inputs, rows, columns)), bias, stride, padding)


def _shaped(flat: Floats, shape: tuple[int, ...]) -> Floats:
    if flat.size == 0 or flat.size != int(np.prod(shape)):
        raise BadWeights(f"{flat.size} weights do not make {shape}")
    return flat.reshape(shape)


class _Reader:
    """Integers and tensors from a position onwards, never beyond the end."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def integer(self) -> int:
        """A control byte (sign and length) and up to eight bytes, little-endian."""
        control = self._take(1)[0]
        length = control & 0x0F
        if length == 0 or length > 8:
            raise BadWeights("a number has an impossible length")
        value = int.from_bytes(self._take(length), "little")
        return -value if control & 0x80 else value

    def tensor(self) -> Floats:
        """A version, four dimensions, then 32-bit floats."""
        if self.integer() != 2:
            raise BadWeights("a tensor is of another version than 2")
        shape = tuple(self.integer() for _ in range(4))
        count = 1
        for side in shape:
            count *= side
        if min(shape) < 0 or not 0 <= count <= MAX_FLOATS:
            raise BadWeights(f"a tensor has the impossible shape {shape}")
        values = np.frombuffer(self._take(4 * count), "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise BadWeights("a tensor holds numbers that are not finite")
        return values.reshape(shape)

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise BadWeights("the file ends too early")
        taken = self._data[self.position : end]
        self.position = end
        return taken
