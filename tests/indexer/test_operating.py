"""Thresholds for a rate of false alarms: the arithmetic, and the rate on people who are not enrolled."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.cache.ask import Ask, search
from indexer.cache.space import SpaceIndex
from indexer.errors import Conflict
from indexer.operating import Impostors, estimate
from indexer.store.search import Scoring
from recognition.evaluation import wilson
from recognition.types import Metric
from tests.indexer.cache.conftest import GALLERY, Faces, base_of, made_up


def impostors(distances: np.ndarray) -> Impostors:
    return Impostors(np.sort(distances), 1000, 1, 0.0)


def test_wilson_as_in_the_tables() -> None:
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(100, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)


def test_a_counted_rate_is_what_was_counted() -> None:
    known = impostors(np.arange(1, 1001) / 1000)
    threshold = known.threshold(0.05)
    assert 0.050 <= threshold < 0.051
    rate = known.rate(threshold)
    assert rate.value == pytest.approx(0.05)
    assert rate.low < 0.05 < rate.high
    assert not rate.extrapolated
    assert known.rate(2.0).value == 1.0


def test_a_rarer_rate_is_extrapolated_and_says_so() -> None:
    known = impostors(np.random.default_rng(0).normal(0.5, 0.05, 2000))
    threshold = known.threshold(0.001)
    assert 0.2 < threshold < 0.40
    rate = known.rate(threshold)
    assert rate.extrapolated
    assert rate.value == pytest.approx(0.001, rel=0.1)
    assert rate.low == 0
    assert rate.high >= 0.001
    ladder = [known.threshold(r) for r in (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5)]
    assert ladder == sorted(ladder)
    assert ladder[0] >= 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "angular"])
@pytest.mark.parametrize("kind", ["best", "mean", "centroid"])
@pytest.mark.parametrize("engine", ["flat", "compressed"])
def test_strangers_are_let_in_at_the_rate_that_was_asked_for(
    metric: Metric, kind: str, engine: str
) -> None:
    """1,500 people enrolled, 1,500 others ask; the tolerance is some four standard deviations."""
    everybody = made_up(people=3000, each=3, dimension=48, seed=5)
    enrolled = everybody.people < 100 + 3000
    gallery, others = everybody.chosen(enrolled), everybody.chosen(~enrolled)
    view = SpaceIndex(base_of(gallery, engine)).view(GALLERY)
    assert view is not None
    scoring = Scoring(kind, 2)
    known = estimate(view, metric, scoring, 1)
    assert known.people == 1500
    assert len(known.distances) == 1500
    threshold = known.threshold(0.05)
    _, first = np.unique(others.people, return_index=True)
    ask = Ask(metric=metric, limit=1, by="person", scoring=scoring, within=threshold)
    answer = search(view, others.raw[first], ask)
    alarms = sum(len(hits) > 0 for hits in answer.hits) / len(first)
    assert alarms == pytest.approx(0.05, abs=0.032)


def test_more_people_need_a_stricter_threshold() -> None:
    thresholds = []
    for people in (100, 1000, 8000):
        view = SpaceIndex(base_of(made_up(people, 2, 32, seed=6))).view(GALLERY)
        assert view is not None
        thresholds.append(estimate(view, "cosine", Scoring(), 1).threshold(0.1))
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] - thresholds[-1] > 0.05


def test_a_few_people_are_too_few() -> None:
    few = made_up(people=20, each=3, dimension=16)
    view = SpaceIndex(base_of(Faces(few.ids, few.people, few.raw))).view(GALLERY)
    assert view is not None
    with pytest.raises(Conflict, match="at least 50 people"):
        estimate(view, "cosine", Scoring(), 1)
