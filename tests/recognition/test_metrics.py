"""Distances against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.metrics import confidence, distances, from_cosine, normalise, similarity
from recognition.types import METRICS, Metric

rows = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
)


@given(rows, rows)
def test_definitions(a: np.ndarray, b: np.ndarray) -> None:
    x, y = a[0].astype(np.float64), b[1].astype(np.float64)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    expected = {
        "cosine": 1 - cosine,
        "euclidean": np.linalg.norm(x - y),
        "euclidean_l2": np.linalg.norm(x / np.linalg.norm(x) - y / np.linalg.norm(y)),
        "angular": np.arccos(cosine) / np.pi,
    }
    for metric in METRICS:
        assert distances(a, b, metric)[0, 1] == pytest.approx(expected[metric], abs=1e-6)


@given(rows)
def test_a_face_is_at_no_distance_from_itself(a: np.ndarray) -> None:
    for metric in METRICS:
        assert np.diag(distances(a, a, metric)) == pytest.approx(np.zeros(3), abs=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_zero_vectors_do_no_harm(metric: Metric) -> None:
    values = distances(np.zeros((1, 4), np.float32), np.ones((2, 4), np.float32), metric)
    assert np.isfinite(values).all()
    assert normalise(np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]


@given(rows, rows)
def test_from_cosine_agrees(a: np.ndarray, b: np.ndarray) -> None:
    base = distances(a, b, "cosine")[0, 0]
    for metric in ("euclidean_l2", "angular"):
        assert from_cosine(base, metric) == pytest.approx(distances(a, b, metric)[0, 0], abs=1e-6)


def test_confidence_is_fifty_at_the_threshold_and_falls() -> None:
    assert confidence(0.1, 0.1, 100) == 50
    assert confidence(0.0, 0.1, 100) > 99.9
    assert confidence(0.2, 0.1, 100) < 0.1
    assert confidence(1e9, 0.1, 100) >= 0


def test_similarity_falls_with_distance() -> None:
    for metric in METRICS:
        assert similarity(0.0, metric) == 1
        assert similarity(0.5, metric) < similarity(0.1, metric)
