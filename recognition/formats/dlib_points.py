"""dlib's five-point predictor (shape_predictor_5_face_landmarks.dat) as an ONNX graph, without dlib.

Fifteen rounds of 500 trees, each of which asks four times whether one pixel is brighter than another by so much. The
leaves that are reached move the points, by which the pixels of the next round are placed. The answers are dlib's own,
which holds Python's lock for the milliseconds that it takes.
V. Kazemi and J. Sullivan, One millisecond face alignment with an ensemble of regression trees (2014). Format: dlib's
serialize.h and shape_predictor.h by Davis King (Boost licence), read for the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from recognition.errors import BadWeights
from recognition.formats.onnx_nodes import Nodes

OPSET = 17
IR_VERSION = 8

POINTS, ROUNDS, TREES, QUESTIONS, LEAVES, PIXELS = 5, 15, 500, 15, 16, 800
"""`PIXELS` are looked at in each round; a tree has 15 questions in 4 levels."""
LEVELS = 4
MOST_BYTES = 4
_COLUMN = (-2 * POINTS, -1)
"""Rows and columns of x, y of the points, written as negative numbers."""
_TREE = 1 + 4 * QUESTIONS + 1 + LEAVES * (len(_COLUMN) + 4 * POINTS)
"""Integers of a tree in the file."""

Floats: TypeAlias = NDArray[np.float64]
Array: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Square: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels, all of them inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """`first`, `second`: (trees, questions) rows of the pixels, answered yes where the first is brighter by more than
    `threshold`; `leaves`: (trees, leaves, 10) x, y of every point; a pixel lies at `offsets` (pixels, 2) from the point
    `anchors` (pixels,)."""

    first: Integers
    second: Integers
    threshold: Array
    leaves: Array
    anchors: Integers
    offsets: Array


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """`mean`: (5, 2) x, y in the unit square, as everything here."""

    mean: Array
    rounds: tuple[Round, ...]


def read(data: bytes) -> Ensemble:
    """The trees of a .dat file; raises BadWeights for anything but exactly this predictor, whole."""
    reader = _Reader(_integers(data))
    reader.expect(1, *_COLUMN)
    mean = _numbers(reader.take(2 * POINTS, 2)).reshape(POINTS, 2)
    reader.expect(ROUNDS)
    forests = [_forest(reader) for _ in range(ROUNDS)]
    reader.expect(ROUNDS)
    anchors = [_below(POINTS, reader.counted(PIXELS)) for _ in range(ROUNDS)]
    reader.expect(ROUNDS)
    offsets = [_numbers(reader.counted(PIXELS, 2, 2)) for _ in range(ROUNDS)]
    reader.end()
    rounds = (
        Round(*forest, anchor, offset)
        for forest, anchor, offset in zip(forests, anchors, offsets, strict=True)
    )
    return Ensemble(mean, tuple(rounds))


def _forest(reader: _Reader) -> tuple[Integers, Integers, Array, Array]:
    rows = reader.counted(TREES, _TREE)
    end = 1 + 4 * QUESTIONS
    questions = rows[:, 1:end].reshape(TREES, QUESTIONS, 4)
    leaves = rows[:, end + 1 :].reshape(TREES, LEAVES, -1)
    counts = (rows[:, 0] == QUESTIONS) & (rows[:, end] == LEAVES)
    columns = leaves[..., : len(_COLUMN)] == _COLUMN
    _need(bool(counts.all() and columns.all()), "its trees have another shape")
    moves = _numbers(leaves[..., len(_COLUMN) :].reshape(TREES, LEAVES, 2 * POINTS, 2))
    first, second = (_below(PIXELS, questions[..., column]) for column in (0, 1))
    return first, second, _numbers(questions[..., 2:]), moves


class _Reader:
    """Takes integers off the front."""

    def __init__(self, values: Integers) -> None:
        self._values, self._at = values, 0

    def take(self, *shape: int) -> Integers:
        size = int(np.prod(shape))
        _need(size <= len(self._values) - self._at, "it ends too early")
        self._at += size
        return self._values[self._at - size : self._at].reshape(shape)

    def counted(self, count: int, *shape: int) -> Integers:
        self.expect(count)
        return self.take(count, *shape)

    def expect(self, *values: int) -> None:
        _need(self.take(len(values)).tolist() == list(values), "it has another shape or version")

    def end(self) -> None:
        _need(self._at == len(self._values), "bytes follow the end")


def _integers(data: bytes) -> Integers:
    """The file, which is nothing else: a byte with the sign and the number of bytes that follow, then these, lowest
    first. All at once: one by one, as `dlib_dat` reads them, these three million take 7 s."""
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += 1 + (data[at] & 0x0F)
    _need(at == len(data), "it ends too early")
    first = np.array(starts, np.int64)
    given = np.frombuffer(data + bytes(MOST_BYTES), np.uint8)
    control, size = given[first], given[first] & 0x0F
    _need(bool(((control & 0x70) == 0).all()), "an integer has no sign")
    _need(bool(((size >= 1) & (size <= MOST_BYTES)).all()), "an integer has an impossible length")
    values = np.zeros(len(first), np.int64)
    for number in range(MOST_BYTES):
        following = given[first + 1 + number].astype(np.int64)
        values += np.where(size > number, following << (8 * number), 0)
    return np.where(control & 0x80, -values, values)


def _numbers(pairs: Integers) -> Array:
    """Floating-point values: integers, and the powers of two to multiply them with, in the last axis."""
    mantissa, exponent = pairs[..., 0], pairs[..., 1]
    _need(bool((np.abs(exponent) < 64).all()), "a number is out of range")
    return np.ldexp(mantissa.astype(np.float64), exponent.astype(np.int32)).astype(np.float32)


def _below(limit: int, values: Integers) -> Integers:
    _need(bool(((values >= 0) & (values < limit)).all()), "a number of a pixel or point is wrong")
    return values


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise BadWeights(f"not dlib's five-point predictor: {what}")


def convert(data: bytes, side: int, square: Square) -> bytes:
    """The serialised ONNX model of a .dat file for faces in that square of a patch; raises BadWeights.

    Input "patch" (side, side) uint8, a third of the sum of red, green and blue without its fraction; output "points"
    (5, 2) float64: x, y in whole pixels, as dlib rounds them.
    """
    model = _Graph().model(read(data), side, square)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def positions(mean: Array, of: Round) -> Floats:
    """(10, pixels, 2): what the points, x and y in turn, are multiplied with to be the places of a round's pixels.

    Their offsets are turned and scaled as the mean points are that lie closest to the points.
    """
    centred = mean.astype(np.float64) - mean.mean(axis=0, dtype=np.float64)
    x, y = centred.T / (centred**2).sum()
    cosine, sine = (np.stack(pair, axis=1).reshape(-1, 1) for pair in ((x, y), (-y, x)))
    across, down = of.offsets.astype(np.float64).T
    turned = [cosine * across - sine * down, sine * across + cosine * down]
    own = np.zeros((2 * POINTS, PIXELS, 2))
    for axis in (0, 1):
        own[2 * of.anchors + axis, np.arange(PIXELS), axis] = 1
    return np.stack(turned, axis=-1) + own


def leaf_of_answers() -> NDArray[np.int32]:
    """The leaf for every number made of a tree's answers, the first question's in the lowest bit."""
    answers = np.arange(1 << QUESTIONS)
    node = np.zeros_like(answers)
    for _ in range(LEVELS):
        yes = (answers >> node) & 1
        node = 2 * node + 2 - yes
    return (node - QUESTIONS).astype(np.int32)


class _Graph(Nodes):
    """Of ONNX Runtime's ways to look up single numbers, GatherElements and GridSample are the fast ones."""

    def model(self, ensemble: Ensemble, side: int, square: Square) -> onnx.ModelProto:
        corner, size = np.array(square[:2]), np.subtract(square[2:], square[:2])
        scale, start = 2 * size / (side - 1), 2 * corner / (side - 1) - 1
        grey = self._node("Cast", "patch", options={"to": TensorProto.FLOAT})
        grey = self._node("Reshape", grey, self._constant(np.array([1, 1, side, side])))
        flow = self._constant(ensemble.mean.reshape(1, -1))
        shared = _Shared(
            start=self._constant(np.tile(start, PIXELS).astype(np.float32)),
            grid=self._constant(np.array([1, 1, PIXELS, 2])),
            flat=self._constant(np.array([-1])),
            trees=self._constant(np.array([TREES, QUESTIONS])),
            bits=self._constant(2.0 ** np.arange(QUESTIONS, dtype=np.float32)[:, None]),
            leaves=self._constant(leaf_of_answers()),
            starts=self._constant(np.arange(TREES, dtype=np.int32) * LEAVES),
            rows=self._constant(np.array([0])),
        )
        for each in ensemble.rounds:
            weights = positions(ensemble.mean, each) * scale
            pixels = self._pixels(grey, flow, weights, shared)
            flow = self._moved(flow, self._leaves(pixels, each, shared), each, shared)
        self._rounded(flow, corner, size)
        patch = helper.make_tensor_value_info("patch", TensorProto.UINT8, [side, side])
        points = helper.make_tensor_value_info("points", TensorProto.DOUBLE, [POINTS, 2])
        graph = helper.make_graph(self._nodes, "points", [patch], [points], self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)

    def _pixels(self, grey: str, points: str, weights: Floats, shared: _Shared) -> str:
        """(pixels,) the grey values nearest to where the pixels lie, 0 outside."""
        turn = self._constant(weights.reshape(2 * POINTS, -1).astype(np.float32))
        places = self._node("Gemm", points, turn, shared.start)
        places = self._node("Reshape", places, shared.grid)
        options = {"mode": "nearest", "padding_mode": "zeros", "align_corners": 1}
        found = self._node("GridSample", grey, places, options=options)
        return self._node("Reshape", found, shared.flat)

    def _leaves(self, pixels: str, of: Round, shared: _Shared) -> str:
        """(trees,) the rows of the leaves that are reached."""
        first, second = (
            self._node("GatherElements", pixels, self._constant(rows.reshape(-1).astype(np.int32)))
            for rows in (of.first, of.second)
        )
        brighter = self._node("Sub", first, second)
        yes = self._node("Greater", brighter, self._constant(of.threshold.reshape(-1)))
        yes = self._node("Cast", yes, options={"to": TensorProto.FLOAT})
        yes = self._node("Reshape", yes, shared.trees)
        answers = self._node("MatMul", yes, shared.bits)
        answers = self._node("Cast", answers, options={"to": TensorProto.INT32})
        answers = self._node("Reshape", answers, shared.flat)
        leaf = self._node("GatherElements", shared.leaves, answers)
        return self._node("Add", leaf, shared.starts)

    def _moved(self, points: str, leaves: str, of: Round, shared: _Shared) -> str:
        """(1, 10) points after all the leaves' moves, which are added one after the other, as dlib does: their sums in
        another order differ enough to move every tenth face's points by a pixel."""
        table = self._constant(of.leaves.reshape(-1, 2 * POINTS))
        moves = self._node("Gather", table, leaves, options={"axis": 0})
        rows = self._node("Concat", points, moves, options={"axis": 0})
        return self._node("ReduceSum", rows, shared.rows)

    def _rounded(self, points: str, corner: Integers, size: Integers) -> None:
        flow = self._node("Cast", points, options={"to": TensorProto.DOUBLE})
        flow = self._node("Reshape", flow, self._constant(np.array([POINTS, 2])))
        flow = self._node("Mul", flow, self._constant(size.astype(np.float64)))
        flow = self._node("Add", flow, self._constant(corner + 0.5))
        self._node("Floor", flow, output="points")


@dataclass(frozen=True, slots=True)
class _Shared:
    """Names of the constants that every round uses."""

    start: str
    grid: str
    flat: str
    trees: str
    bits: str
    leaves: str
    starts: str
    rows: str
