"""What a proof found, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 0.9999
"""Cosine that a network must reach."""
LEAST_PIPELINE = 0.999
"""Cosine that a whole pipeline must reach: DeepFace resizes floating point numbers, this project bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    way: str
    single: float
    """Least cosine between the reference's answers and ours, one image at a time."""
    batch: float | None = None
    """The same, all images at once."""
    difference: float
    """Largest of single values."""
    others: float | None = None
    """Least cosine between the reference's answers to different images: a proof must tell these apart."""
    least: float = LEAST

    @property
    def proved(self) -> bool:
        return min(self.single, self.single if self.batch is None else self.batch) > self.least


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [
        "| name | way in | single | batch | max abs diff | other images | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(_number(value) for value in (row.single, row.batch))
        verdict = "proved" if row.proved else "**NOT PROVED**"
        others = "" if row.others is None else f"{row.others:.3f}"
        lines.append(
            f"| {row.name} | {row.way} | {numbers} | {row.difference:.1e} | {others} | {verdict} |"
        )
    return "\n".join(lines)


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The least of the rows'."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(axis=1) / lengths).min())


def between(rows: NDArray[np.floating]) -> float:
    """Least cosine of any two rows."""
    unit = np.asarray(rows, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return float((unit @ unit.T).min())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.7f}"
