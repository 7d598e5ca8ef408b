"""Weights saved by PyTorch, without PyTorch and without unpickling: the arrays of a state_dict by name.

Both of its formats are read: the ZIP archive of PyTorch 1.6 and later, and the pickles one after the other of before.
The pickle that names the arrays is scanned opcode by opcode; the machine below knows what a state_dict needs, calls
nothing that the file names, and refuses the rest.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recognition.errors import BadWeights

Buffers: TypeAlias = Mapping[str, "bytes | memoryview"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MOST_DIMENSIONS = 8
MOST_BITS = 63
"""Of a number: what the format's own counts have."""

_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8",
        "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
        "BoolStorage": "|b1",
    }
)  # fmt: skip

_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What pickletools and zipfile raise for damaged files, and the machine for a stack that does not fit."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of numbers in the file, which arrays are cut from."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`offset` and `strides` count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def read(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays by name, read-only and where they lie in `data`; raises BadWeights for anything but a sound state_dict."""
    try:
        parsed = _zipped(data) if data.startswith(b"PK") else _plain(data)
        return {name: _array(tensor, parsed.buffers) for name, tensor in parsed.tensors.items()}
    except _DAMAGE as error:
        raise BadWeights(f"not weights of PyTorch, or damaged ones: {str(error)[:200]}") from error


@dataclass(frozen=True, slots=True)
class _Parsed:
    tensors: Mapping[str, _Tensor]
    buffers: Buffers


def _zipped(data: bytes) -> _Parsed:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        (index,) = (n for n in entries if n == "data.pkl" or n.endswith("/data.pkl"))
        root = index.removesuffix("data.pkl")
        budget = len(data)

        def entry(name: str) -> bytes:
            """Entries that are compressed, or lie on top of each other, could hold more than the file."""
            nonlocal budget
            info = entries[name]
            _need(info.compress_type == zipfile.ZIP_STORED, "an entry is compressed")
            budget -= info.file_size
            _need(budget >= 0, "the entries are larger than the file")
            return archive.read(info)

        if root + "byteorder" in entries:
            _need(entry(root + "byteorder").strip() == b"little", "numbers are big-endian")
        tensors = _state_dict(_run(io.BytesIO(entry(index))))
        return _Parsed(tensors, {key: entry(f"{root}data/{key}") for key in _storages(tensors)})


def _plain(data: bytes) -> _Parsed:
    """Five pickles (magic number, protocol, the system, the state_dict, the order of storages), then the storages."""
    stream = io.BytesIO(data)
    _need(_run(stream) == MAGIC, "it does not start like one")
    _need(_run(stream) == PROTOCOL, "the protocol is unknown")
    system = _run(stream)
    _need(isinstance(system, dict) and system.get("little_endian") is True, "byte order is unknown")
    tensors = _state_dict(_run(stream))
    storages = _storages(tensors)
    keys = _run(stream)
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise BadWeights("the file of weights lists other storages than it holds")
    view, start = memoryview(data), stream.tell()
    buffers: dict[str, bytes | memoryview] = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", view, start)
        storage = storages[key]
        _need(count == storage.count and key not in buffers, "a storage has another size")
        end = start + 8 + count * np.dtype(storage.dtype).itemsize
        buffers[key], start = view[start + 8 : end], end
    _need(start == len(data), f"{start} bytes are expected, not {len(data)}")
    return _Parsed(tensors, buffers)


def _state_dict(value: object) -> dict[str, _Tensor]:
    _need(isinstance(value, dict), "it holds no state_dict")
    tensors: dict[str, _Tensor] = {}
    for name, tensor in value.items() if isinstance(value, dict) else ():
        if not (isinstance(name, str) and isinstance(tensor, _Tensor)):
            raise BadWeights("the file holds more than arrays by name")
        tensors[name] = tensor
    return tensors


def _storages(tensors: Mapping[str, _Tensor]) -> dict[str, _Storage]:
    found: dict[str, _Storage] = {}
    for tensor in tensors.values():
        known = found.setdefault(tensor.storage.key, tensor.storage)
        _need(known == tensor.storage, "a storage is described in two ways")
    return found


def _array(tensor: _Tensor, buffers: Buffers) -> NDArray[Any]:
    """A view; never reaches beyond its storage, nor has more elements than that."""
    storage = tensor.storage
    dtype = np.dtype(storage.dtype)
    buffer = buffers[storage.key]
    _need(len(buffer) == storage.count * dtype.itemsize, "a storage has another size")
    size = math.prod(tensor.shape)
    if size == 0:
        return np.zeros(tensor.shape, dtype)
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    _need(size <= storage.count, "an array has more elements than its storage")
    _need(tensor.offset + reach < storage.count, "an array reaches beyond its storage")
    flat = np.frombuffer(buffer, dtype)[tensor.offset :]
    steps = (
        s * dtype.itemsize if n > 1 else dtype.itemsize
        for n, s in zip(tensor.shape, tensor.strides, strict=True)
    )
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, tuple(steps), writeable=False)


def _run(stream: io.BytesIO) -> object:
    """The value of the next pickle in the stream, which is left behind it."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        machine.step(opcode.name, argument)
    return machine.result()


_VALUES = frozenset(
    {
        "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1",
    }
)  # fmt: skip
_CONSTANTS: Mapping[str, object] = MappingProxyType(
    {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
)
_TUPLES: Mapping[str, int] = MappingProxyType({"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3})
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})


class _Machine:
    """The part of the pickle machine that state_dicts need.

    Values may hold each other many times over, so they are neither hashed, compared nor printed as a whole.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._steps: Mapping[str, Callable[[Any], None]] = {
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "BINPUT": self._put, "LONG_BINPUT": self._put,
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "BINGET": self._get, "LONG_BINGET": self._get,
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "APPEND": lambda _: self._extend([self._pop()]),
            "APPENDS": lambda _: self._extend(self._marked()),
            "SETITEM": lambda _: self._update(self._last(2)),
            "SETITEMS": lambda _: self._update(self._marked()),
            "GLOBAL": lambda name: self._stack.append(_known_global(name)),
            "STACK_GLOBAL": lambda _: self._stack.append(_named_global(*self._last(2))),
            "REDUCE": lambda _: self._stack.append(_called(*self._last(2))),
            "BINPERSID": lambda _: self._stack.append(_storage(self._pop())),
            "BUILD": lambda _: self._build(),
        }  # fmt: skip

    def step(self, name: str, argument: Any) -> None:  # noqa: ANN401 - as pickletools gives it
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(self._last(_TUPLES[name])))
        elif name in self._steps:
            self._steps[name](argument)
        elif name not in _IGNORED:
            raise BadWeights(f"the file of weights uses {name}, which no state_dict needs")

    def result(self) -> object:
        _need(len(self._stack) == 1 and not self._marks, "a pickle leaves more than one value")
        return self._stack[0]

    def _pop(self) -> Any:  # noqa: ANN401
        return self._last(1)[0]

    def _last(self, count: int) -> list[Any]:
        """Takes values off the stack, but none from before the last mark."""
        start = len(self._stack) - count
        _need(start >= (self._marks[-1] if self._marks else 0), "a pickle's stack is empty")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _marked(self) -> list[Any]:
        _need(bool(self._marks), "a pickle has no mark")
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        _need(isinstance(target, list), "values are appended to what is no list")
        # The only list is that of the storages' keys.
        _need(all(isinstance(value, str) for value in values), "a list holds more than text")
        target.extend(values)

    def _update(self, pairs: list[Any]) -> None:
        """Keys are text only: hashing tuples in tuples can take for ever."""
        target = self._stack[-1]
        _need(isinstance(target, dict) and len(pairs) % 2 == 0, "items are set in what is no dict")
        _need(all(isinstance(key, str) for key in pairs[::2]), "a key is not text")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _build(self) -> None:
        """Attributes of a state_dict: versions of its modules, which are of no use here."""
        state, target = self._pop(), self._stack[-1]
        _need(isinstance(state, dict) and isinstance(target, dict), "an object is given attributes")


_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(f"torch {name}" for name in _DTYPES),
    }
)


def _known_global(name: str) -> _Global:
    if name not in _GLOBALS:
        raise BadWeights(f"the file of weights names {name[:80]!r}, which no state_dict needs")
    return _Global(name)


def _named_global(module: object, name: object) -> _Global:
    _need(isinstance(module, str) and isinstance(name, str), "a name is not text")
    return _known_global(f"{module} {name}")


def _called(what: object, arguments: object) -> object:
    """What the three known functions give; none of them is called."""
    if not (isinstance(what, _Global) and isinstance(arguments, tuple)):
        raise BadWeights("a pickle calls what is no function")
    if what.name == "collections OrderedDict":
        _need(arguments == (), "an OrderedDict is made of something")
        return {}
    if what.name == "torch._utils _rebuild_tensor_v2":
        return _tensor(*arguments[:4])
    _need(what.name == "torch._utils _rebuild_parameter", "a storage's type is called")
    _need(bool(arguments) and isinstance(arguments[0], _Tensor), "a parameter is no array")
    return arguments[0]


def _tensor(storage: object, offset: object, shape: object, strides: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise BadWeights("an array of the file of weights has no storage")
    sizes, steps = _counts(shape), _counts(strides)
    _need(len(sizes) == len(steps) <= MOST_DIMENSIONS, "an array has too many dimensions")
    return _Tensor(storage, _count(offset), sizes, steps)


def _storage(identity: object) -> _Storage:
    """Of a persistent id: ("storage", type, key, device, count), and None for no view in the older format."""
    if not (isinstance(identity, tuple) and len(identity) in (5, 6)):
        raise BadWeights("a persistent id of the file of weights is not a storage's")
    word, kind, key, _, count, *view = identity
    if not (isinstance(kind, _Global) and isinstance(key, str) and isinstance(word, str)):
        raise BadWeights("a persistent id of the file of weights is not a storage's")
    _need(word == "storage" and view in ([], [None]), "a persistent id is not a storage's")
    return _Storage(key, _DTYPES[kind.name.removeprefix("torch ")], _count(count))


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MOST_DIMENSIONS:
        raise BadWeights("the shape of an array is none")
    return tuple(_count(value) for value in values)


def _count(value: object) -> int:
    if type(value) is not int or value < 0 or value.bit_length() > MOST_BITS:
        raise BadWeights("a count in the file of weights is none")
    return value


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise BadWeights(f"a file of PyTorch weights cannot be read: {what}")
