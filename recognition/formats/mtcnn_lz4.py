"""The networks of the mtcnn package (1.0.0): LZ4-framed joblib dumps of Keras weights, as ONNX graphs.

A dump is a pickle with raw arrays in between. It is scanned, not unpickled: the scanner knows the few opcodes that
such a file holds, builds numbers, strings and arrays from them, and can neither import nor call anything.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import lz4.frame
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats.mtcnn_layout import Architecture, Pool
from recognition.formats.onnx_nodes import Nodes

OPSET = 17
IR_VERSION = 8
LARGEST_DUMP = 8 << 20
"""Bytes once decompressed; the largest of the three has 1.6 million."""
MOST_OPCODES = 10_000
"""In one dump; the largest has some 500."""

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Global:
    """The name of a class: only ever compared."""

    name: str


@dataclass(frozen=True, slots=True)
class _Blank:
    """An object that its state will turn into an array."""


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """An array, wrapped so that comparing it with anything is safe."""

    array: Array


class _Mark:
    """Where a tuple, a dict's items or a list's items begin on the stack."""


_WRAPPER = _Global("joblib.numpy_pickle.NumpyArrayWrapper")
_NDARRAY = _Global("numpy.ndarray")
_DTYPE = _Global("numpy.dtype")
_FLOAT32 = _Global("numpy.dtype float32")
_ALIGNMENT = 16


def read_arrays(data: bytes) -> list[Array]:
    """The float32 arrays of a dump, in its order; raises BadWeights for anything but a list of such arrays."""
    return _Scanner(_decompress(data)).scan()


def _decompress(data: bytes) -> bytes:
    decoder = lz4.frame.LZ4FrameDecompressor()
    try:
        out: bytes = decoder.decompress(data, max_length=LARGEST_DUMP)
    except (RuntimeError, EOFError) as error:
        raise BadWeights(f"not an LZ4 frame, or a damaged one: {error}") from error
    _need(decoder.eof, "the LZ4 frame is cut off or too large")
    _need(not decoder.unused_data, "bytes follow the LZ4 frame")
    return out


class _Scanner:
    """One pass over a dump. The stack holds data only."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: list[Any] = []
        self._simple: Mapping[int, Callable[[], Any]] = {
            ord("K"): lambda: self._number("<B"),
            ord("M"): lambda: self._number("<H"),
            ord("J"): lambda: self._number("<i"),
            ord("N"): lambda: None,
            0x88: lambda: True,
            0x89: lambda: False,
            ord("]"): list,
            ord("}"): dict,
            ord("("): _Mark,
            ord(")"): tuple,
            ord("t"): lambda: tuple(self._since_mark()),
            0x85: lambda: self._pop(1),
            0x86: lambda: self._pop(2),
            0x87: lambda: self._pop(3),
            ord("h"): lambda: self._recall(self._number("<B")),
            ord("j"): lambda: self._recall(self._number("<I")),
            0x8C: self._string,
            0x93: self._global,
            0x81: self._new,
            ord("R"): self._dtype,
            ord("b"): self._build,
            ord("u"): self._set_items,
            ord("e"): self._append,
        }

    def scan(self) -> list[Array]:
        _need(self._take(2) == b"\x80\x04", "protocol 4 is expected")
        for _ in range(MOST_OPCODES):
            opcode = self._number("<B")
            if opcode == ord("."):
                return self._result()
            self._step(opcode)
        raise BadWeights("not a dump of MTCNN weights: too many opcodes")

    def _step(self, opcode: int) -> None:
        if opcode == 0x94:
            _need(bool(self._stack), "values are missing")
            self._memo.append(self._stack[-1])
        elif opcode == 0x95:  # the length of a frame: of use to buffered readers only
            self._take(8)
        else:
            _need(opcode in self._simple, f"opcode {opcode:#04x} is not known")
            self._stack.append(self._simple[opcode]())

    def _result(self) -> list[Array]:
        _need(self._at == len(self._data), "bytes follow the end")
        (found,) = self._pop(1)
        _need(not self._stack and isinstance(found, list) and bool(found), "a list is expected")
        _need(all(isinstance(value, _Values) for value in found), "only arrays are expected")
        return [value.array for value in found]

    def _take(self, size: int) -> bytes:
        _need(size <= len(self._data) - self._at, "it ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def _number(self, code: str) -> int:
        return int(struct.unpack(code, self._take(struct.calcsize(code)))[0])

    def _pop(self, count: int) -> tuple[Any, ...]:
        _need(len(self._stack) >= count, "values are missing")
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while at >= 0 and not isinstance(self._stack[at], _Mark):
            at -= 1
        _need(at >= 0, "a mark is missing")
        taken = self._stack[at + 1 :]
        del self._stack[at:]
        return taken

    def _recall(self, index: int) -> object:
        _need(index < len(self._memo), "a memo entry is missing")
        return self._memo[index]

    def _string(self) -> str:
        raw = self._take(self._number("<B"))
        _need(raw.isascii(), "a name is not ASCII")
        return raw.decode("ascii")

    def _global(self) -> _Global:
        module, name = self._pop(2)
        found = _Global(f"{module}.{name}")
        _need(found in (_WRAPPER, _NDARRAY, _DTYPE), f"{found.name} is not known")
        return found

    def _new(self) -> _Blank:
        _need(self._pop(2) == (_WRAPPER, ()), "only array wrappers are expected")
        return _Blank()

    def _dtype(self) -> _Global:
        _need(self._pop(2) == (_DTYPE, ("f4", False, True)), "only float32 is expected")
        return _FLOAT32

    def _build(self) -> _Global | _Values:
        target, state = self._pop(2)
        if target == _FLOAT32:
            little_endian = (3, "<", None, None, None, -1, -1, 0)
            _need(state == little_endian, "only little-endian float32 is expected")
            return _FLOAT32
        _need(isinstance(target, _Blank) and isinstance(state, dict), "only arrays are expected")
        return self._array(state)

    def _set_items(self) -> dict[str, Any]:
        items = self._since_mark()
        (target,) = self._pop(1)
        _need(isinstance(target, dict) and len(items) % 2 == 0, "a dict is expected")
        _need(all(isinstance(key, str) for key in items[::2]), "a key is not a string")
        return {**target, **dict(zip(items[::2], items[1::2], strict=True))}

    def _append(self) -> list[Any]:
        items = self._since_mark()
        (target,) = self._pop(1)
        _need(isinstance(target, list), "a list is expected")
        return [*target, *items]

    def _array(self, state: dict[str, Any]) -> _Values:
        """The raw values that follow the wrapper, from the next multiple of 16 bytes on."""
        shape = state.pop("shape", None)
        expected = {
            "subclass": _NDARRAY,
            "order": "C",
            "dtype": _FLOAT32,
            "allow_mmap": True,
            "numpy_array_alignment_bytes": _ALIGNMENT,
        }
        _need(state == expected, "an array has unexpected properties")
        _need(isinstance(shape, tuple) and 0 < len(shape) <= 4, "an array's shape is missing")
        _need(all(type(n) is int and n > 0 for n in shape), "an array's shape is wrong")
        padding = self._take(self._number("<B"))
        _need(len(padding) <= _ALIGNMENT and self._at % _ALIGNMENT == 0, "padding is wrong")
        raw = self._take(math.prod(shape) * 4)
        return _Values(np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32))


def convert(data: bytes, architecture: Architecture) -> bytes:
    """The serialised ONNX model of one dump; raises BadWeights where weights and architecture do not fit.

    Input "image" (n, height, width, 3) float32 RGB, 0 to 255. Outputs float32: "offsets" (n, 4), for ONET
    "landmarks" (n, 10), and "score" (n, 1), the probability of a face; PNET's have two more axes, rows and columns.
    Layers as in K. Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded CNNs (2016).
    """
    graph = _Graph(architecture, read_arrays(data))
    try:
        model = graph.model()
        onnx.checker.check_model(model, full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadWeights(f"the arrays do not fit the network: {error}") from error
    return bytes(model.SerializeToString(deterministic=True))


class _Graph(Nodes):
    """Takes the arrays in the order of the layers, which is that of the dump."""

    def __init__(self, architecture: Architecture, arrays: Sequence[Array]) -> None:
        self._architecture = architecture
        self._arrays = list(reversed(arrays))
        super().__init__()

    def model(self) -> onnx.ModelProto:
        found = self._heads(self._body())
        if self._arrays:
            raise ValueError(f"{len(self._arrays)} arrays are left over")
        side = self._architecture.side
        shape = ["n", side or "height", side or "width", 3]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "mtcnn", [image], found, self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)

    def _body(self) -> str:
        flow = self._node("Transpose", "image", options={"perm": [0, 3, 1, 2]})
        maps = 3
        for layer, pool in enumerate(self._architecture.pools):
            kernel, bias, slope = self._next(4), self._next(1), self._next(3).ravel()
            kernel, maps = kernel.transpose(3, 2, 0, 1), len(bias)
            if layer == 0:
                kernel, bias = _normalised(kernel, bias)
            if pool is None:
                flow = self._node("Conv", flow, self._constant(kernel), self._constant(bias))
                flow = self._prelu(flow, slope)
            else:
                flow = self._pooled(flow, kernel, bias, slope, pool)
        return self._dense(flow, maps) if self._architecture.dense else flow

    def _pooled(self, flow: str, kernel: Array, bias: Array, slope: Array, pool: Pool) -> str:
        """Convolution, PReLU and pooling, with PReLU after the pooling, where it is four times less work.

        The largest value of PReLU over a window is at the window's largest input, or, where the slope is negative, at
        its largest or smallest one. So maps with a negative slope are computed a second time, negated.
        """
        bent = np.flatnonzero(slope < 0)
        kernel, lower = np.concatenate([kernel, -kernel[bent]]), np.arange(len(slope))
        lower[bent] = len(slope) + np.arange(len(bent))
        bias = np.concatenate([bias, -bias[bent]])
        flow = self._node("Conv", flow, self._constant(kernel), self._constant(bias))
        flow = self._pool(flow, pool)
        top = self._node("Gather", flow, self._constant(np.arange(len(slope))), options={"axis": 1})
        low = self._node("Gather", flow, self._constant(lower), options={"axis": 1})
        sign = np.where(slope < 0, -1, 1).astype(np.float32).reshape(-1, 1, 1)
        low = self._node("Mul", low, self._constant(sign))
        return self._node("Max", self._prelu(top, slope), self._prelu(low, slope))

    def _prelu(self, flow: str, slope: Array) -> str:
        return self._node("PRelu", flow, self._constant(slope.reshape(-1, 1, 1)))

    def _dense(self, flow: str, maps: int) -> str:
        """The source flattens columns first, channels last; here channels come first."""
        weights, bias = self._next(2), self._next(1)
        side = math.isqrt(len(weights) // maps)
        weights = weights.reshape(side, side, maps, -1).transpose(2, 1, 0, 3)
        weights = weights.reshape(maps * side * side, -1)
        flow = self._node("Flatten", flow)
        flow = self._node("Gemm", flow, self._constant(weights), self._constant(bias))
        return self._node("PRelu", flow, self._constant(self._next(1)))

    def _heads(self, flow: str) -> list[onnx.ValueInfoProto]:
        dense = self._architecture.dense
        outputs = []
        for name in self._architecture.heads:
            weights, bias = self._next(2 if dense else 4), self._next(1)
            if name == "score":
                weights, bias = _face_only(weights), _face_only(bias)
            weights = weights if dense else weights.transpose(3, 2, 0, 1)
            constants = self._constant(weights), self._constant(bias)
            target = f"{name}_logit" if name == "score" else name
            self._node("Gemm" if dense else "Conv", flow, *constants, output=target)
            shape = ("n", len(bias)) if dense else ("n", len(bias), "rows", "columns")
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._node("Sigmoid", "score_logit", output="score")
        return outputs

    def _pool(self, flow: str, pool: Pool) -> str:
        options = {
            "kernel_shape": [pool.size, pool.size],
            "strides": [2, 2],
            "auto_pad": "SAME_UPPER" if pool.same else "VALID",
        }
        return self._node("MaxPool", flow, options=options)

    def _next(self, rank: int) -> Array:
        if not self._arrays or self._arrays[-1].ndim != rank:
            raise ValueError(f"an array with {rank} axes is missing")
        return self._arrays.pop()


def _normalised(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """The first layer for pixels of 0..255: it was trained on (pixel - 127.5) / 128, and pads nothing."""
    shift = kernel.sum(axis=(1, 2, 3), dtype=np.float64) * (127.5 / 128)
    return (kernel / 128).astype(np.float32), (bias - shift).astype(np.float32)


def _face_only(values: Array) -> Array:
    """The layer before softmax over no face and face, as one before a sigmoid: the two differ in nothing else."""
    return values[..., 1:2] - values[..., 0:1]


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise BadWeights(f"not a dump of MTCNN weights: {what}")
