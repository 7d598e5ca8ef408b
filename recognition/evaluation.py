"""How well distances tell people apart: pure functions over arrays of pairs with known answers.

FAR (false accept rate) is the share of strangers' pairs, TAR (true accept rate) that of one person's pairs whose
distance is at most the threshold (ISO/IEC 19795-1 has the terms). A pair in which a face was not found has the
distance inf: it is answered no at every threshold, and so counts against TAR and never against FAR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

FARS = (1e-2, 1e-3, 1e-4)
BINS = 10
RESAMPLES = 200
SEED = 20
SLOPES = (0.1, 1e4)
"""Bounds of a fitted slope, as multiples of 1 / threshold."""
Z = 1.959964
UNRANKED = 2**31
"""The rank of a person whose probe has no face."""


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Pairs with known answers.

    `folds`: the number of each pair's fold. `people`: (n, 2), who is in the two photographs; where that is not known,
    the pair's own number twice. `balanced`: both kinds of pairs count half, whatever their numbers.
    """

    distances: Floats
    same: Flags
    folds: Ints
    people: Ints
    balanced: bool = False

    def only(self, chosen: Flags) -> Trials:
        return Trials(
            self.distances[chosen],
            self.same[chosen],
            self.folds[chosen],
            self.people[chosen],
            self.balanced,
        )

    @property
    def found(self) -> Flags:
        return np.isfinite(self.distances)

    @property
    def strangers(self) -> int:
        return int((~self.same).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The ROC: FAR and TAR with each distinct distance as the threshold, ascending; at first nothing is accepted.

    `prior`: the weight of one person's pairs in an accuracy.
    """

    thresholds: Floats
    far: Floats
    tar: Floats
    prior: float

    @property
    def accuracy(self) -> Floats:
        return np.asarray(self.prior * self.tar + (1 - self.prior) * (1 - self.far))

    def auc(self) -> float:
        """The area under TAR over FAR: how likely a pair of one person is nearer than one of strangers."""
        far, tar = np.append(self.far, 1.0), np.append(self.tar, 1.0)
        return float((np.diff(far) * (tar[1:] + tar[:-1]) / 2).sum())


@dataclass(frozen=True, slots=True)
class Tar:
    """TAR at the largest threshold whose FAR is at most `far`; `accepted`: strangers' pairs within it.

    Without a number where there are fewer than 1 / far pairs of strangers: `reason` says so.
    """

    far: float
    tar: float | None
    threshold: float | None
    accepted: int | None
    interval: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Mean over folds of the accuracy at the best threshold of the other folds, and its standard error."""

    mean: float
    standard_error: float
    folds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Logistic:
    """The probability that a pair is of one person: 1 / (1 + exp(slope (distance - threshold)))."""

    threshold: float
    slope: float

    def __call__(self, distances: Floats) -> Floats:
        exponent = self.slope * (distances - self.threshold)
        return np.asarray(1 / (1 + np.exp(np.clip(exponent, -60, 60))))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of probabilities, over the pairs whose faces were found.

    `error`: the expected calibration error (Naeini, Cooper, Hauskrecht 2015) over ten bins of equal width, the mean
    gap between probability and share. `brier`: the mean squared difference between probability and truth (Brier 1950).
    """

    error: float
    brier: float
    pairs: int


@dataclass(frozen=True, slots=True, eq=False)
class Identification:
    """Closed set: everybody who is searched for is enrolled. `ranks`: 1 where the right person is the nearest.

    `right`, `nearest_other`: the distances of each probe to its own person and to the nearest of the others.
    """

    ranks: Ints
    right: Floats
    nearest_other: Floats

    def share(self, rank: int) -> float:
        """Of probes whose person is among the `rank` nearest; a probe without a face is a miss."""
        return float((self.ranks <= rank).mean())

    def identified(self, threshold: float) -> float:
        """Of probes whose person is the nearest and within the threshold (Phillips, Grother, Micheals 2011)."""
        return float(((self.ranks == 1) & (self.right <= threshold)).mean())

    def false_alarms(self, threshold: float) -> float:
        """Of probes with somebody else within the threshold: what they would find if they were not enrolled."""
        return float((self.nearest_other <= threshold).mean())


class _Sorted:
    """Distances put in order once, for curves with many weightings."""

    def __init__(self, trials: Trials) -> None:
        order = np.argsort(trials.distances, kind="stable")[: int(trials.found.sum())]
        ordered = trials.distances[order]
        last = np.ones(len(ordered), np.bool_)
        last[:-1] = ordered[1:] != ordered[:-1]
        least = ordered[0] / 2 if len(ordered) and ordered[0] > 0 else -1.0
        self._trials, self._order, self._ends = trials, order, np.flatnonzero(last)
        self._thresholds = np.concatenate([[least], ordered[last]])

    def curve(self, weights: Floats) -> Curve:
        same = self._trials.same
        genuine, others = weights * same, weights * ~same
        total, against = float(genuine.sum()), float(others.sum())
        return Curve(
            self._thresholds,
            self._accepted(others, against),
            self._accepted(genuine, total),
            _prior(total, against, self._trials.balanced),
        )

    def _accepted(self, weights: Floats, total: float) -> Floats:
        sums = np.cumsum(weights[self._order])[self._ends]
        return np.concatenate([[0.0], sums / total if total > 0 else 0 * sums])


def curve(trials: Trials) -> Curve:
    return _Sorted(trials).curve(np.ones(len(trials.distances)))


def best_threshold(of: Curve) -> float:
    """Half way from the distance that gets most pairs right to the next; of several, the middle one."""
    right = of.accuracy
    at = np.flatnonzero(right >= right.max() - 1e-12)
    chosen = int(at[len(at) // 2])
    if chosen == 0 or chosen + 1 == len(right):
        return float(of.thresholds[chosen])
    return float((of.thresholds[chosen] + of.thresholds[chosen + 1]) / 2)


def accuracy(trials: Trials, threshold: float) -> float:
    """The share of pairs answered right; of each kind half where the trials are balanced."""
    weights = _weights(trials)
    return float(weights[answered_right(trials, threshold)].sum())


def answered_right(trials: Trials, threshold: float) -> Flags:
    return np.asarray((trials.distances <= threshold) == trials.same)


def held_out(trials: Trials) -> Accuracy | None:
    """None with fewer than two folds (Huang et al. 2007 have the protocol, with ten)."""
    names = np.unique(trials.folds)
    if len(names) < 2:
        return None
    shares = []
    for name in names:
        others = trials.only(trials.folds != name)
        shares.append(accuracy(trials.only(trials.folds == name), best_threshold(curve(others))))
    error = float(np.std(shares, ddof=1) / np.sqrt(len(shares)))
    return Accuracy(float(np.mean(shares)), error, tuple(shares))


def tar_at_far(of: Curve, far: float, strangers: int) -> Tar:
    """`strangers`: the number of pairs of strangers behind the curve."""
    if strangers * far < 1 - 1e-9:
        reason = f"{strangers:,} pairs of strangers; at least {round(1 / far):,} are needed"
        return Tar(far, None, None, None, reason=reason)
    tar, threshold, reached = at_far(of, far)
    return Tar(far, tar, threshold, round(reached * strangers))


def at_far(of: Curve, far: float) -> tuple[float, float, float]:
    """TAR, threshold and FAR at the largest threshold with at most that FAR."""
    at = int(np.searchsorted(of.far, far * (1 + 1e-9), "right")) - 1
    last = at + 1 == len(of.far)
    limit = of.thresholds[at] if last else np.nextafter(of.thresholds[at + 1], -np.inf)
    return float(of.tar[at]), float(limit), float(of.far[at])


def intervals(
    trials: Trials, statistic: Callable[[Curve], Sequence[float]]
) -> list[tuple[float, float] | None]:
    """95 % intervals of what `statistic` makes of the curve, by the percentile bootstrap (Efron 1979).

    People are drawn, not pairs: a pair counts as often as both its people together, since pairs of one person depend
    on each other (the vertex bootstrap of Snijders and Borgatti 1999). Where people are not known, pairs are drawn.
    """
    rng = np.random.default_rng(SEED)
    prepared = _Sorted(trials)
    names, numbers = np.unique(trials.people, return_inverse=True)
    first, second = numbers.reshape(trials.people.shape).T
    rows = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        times = np.where(first == second, drawn[first], drawn[first] * drawn[second])
        if times[trials.same].any() and times[~trials.same].any():
            rows.append(statistic(prepared.curve(times.astype(np.float64))))
    if len(rows) < RESAMPLES // 2:
        return [None for _ in statistic(curve(trials))]
    low, high = np.percentile(np.asarray(rows, np.float64), [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def accuracy_at(of: Curve, threshold: float) -> float:
    at = int(np.searchsorted(of.thresholds[1:], threshold, "right"))
    return float(of.accuracy[at])


def fit(trials: Trials) -> Logistic:
    """Through 1/2 at the best threshold; the slope by maximum likelihood over the pairs whose faces were found.

    Distances beyond twice the threshold count as that, which bounds what a mislabelled pair can do. Where the
    threshold makes no error, no finite slope is the likeliest: then Platt's targets (1999) stand for the labels.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - slow to import

    threshold = best_threshold(curve(trials))
    known = trials.only(trials.found)
    weights, targets = _weights(known), known.same.astype(np.float64)
    scale = max(abs(threshold), 1e-12)
    offset = np.minimum(known.distances / scale, 2.0) - 1.0
    if answered_right(known, threshold).all():
        counts = np.where(known.same, known.same.sum(), known.strangers)
        targets = np.where(known.same, (counts + 1) / (counts + 2), 1 / (counts + 2))

    def loss(log_slope: float) -> float:
        exponent = np.exp(log_slope) * offset
        terms = targets * np.logaddexp(0, exponent) + (1 - targets) * np.logaddexp(0, -exponent)
        return float(weights @ terms)

    low, high = np.log(SLOPES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return Logistic(threshold, float(np.exp(found.x)) / scale)


def held_out_probabilities(trials: Trials) -> Floats | None:
    """Of each pair, by the logistic fitted on the other folds; None with fewer than two folds."""
    names = np.unique(trials.folds)
    if len(names) < 2:
        return None
    result = np.zeros(len(trials.distances))
    for name in names:
        here = trials.folds == name
        result[here] = fit(trials.only(~here))(trials.distances[here])
    return result


def calibration(trials: Trials, probabilities: Floats) -> Calibration | None:
    """None where no pair has both faces."""
    found = trials.found
    known, predicted = trials.only(found), probabilities[found]
    if len(predicted) == 0:
        return None
    weights = _weights(known)
    bins = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights * (predicted - known.same), BINS)
    brier = float(weights @ (predicted - known.same) ** 2)
    return Calibration(float(np.abs(gaps).sum()), brier, len(predicted))


def identification(between: Floats, own: Ints) -> Identification:
    """`between`: (probes, enrolled) distances, a row of inf without a face; `own`: the column of each probe's person.

    Others at the same distance count as nearer.
    """
    rows = np.arange(len(between))
    right = between[rows, own]
    ranks = np.where(np.isfinite(right), (between <= right[:, None]).sum(axis=1), UNRANKED)
    others = between.copy()
    others[rows, own] = np.inf
    return Identification(ranks.astype(np.int64), right, others.min(axis=1, initial=np.inf))


def joined(parts: Sequence[Identification]) -> Identification:
    """The parts' probes, one after the other."""
    return Identification(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.nearest_other for part in parts]),
    )


def wilson(count: int, size: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = count / size, Z * Z / size
    centre = (share + spread / 2) / (1 + spread)
    half = Z * float(np.sqrt(share * (1 - share) / size + spread / (4 * size))) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _prior(genuine: float, others: float, balanced: bool) -> float:
    if genuine == 0 or others == 0:
        return float(genuine > 0)
    return 0.5 if balanced else genuine / (genuine + others)


def _weights(trials: Trials) -> Floats:
    """Of each pair, with the sum 1."""
    genuine, others = int(trials.same.sum()), trials.strangers
    prior = _prior(genuine, others, trials.balanced)
    return np.where(trials.same, prior / max(genuine, 1), (1 - prior) / max(others, 1))
