"""NumPy's files read without NumPy's reader: what a header promises is compared with the bytes that are there.

No object arrays, so nothing that would have to be unpickled.
"""

from __future__ import annotations

import io
import math
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from indexer.transfer.errors import BadSource
from recognition.types import Embeddings

Array = NDArray[Any]

PLAIN = "biufU"
"""Kinds of values: truth, whole numbers, floats, text."""
HEADER_BYTES = 10_000
UNREADABLE = (
    ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip
"""What NumPy's parser of headers raises."""
CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Header:
    """Of an array whose values begin at byte `offset`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    offset: int


def parse(data: bytes, what: str) -> Array:
    """The array of a whole file. Raises BadSource."""
    found = header(io.BytesIO(data), len(data), what)
    values = np.frombuffer(data, found.dtype, offset=found.offset)
    return values.reshape(found.shape, order="F" if found.order == "F" else "C")


def rows(path: Path, shape: tuple[int, int], what: str) -> Embeddings:
    """The (n, dimension) finite float32 of a file, mapped and not read. Raises BadSource."""
    with path.open("rb") as file:
        found = header(file, path.stat().st_size, what)
    if found.dtype != np.dtype("<f4") or found.shape != shape or found.order != "C":
        raise BadSource(
            f"{what} holds {found.dtype} of shape {found.shape}, not float32 of shape {shape}"
        )
    if shape[0] == 0:
        return np.empty(shape, np.float32)
    mapped = np.memmap(path, "<f4", "r", found.offset, shape)
    for start in range(0, shape[0], CHUNK_ROWS):
        if not np.isfinite(mapped[start : start + CHUNK_ROWS]).all():
            raise BadSource(f"{what} holds numbers that are not finite")
    return mapped


def header(stream: IO[bytes], size: int, what: str) -> Header:
    """`size` is that of the whole file. Raises BadSource if the values are not plain or not all there."""
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream, max_header_size=HEADER_BYTES)
    except UNREADABLE as error:
        raise BadSource(f"{what} is not an array of NumPy") from error
    if dtype.hasobject or dtype.kind not in PLAIN:
        raise BadSource(f"{what} holds {dtype}; only numbers and text are taken")
    offset = stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - offset:
        raise BadSource(f"{what} says that it holds {shape} of {dtype}, its bytes are not as many")
    if dtype.itemsize == 0:
        raise BadSource(f"{what} holds empty text")
    return Header(dtype, tuple(shape), "F" if fortran else "C", offset)
