"""Measures against cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition import evaluation as ev
from recognition.evaluation import Trials

INF = math.inf


def trials(
    genuine: list[float],
    strangers: list[float],
    folds: list[int] | None = None,
    balanced: bool = False,
) -> Trials:
    """Every pair of people of its own."""
    size = len(genuine) + len(strangers)
    return Trials(
        np.array(genuine + strangers, np.float64),
        np.arange(size) < len(genuine),
        np.array(folds if folds is not None else [0] * size),
        np.repeat(np.arange(size)[:, None], 2, axis=1),
        balanced,
    )


def test_the_curve_counted_by_hand() -> None:
    found = ev.curve(trials([0.1, 0.2, 0.3, 0.6], [0.4, 0.5, 0.6, 0.9]))
    assert found.thresholds[1:].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9]
    assert found.tar.tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.75, 1, 1]
    assert found.far.tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1]
    # Of 16 pairs of pairs the genuine one is nearer in 13, and one is a tie.
    assert found.auc() == pytest.approx(13.5 / 16)
    assert ev.best_threshold(found) == pytest.approx(0.35)
    assert found.accuracy.max() == pytest.approx(7 / 8)


def test_a_face_that_was_not_found_is_answered_no() -> None:
    case = trials([0.1, INF], [0.5, INF])
    assert ev.curve(case).tar.tolist() == [0, 0.5, 0.5]
    assert ev.curve(case).far.tolist() == [0, 0, 0.5]
    assert ev.accuracy(case, 0.3) == 0.75
    assert ev.accuracy(case, 99.0) == 0.5


def test_the_best_threshold_where_nothing_should_be_accepted() -> None:
    case = trials([0.9], [0.2, 0.3, 0.4])
    limit = ev.best_threshold(ev.curve(case))
    assert limit < 0.2
    assert ev.accuracy(case, limit) == 0.75


def test_balanced_trials_count_both_kinds_half() -> None:
    genuine, strangers = [0.1, 0.4], [0.3, *[0.9] * 99]
    assert ev.accuracy(trials(genuine, strangers), 0.2) == pytest.approx(101 / 102)
    assert ev.accuracy(trials(genuine, strangers, balanced=True), 0.2) == pytest.approx(0.75)
    assert ev.accuracy(trials(genuine, strangers, balanced=True), 0.5) == pytest.approx(0.995)
    assert ev.best_threshold(ev.curve(trials(genuine, strangers, balanced=True))) > 0.4


def test_tar_at_far_is_that_of_the_largest_threshold() -> None:
    strangers = [0.5 + n / 1000 for n in range(200)]
    case = trials([0.1, 0.5015, 0.502, 0.7], strangers)
    found = ev.tar_at_far(ev.curve(case), 0.01, case.strangers)
    # Two of two hundred may be accepted, 0.500 and 0.501; the third is at 0.502, where a genuine pair is too.
    assert found.accepted == 2
    assert found.tar == 0.5
    assert found.threshold == np.nextafter(0.502, 0)
    assert ev.accuracy_at(ev.curve(case), found.threshold) == pytest.approx((2 + 198) / 204)


def test_a_far_that_the_pairs_cannot_show_has_no_number() -> None:
    case = trials([0.1] * 5, [0.5] * 999)
    found = ev.tar_at_far(ev.curve(case), 1e-3, case.strangers)
    assert (found.tar, found.threshold, found.accepted) == (None, None, None)
    assert found.reason == "999 pairs of strangers; at least 1,000 are needed"
    case = trials([0.1] * 5, [0.5] * 1000)
    assert ev.tar_at_far(ev.curve(case), 1e-3, case.strangers).tar == 1.0


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=30),
    st.lists(st.floats(0, 2), min_size=100, max_size=150),
    st.sampled_from([0.01, 0.05, 0.5]),
)
def test_no_larger_threshold_keeps_the_far(
    genuine: list[float], strangers: list[float], far: float
) -> None:
    case = trials(genuine, strangers)
    found = ev.tar_at_far(ev.curve(case), far, case.strangers)
    assert found.threshold is not None
    values = np.array(strangers)
    assert (values <= found.threshold).mean() <= far + 1e-12
    assert (values <= np.nextafter(found.threshold, 9)).mean() > far
    assert found.tar == pytest.approx((np.array(genuine) <= found.threshold).mean())


@given(st.lists(st.tuples(st.floats(0.01, 2), st.booleans()), min_size=2, max_size=40))
def test_no_threshold_is_better_than_the_best(pairs: list[tuple[float, bool]]) -> None:
    genuine = [d for d, same in pairs if same]
    case = trials(genuine, [d for d, same in pairs if not same])
    best = ev.accuracy(case, ev.best_threshold(ev.curve(case)))
    others = [ev.accuracy(case, limit) for limit in (-1.0, 0.0, *case.distances, 3.0)]
    assert best >= max(others) - 1e-9


def test_folds_take_the_others_threshold() -> None:
    # Fold 0 alone would choose 0.15, fold 1 alone 0.55; each is judged by the other's.
    case = trials([0.1, 0.5], [0.2, 0.6], folds=[0, 1, 0, 1])
    found = ev.held_out(case)
    assert found is not None
    assert found.folds == (0.5, 0.5)
    assert (found.mean, found.standard_error) == (0.5, 0.0)
    assert ev.held_out(trials([0.1], [0.2])) is None


def test_the_standard_error_is_that_of_the_folds_mean() -> None:
    case = trials([0.1, 0.1, 0.9], [0.5, 0.5, 0.5], folds=[0, 1, 2, 0, 1, 2])
    found = ev.held_out(case)
    assert found is not None
    assert found.folds == (1.0, 1.0, 0.5)
    assert found.standard_error == pytest.approx(np.std([1, 1, 0.5], ddof=1) / math.sqrt(3))


def drawn(slope: float, threshold: float, size: int, seed: int) -> Trials:
    """Pairs whose answers follow the logistic."""
    rng = np.random.default_rng(seed)
    distances = rng.uniform(0, 2 * threshold, size)
    same = rng.random(size) < 1 / (1 + np.exp(slope * (distances - threshold)))
    pairs = np.repeat(np.arange(size)[:, None], 2, axis=1)
    return Trials(distances, same, np.arange(size) % 10, pairs)


def test_the_logistic_that_made_the_answers_is_found() -> None:
    case = drawn(slope=20, threshold=0.5, size=20_000, seed=1)
    found = ev.fit(case)
    assert found.threshold == pytest.approx(0.5, abs=0.03)
    assert found.slope == pytest.approx(20, rel=0.1)
    probabilities = ev.held_out_probabilities(case)
    assert probabilities is not None
    good = ev.calibration(case, probabilities)
    poor = ev.calibration(case, ev.Logistic(0.5, 200)(case.distances))
    assert good is not None
    assert poor is not None
    assert good.error < 0.03 < poor.error
    assert good.brier < poor.brier


def test_pairs_without_an_error_have_a_finite_slope() -> None:
    found = ev.fit(trials([0.1] * 50, [0.3] * 50))
    assert found.threshold == pytest.approx(0.2)
    # Platt: the likeliest probability of 50 right answers is 51/52, at a distance of 0.1 from the threshold.
    assert found.slope == pytest.approx(math.log(51) / 0.1, rel=1e-3)


def test_calibration_counted_by_hand() -> None:
    case = trials([0.1, 0.1, 0.1, INF], [0.1, 0.9])
    found = ev.calibration(case, np.array([0.8, 0.8, 0.8, 0.5, 0.8, 0.1]))
    assert found is not None
    assert found.pairs == 5, "a pair without a face has no confidence"
    # Four pairs said 0.8 and 3/4 are right, one said 0.1 and none is.
    assert found.error == pytest.approx(4 / 5 * 0.05 + 1 / 5 * 0.1)
    assert found.brier == pytest.approx((3 * 0.04 + 0.64 + 0.01) / 5)


def test_ranks_counted_by_hand() -> None:
    between = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.4, 0.4, 0.9], [INF, INF, INF]])
    found = ev.identification(between, np.array([0, 2, 0, 1]))
    assert found.ranks.tolist() == [1, 3, 2, ev.UNRANKED]
    assert [found.share(k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert found.identified(0.05) == 0
    assert found.identified(0.5) == 0.25
    assert found.nearest_other.tolist() == [0.2, 0.1, 0.4, INF]
    assert found.false_alarms(0.2) == 0.5
    assert ev.joined([found, found]).share(1) == 0.25


def test_intervals_hold_the_truth_and_repeat() -> None:
    case = drawn(slope=20, threshold=0.5, size=2000, seed=3)
    first = ev.intervals(case, lambda c: [ev.best_threshold(c), ev.accuracy_at(c, 0.5)])
    assert first == ev.intervals(case, lambda c: [ev.best_threshold(c), ev.accuracy_at(c, 0.5)])
    assert first[0] is not None
    assert first[0][0] < 0.5 < first[0][1]
    assert first[1] is not None
    low, high = first[1]
    spread = 2 * 1.96 * math.sqrt(ev.accuracy(case, 0.5) * (1 - ev.accuracy(case, 0.5)) / 2000)
    assert high - low == pytest.approx(spread, rel=0.25), "as the binomial's, with pairs apart"


def test_people_with_many_pairs_widen_an_interval() -> None:
    case = drawn(slope=20, threshold=0.5, size=2000, seed=3)
    clustered = Trials(
        np.repeat(case.distances, 10),
        np.repeat(case.same, 10),
        np.repeat(case.folds, 10),
        np.repeat(case.people, 10, axis=0),
    )
    apart = ev.intervals(case, lambda c: [ev.accuracy_at(c, 0.5)])
    assert ev.intervals(clustered, lambda c: [ev.accuracy_at(c, 0.5)]) == [
        pytest.approx(apart[0])
    ], "repeating pairs of the same people adds nothing"


def test_too_few_people_for_an_interval() -> None:
    case = Trials(
        np.array([0.1, 0.5]), np.array([True, False]), np.zeros(2, np.int64),
        np.array([[0, 0], [0, 1]]),
    )  # fmt: skip
    assert ev.intervals(case, lambda c: [ev.best_threshold(c)])[0] is None
