"""Files as PyTorch writes them, made by hand: what weights look like, and what attackers would like them to."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]

STORAGES = {"f4": "FloatStorage", "i8": "LongStorage", "f2": "HalfStorage"}


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


EMPTY = named("collections", "OrderedDict") + b")R"


def storage(key: str, kind: str, count: int, view: bytes = b"") -> bytes:
    inside = text("storage") + named("torch", kind) + text(key) + text("cuda:0") + number(count)
    return b"(" + inside + view + b"tQ"


def tensor(stored: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    inside = stored + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + EMPTY
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + inside + b"tR"


def parameter(inner: bytes) -> bytes:
    return named("torch._utils", "_rebuild_parameter") + b"(" + inner + b"\x88" + EMPTY + b"tR"


def state_dict(values: Mapping[str, bytes]) -> bytes:
    items = b"".join(text(name) + value for name, value in values.items())
    versions = b"}" + text("_metadata") + EMPTY + b"sb"
    return b"\x80\x02" + EMPTY + b"(" + items + b"u" + versions + b"."


def zipped(index: bytes, storages: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """In the format of PyTorch 1.6 and later."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("net/data.pkl", index)
        archive.writestr("net/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
        archive.writestr("net/version", "3\n")
    return out.getvalue()


def plain(index: bytes, storages: Mapping[str, bytes], itemsize: int = 4) -> bytes:
    """In the format of before."""
    system = b"\x80\x02}(" + text("protocol_version") + number(1001)
    system += text("little_endian") + b"\x88" + text("type_sizes") + b"}" + b"u."
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    head = b"\x80\x02" + number(0x1950A86A20F9469CFC6C) + b".\x80\x02" + number(1001) + b"."
    data = b"".join(struct.pack("<q", len(d) // itemsize) + d for d in storages.values())
    return head + system + index + keys + data


def saved(arrays: Arrays) -> bytes:
    """A ZIP file of contiguous arrays, each with a storage of its own."""
    values, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        kind = STORAGES[array.dtype.str[1:]]
        steps = [step // array.itemsize for step in np.ascontiguousarray(array).strides]
        values[name] = tensor(storage(str(key), kind, array.size), array.shape, steps[: array.ndim])
        storages[str(key)] = array.tobytes()
    return zipped(state_dict(values), storages)
