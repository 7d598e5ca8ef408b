"""Made-up faces that are spread as those of a network are, and what an exact search answers for them.

Five faces each of as many people as it takes, and probes: one more face of some of these people, in
one of two kinds. `real-like`: few directions tell most people apart (variance between people falling
as k^-0.75 over the directions, within a person as k^-0.35), in axes turned at random. `isotropic`:
every direction alike, so that strangers are all equally far away; the hard case. In both the faces
of a person have a mean cosine of about 0.7 to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

Kind = Literal["real-like", "isotropic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Matrix = NDArray[np.float32]
Ids = NDArray[np.int64]

FACES_EACH = 5
PROBES = 2_000
NEAREST = 10
WITHIN_COSINE = 0.7
BETWEEN_EXPONENT = 0.75
WITHIN_EXPONENT = 0.35
CHUNK_PEOPLE = 10_000
SEED = 1
TURN = 2**32  # numbers the generator of the rotation and of the probes apart from those of chunks


@dataclass(frozen=True, slots=True)
class Case:
    """Which vectors, and how many."""

    kind: Kind
    faces: int
    dimension: int

    @property
    def people(self) -> int:
        return self.faces // FACES_EACH

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.faces}-{self.dimension}"

    @property
    def megabytes(self) -> float:
        """Of the vectors as float32."""
        return self.faces * self.dimension * 4 / 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """`unit` (n, d) mapped from a file, `probes` (q, d); whose the probes are; their ten nearest rows."""

    unit: Matrix
    probes: Matrix
    people: Ids
    truth: Ids


def prepare(folder: Path, case: Case) -> Faces:
    """From files in the folder, which are written if they are not there."""
    place = folder / case.name
    place.mkdir(parents=True, exist_ok=True)
    truth = place / "truth.npy"
    if not truth.exists():
        _write(place, case)
    unit = np.load(place / "unit.npy", mmap_mode="r")
    rest = [np.load(place / f"{name}.npy") for name in ("probes", "people", "truth")]
    return Faces(unit, *rest)


def forget(folder: Path, case: Case) -> None:
    """Remove the files."""
    for path in (folder / case.name).glob("*.npy"):
        path.unlink()


def blocks(unit: Matrix, rows: int = CHUNK_PEOPLE * FACES_EACH) -> Iterator[tuple[int, Matrix]]:
    """Copies of so many rows at a time, each with the number of its first."""
    for start in range(0, len(unit), rows):
        yield start, np.array(unit[start : start + rows])


def recall(answers: Sequence[Sequence[int]], faces: Faces) -> float:
    """Share of the ten rows of an exact search that the first answers (row numbers) hold."""
    found = [
        len(set(answer[:NEAREST]) & set(exact.tolist())) / NEAREST
        for answer, exact in zip(answers, faces.truth, strict=False)
    ]
    return float(np.mean(found))


def own_photos(answers: Sequence[Sequence[int]], faces: Faces) -> float:
    """Share of a person's five faces that are among the first ten answers (row numbers)."""
    found = [
        sum(row // FACES_EACH == person for row in answer[:NEAREST]) / FACES_EACH
        for answer, person in zip(answers, faces.people.tolist(), strict=False)
    ]
    return float(np.mean(found))


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """Standard deviations by direction between people and within a person, and the axes' turn."""

    between: Matrix
    within: Matrix
    turn: Matrix


def _spread(case: Case) -> _Spread:
    k = np.arange(1, case.dimension + 1, dtype=np.float64)
    flat = case.kind == "isotropic"
    between = k ** (0.0 if flat else -BETWEEN_EXPONENT)
    within = k ** (0.0 if flat else -WITHIN_EXPONENT)
    share = 1 / WITHIN_COSINE - 1
    random = np.random.default_rng((SEED, TURN, case.dimension))
    turn = np.linalg.qr(random.standard_normal((case.dimension, case.dimension)))[0]
    return _Spread(
        np.sqrt(between / between.sum()).astype(np.float32),
        np.sqrt(share * within / within.sum()).astype(np.float32),
        turn.astype(np.float32),
    )


def _write(place: Path, case: Case) -> None:
    spread = _spread(case)
    asked = np.linspace(0, case.people - 1, min(PROBES, case.people)).astype(np.int64)
    probes = np.empty((len(asked), case.dimension), np.float32)
    shape = (case.people * FACES_EACH, case.dimension)
    unit = np.lib.format.open_memmap(place / "unit.npy", "w+", np.float32, shape)
    for first in range(0, case.people, CHUNK_PEOPLE):
        count = min(CHUNK_PEOPLE, case.people - first)
        random = np.random.default_rng((SEED, first))
        centres = random.standard_normal((count, case.dimension), np.float32) * spread.between
        rows = slice(first * FACES_EACH, (first + count) * FACES_EACH)
        unit[rows] = _photographed(np.repeat(centres, FACES_EACH, axis=0), spread, random)
        here = (asked >= first) & (asked < first + count)
        another = np.random.default_rng((SEED, TURN, first))
        probes[here] = _photographed(centres[asked[here] - first], spread, another)
    unit.flush()
    np.save(place / "probes.npy", probes)
    np.save(place / "people.npy", asked)
    np.save(place / "truth.npy", _nearest(unit, probes))


def _photographed(centres: Matrix, spread: _Spread, random: np.random.Generator) -> Matrix:
    """One face, of length one, for each row."""
    faces = random.standard_normal(centres.shape, np.float32)
    faces *= spread.within
    faces += centres
    faces = faces @ spread.turn
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    return faces


def _nearest(unit: Matrix, probes: Matrix) -> Ids:
    """(q, 10) numbers of the rows with the largest cosines."""
    best = np.full((len(probes), NEAREST), -np.inf, np.float32)
    rows = np.full((len(probes), NEAREST), -1, np.int64)
    for start, block in blocks(unit):
        near = min(NEAREST, len(block))
        values, found = faiss.knn(probes, block, near, metric=faiss.METRIC_INNER_PRODUCT)
        best, rows = np.hstack([best, values]), np.hstack([rows, found + start])
        order = np.argsort(-best, axis=1, kind="stable")[:, :NEAREST]
        best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
    return rows
