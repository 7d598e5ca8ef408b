"""Distances between embeddings, and what a distance says; pure functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recognition.types import Metric

Floats = NDArray[np.floating]


def normalise(rows: Floats) -> NDArray[np.float32]:
    """(n, d) rows to unit length; a zero row stays zero."""
    wide = np.asarray(rows, np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def distances(a: Floats, b: Floats, metric: Metric) -> NDArray[np.float64]:
    """(n, d) against (m, d): the (n, m) distances, in float64."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "euclidean":
        return np.asarray(np.linalg.norm(x[:, None, :] - y[None, :, :], axis=2))
    cosine = 1.0 - _unit(x) @ _unit(y).T
    return from_cosines(np.clip(cosine, 0.0, 2.0), metric)


def from_cosine(distance: float, metric: Metric) -> float:
    """A cosine distance as angular or euclidean_l2 distance of the same two vectors."""
    return float(from_cosines(np.asarray(distance, np.float64), metric))


def from_cosines(cosine: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Cosine distances as distances of another metric; unchanged for cosine and euclidean."""
    if metric == "euclidean_l2":
        return np.sqrt(2.0 * cosine)
    if metric == "angular":
        return np.asarray(np.arccos(np.clip(1.0 - cosine, -1.0, 1.0)) / np.pi)
    return cosine


def similarity(distance: float, metric: Metric) -> float:
    """Larger is more alike: the cosine; 1 - distance for angular; 1 / (1 + distance) for the others."""
    if metric in ("cosine", "angular"):
        return 1.0 - distance
    return 1.0 / (1.0 + distance)


def confidence(distance: float, threshold: float, slope: float | None) -> float | None:
    """Per cent, with two digits, that two faces are one person's: a logistic, 50 at the threshold.

    `slope` is per unit of distance, fitted on the pairs that the threshold was chosen on; without one nobody knows.
    """
    if slope is None:
        return None
    exponent = slope * (distance - threshold)
    return round(100.0 / (1.0 + math.exp(min(max(exponent, -60.0), 60.0))), 2)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0))
