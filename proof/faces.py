"""Photographs with the five landmarks of their most prominent face, which both sides of a comparison are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recognition import alignment
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recognizer, Selection
from recognition.types import Detection, Rgb


@dataclass(frozen=True, slots=True, eq=False)
class Photograph:
    """`enlarged`: how much larger the face gets on the network's chip."""

    name: str
    image: Rgb
    face: Detection
    enlarged: float


def photographs(recognizer: Recognizer, paths: Sequence[Path]) -> list[Photograph]:
    """Those in which MTCNN finds a face."""
    found = []
    for path in paths:
        image = decode(path.read_bytes(), ImageLimits())
        for face in recognizer.detect([image], "mtcnn", Selection(max_faces=1))[0]:
            matrix = alignment.to_template(face, alignment.ARCFACE)
            found.append(Photograph(path.name, image, face, alignment.scale_of(matrix)))
    return found


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Similarity of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def table(rows: Sequence[tuple[Photograph, float]]) -> str:
    """For people."""
    lines = ["| photograph | enlarged | cosine similarity |", "|---|---|---|"]
    lines += [f"| {p.name} | {p.enlarged:.2f} | {similar:.6f} |" for p, similar in rows]
    return "\n".join(lines)
