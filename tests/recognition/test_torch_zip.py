"""Weights of PyTorch: read as they were written, and refused where they are anything else."""

from __future__ import annotations

import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import BadWeights
from recognition.formats import torch_zip
from tests.torch_files import (
    EMPTY,
    named,
    number,
    numbers,
    parameter,
    plain,
    saved,
    state_dict,
    storage,
    tensor,
    text,
    zipped,
)

NUMBERS = np.arange(24, dtype=np.float32)
STORED = storage("7", "FloatStorage", 24)
WHOLE = {"a": tensor(STORED, (24,), (1,))}
DATA = {"7": NUMBERS.tobytes()}
Write = Callable[[bytes, dict[str, bytes]], bytes]


@pytest.mark.parametrize("write", [zipped, plain])
def test_arrays_are_what_was_written(write: Write) -> None:
    stored = storage("7", "FloatStorage", 24, b"N" if write is plain else b"")
    index = state_dict(
        {
            "module.whole": tensor(stored, (2, 3, 4), (12, 4, 1)),
            "turned": tensor(stored, (4, 6), (1, 4)),
            "part": parameter(tensor(stored, (2, 2), (4, 1), 9)),
            "one": tensor(stored, (), (), 23),
            "none": tensor(stored, (0, 5), (5, 1)),
        }
    )
    found = torch_zip.read(write(index, DATA))
    assert list(found) == ["module.whole", "turned", "part", "one", "none"]
    np.testing.assert_array_equal(found["module.whole"], NUMBERS.reshape(2, 3, 4))
    np.testing.assert_array_equal(found["turned"], NUMBERS.reshape(6, 4).T)
    np.testing.assert_array_equal(found["part"], [[9, 10], [13, 14]])
    assert found["one"] == 23
    assert found["none"].shape == (0, 5)
    assert all(array.dtype == np.float32 for array in found.values())


def test_types_of_numbers_are_kept() -> None:
    arrays = {
        "count": np.array(2**40, np.int64),
        "half": np.array([[0.5, -2]], np.float16),
        "single": np.array([1e-30], np.float32),
    }
    found = torch_zip.read(saved(arrays))
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_arrays_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        torch_zip.read(zipped(state_dict(WHOLE), DATA))["a"][0] = 1


def called(module: str, name: str, arguments: bytes = b")") -> bytes:
    return named(module, name) + arguments + b"R"


HOSTILE = {
    "a command": state_dict({"a": called("os", "system", b"(" + text("true") + b"t")}),
    "a command by its name on the stack": state_dict(
        {"a": text("os") + text("system") + b"\x93" + b"(" + text("true") + b"tR"}
    ),
    "an object": state_dict({"a": named("collections", "OrderedDict") + b")\x81"}),
    "an instance": state_dict({"a": b"(ios\nsystem\n"}),
    "an extension": state_dict({"a": b"\x82\x01"}),
    "attributes of an array": state_dict({"a": WHOLE["a"] + b"}b"}),
    "a storage's type called": state_dict({"a": called("torch", "FloatStorage")}),
    "a filled dict": b"\x80\x02" + called("collections", "OrderedDict", b"(]t") + b".",
    "no array": state_dict({"a": number(1)}),
    "no dict": b"\x80\x02" + WHOLE["a"] + b".",
    "a dict in a dict": state_dict({"a": EMPTY}),
    "two values": b"\x80\x02" + EMPTY + EMPTY + b".",
    "an empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "a mark left": b"\x80\x02(" + EMPTY + b".",
    "an unknown memo": b"\x80\x02h\x05.",
    "an odd number of items": b"\x80\x02" + EMPTY + b"(" + text("a") + b"u.",
    "keys that are no text": b"\x80\x02" + EMPTY + numbers((1, 2)) + number(1) + b"s.",
    "another storage": state_dict({"a": tensor(storage("8", "FloatStorage", 24), (24,), (1,))}),
    "another size": state_dict({"a": tensor(storage("7", "FloatStorage", 25), (24,), (1,))}),
    "another type's size": state_dict({"a": tensor(storage("7", "LongStorage", 24), (24,), (1,))}),
    "two descriptions": state_dict(
        {**WHOLE, "b": tensor(storage("7", "IntStorage", 24), (24,), (1,))}
    ),
    "an unknown type": state_dict({"a": tensor(storage("7", "QInt8Storage", 24), (24,), (1,))}),
    "a view of a storage": state_dict(
        {"a": tensor(storage("7", "FloatStorage", 24, numbers((1,))), (24,), (1,))}
    ),
    "no storage": state_dict({"a": tensor(number(3), (24,), (1,))}),
    "too long": state_dict({"a": tensor(STORED, (25,), (1,))}),
    "too far": state_dict({"a": tensor(STORED, (24,), (1,), 1)}),
    "strides too wide": state_dict({"a": tensor(STORED, (2, 3), (12, 12))}),
    "expanded": state_dict({"a": tensor(STORED, (10**6, 10**6), (0, 0))}),
    "a negative size": state_dict({"a": tensor(STORED, (-1,), (1,))}),
    "a negative stride": state_dict({"a": tensor(STORED, (24,), (-1,), 23)}),
    "a negative offset": state_dict({"a": tensor(STORED, (2,), (1,), -4)}),
    "a huge size": state_dict({"a": tensor(STORED, (2**62, 2**62), (1, 1))}),
    "an endless size": state_dict({"a": tensor(STORED, (2**900,), (1,))}),
    "sizes without strides": state_dict({"a": tensor(STORED, (2, 3), (1,))}),
    "too many dimensions": state_dict({"a": tensor(STORED, (1,) * 80, (1,) * 80)}),
    "true as a size": state_dict(
        {"a": tensor(STORED, (2,), (1,)).replace(numbers((2,)), b"(\x88t", 1)}
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("write", [zipped, plain])
def test_what_is_no_state_dict_is_refused(what: str, write: Write) -> None:
    with pytest.raises(BadWeights):
        torch_zip.read(write(HOSTILE[what], DATA))


def test_the_refusal_says_what_was_asked_for() -> None:
    with pytest.raises(BadWeights, match="'os system'"):
        torch_zip.read(zipped(HOSTILE["a command"], DATA))


def test_values_that_hold_each_other_cost_no_time() -> None:
    """2^200 leaves, if anything walked through them."""
    nested = b"N\x85" + b"q\x00h\x00\x86" * 200
    started = time.monotonic()
    for ending in (b"Rb.", b"Qb.", b"\x89s.", b".", b"(" + text("a") + b"tR."):
        for index in (nested, EMPTY + nested, named("collections", "OrderedDict") + nested):
            with pytest.raises(BadWeights):
                torch_zip.read(zipped(b"\x80\x02" + index + ending, DATA))
    assert time.monotonic() - started < 5


def test_files_take_no_more_memory_than_they_have_bytes() -> None:
    files = [zipped(HOSTILE[n], DATA) for n in ("expanded", "a huge size", "an endless size")]
    files.append(zipped(state_dict(WHOLE), {"7": b"\0" * 10**8}, zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    for data in files:
        with pytest.raises(BadWeights):
            torch_zip.read(data)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
    tracemalloc.stop()


def test_entries_on_top_of_each_other_are_refused() -> None:
    """Each is as large as the file says; together they are not."""
    values = {
        str(n): tensor(storage(str(n), "FloatStorage", 2500), (2500,), (1,)) for n in range(50)
    }
    data = zipped(state_dict(values), {"0": bytes(10_000), **{str(n): b"" for n in range(1, 50)}})
    crowded = bytearray(data)
    start = data.index(b"PK\x01\x02")
    first: bytes | None = None
    while (start := crowded.find(b"PK\x01\x02", start)) >= 0:
        name = bytes(crowded[start + 46 : start + 60])
        if name.startswith(b"net/data/"):
            # CRC and sizes, and where the entry lies: those of the first storage.
            first = first or bytes(
                crowded[start + 16 : start + 28] + crowded[start + 42 : start + 46]
            )
            crowded[start + 16 : start + 28] = first[:12]
            crowded[start + 42 : start + 46] = first[12:]
        start += 46
    with pytest.raises(BadWeights):
        torch_zip.read(bytes(crowded))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused(method: int) -> None:
    """PyTorch compresses nothing, and what unpacks may ask for any amount of memory."""
    with pytest.raises(BadWeights, match="compressed"):
        torch_zip.read(zipped(state_dict(WHOLE), DATA, method))


def test_big_endian_numbers_are_refused() -> None:
    data = zipped(state_dict(WHOLE), DATA)
    with pytest.raises(BadWeights):
        torch_zip.read(data.replace(b"little", b"biggie"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK", b"nothing" * 100, b"\x80\x02."])
def test_what_is_no_file_of_pytorch_is_refused(data: bytes) -> None:
    with pytest.raises(BadWeights):
        torch_zip.read(data)


@pytest.mark.parametrize("write", [zipped, plain])
def test_truncated_files_are_refused(write: Write) -> None:
    data = write(state_dict(WHOLE), DATA)
    for size in range(len(data)):
        with pytest.raises(BadWeights):
            torch_zip.read(data[:size])


def test_files_with_something_behind_them_are_refused() -> None:
    with pytest.raises(BadWeights):
        torch_zip.read(plain(state_dict(WHOLE), DATA) + b"\0")


@pytest.mark.parametrize("write", [zipped, plain])
def test_damage_is_never_more_than_bad_weights(write: Write) -> None:
    data, random = write(state_dict(WHOLE), DATA), np.random.default_rng(3)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        try:
            torch_zip.read(bytes(damaged))
        except BadWeights:
            refused += 1
    assert refused > 1000


def test_the_published_files_are_read(shared_data: Path) -> None:
    for name, count in (("2.7_80x80_MiniFASNetV2", 334), ("4_0_0_80x80_MiniFASNetV1SE", 370)):
        found = torch_zip.read((shared_data / "weights" / f"{name}.pth").read_bytes())
        assert len(found) == count
        assert found["module.conv1.conv.weight"].shape == (32, 3, 3, 3)
        assert found["module.prob.weight"].shape == (3, 128)
        assert found["module.bn.num_batches_tracked"].dtype == np.int64
