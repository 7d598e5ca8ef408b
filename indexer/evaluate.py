"""Measuring a model and detector on labelled photographs: every file is read and embedded once, then pairs compared.

A pair is answered as `/verify` answers it, by the smallest distance over all faces of both photographs; a pair in which
a face was not found is answered no. Who is enrolled or searched for is the most prominent face of a photograph.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from indexer.errors import Cancelled
from indexer.labelled import CannotEvaluate, Labelled
from indexer.progress import Display
from indexer.settings import Settings
from recognition import evaluation
from recognition.errors import ImageTooLarge, NoThreshold, UndecodableImage
from recognition.evaluation import (
    Accuracy,
    Calibration,
    Curve,
    Identification,
    Logistic,
    Tar,
    Trials,
)
from recognition.images import ImageLimits, decode
from recognition.metrics import distances, paired
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.protocol import SEED, Ints
from recognition.spec import ModelSpec, Threshold
from recognition.types import Embeddings, Metric, Rgb

BATCH = 16
CHUNK = 20_000
"""Pairs of faces compared at once."""
TABLE_BYTES = 2**26
NO_FACE, UNREADABLE, MISSING = "no_face", "unreadable", "missing"
STAGES = ("decode", "detect", "align", "embed")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One file: (n, dimension) of its faces, most prominent first; `failure` says why there are none.

    `seconds` of processor time: decode and detect for the image, align and embed for each face; nan where not done.
    """

    rows: Embeddings
    failure: str | None
    seconds: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Own:
    """The spec's threshold on these pairs, and how well the confidence that users are shown fits them.

    `slope`, `calibration`: None where the spec has no slope, and users are shown no confidence.
    """

    threshold: float
    slope: float | None
    data: str
    accuracy: float
    interval: tuple[float, float] | None
    wrong: int
    calibration: Calibration | None


@dataclass(frozen=True, slots=True)
class Ranks:
    """Closed-set identification; `identified` and `false_alarms` at `threshold` (the spec's, else the best one).

    `rank_5` is None where at most five people are enrolled. `interval`: of rank 1, 95 %.
    """

    rank_1: float
    interval: tuple[float, float]
    rank_5: float | None
    threshold: float
    identified: float
    false_alarms: float


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One metric."""

    trials: Trials
    curve: Curve
    fitted: Logistic
    interval: tuple[float, float] | None
    accuracy: float
    wrong: int
    held_out: Accuracy | None
    calibration: Calibration | None
    tars: tuple[Tar, ...]
    own: Own | None
    ranks: Ranks | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """`enrolled`, `probes`: of the identification; `no_ranks` says why there is none."""

    labelled: Labelled
    recipe: Recipe
    failures: Mapping[str, str]
    milliseconds: Mapping[str, float | None]
    enrolled: int
    probes: int
    no_ranks: str | None
    metrics: Mapping[Metric, Measured] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Roll:
    """Files of the enrolled, of the probes, and the enrolled person (a position) of each probe."""

    enrolled: Ints
    probes: Ints
    own: Ints


class Evaluator:
    """Runs over the files with as many threads as the settings say, each image on one."""

    def __init__(self, recognizer: Recognizer, settings: Settings) -> None:
        self._recognizer = recognizer
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._threads = settings.threads

    def run(
        self, labelled: Labelled, recipe: Recipe, metrics: Sequence[Metric], shown: Display
    ) -> Evaluation:
        """Raises CannotEvaluate where no file has a face, WeightsMissing, LicenceRefused, Cancelled."""
        spec, seen = self._recognizer.spec(recipe), self.look(labelled, recipe, shown)
        return measured(labelled, spec, recipe, seen, metrics, shown)

    def look(self, labelled: Labelled, recipe: Recipe, shown: Display) -> list[Seen]:
        """What the recipe makes of each file. Raises as `run`."""
        self._recognizer.warm(recipe)
        files = [labelled.root / file for file in labelled.files]
        batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
        seen: list[Seen] = []
        pool = ThreadPoolExecutor(self._threads, "evaluate")
        shown.show("embedding", 0, len(files))
        try:
            for part in pool.map(lambda batch: self._batch(batch, recipe), batches):
                seen += part
                shown.show("embedding", len(seen), len(files))
        except KeyboardInterrupt:
            raise Cancelled("interrupted; nothing was measured") from None
        finally:
            pool.shutdown(cancel_futures=True)
        return seen

    def _batch(self, files: Sequence[Path], recipe: Recipe) -> list[Seen]:
        """The network embeds the faces of all files at once; images are let go one by one."""
        looked = [self._look(file, recipe) for file in files]
        crops = [crop for found, _, _ in looked for crop in found]
        started = time.thread_time()
        rows = self._recognizer.embed(crops, recipe)
        each = (time.thread_time() - started) / max(len(crops), 1)
        ends = np.cumsum([len(found) for found, _, _ in looked])
        parts = np.split(rows, ends[:-1])
        return [
            Seen(part, failure, (*seconds, each if found else np.nan))
            for part, (found, failure, seconds) in zip(parts, looked, strict=True)
        ]

    def _look(
        self, file: Path, recipe: Recipe
    ) -> tuple[list[Rgb], str | None, tuple[float, float, float]]:
        """The crops of all faces, or why there are none."""
        times = [time.thread_time()]
        nothing = (np.nan, np.nan, np.nan)
        try:
            image = decode(file.read_bytes(), self._limits)
        except FileNotFoundError:
            return [], MISSING, nothing
        except (OSError, UndecodableImage, ImageTooLarge):
            return [], UNREADABLE, nothing
        times.append(time.thread_time())
        (faces,) = self._recognizer.locate([image], recipe, Selection())
        times.append(time.thread_time())
        crops = [self._recognizer.crop(image, face, recipe) for face in faces]
        times.append(time.thread_time())
        first, second, third = (b - a for a, b in pairwise(times))
        aligned = third / len(faces) if faces else np.nan
        return crops, None if faces else NO_FACE, (first, second, aligned)


def measured(
    labelled: Labelled,
    spec: ModelSpec,
    recipe: Recipe,
    seen: Sequence[Seen],
    metrics: Sequence[Metric],
    shown: Display,
) -> Evaluation:
    """`spec`: the recipe's model; `seen`: what the recipe made of each file.

    Raises CannotEvaluate where none has a face.
    """
    if all(one.failure for one in seen):
        reasons = Counter(one.failure for one in seen)
        raise CannotEvaluate(f"no file of {labelled.name} has a face: {dict(reasons)}")
    rows = [one.rows for one in seen]
    roll, why_not = _roll(labelled, rows)
    by_metric = {}
    for number, metric in enumerate(metrics):
        shown.show("measuring", number, len(metrics))
        own = own_threshold(spec, recipe, metric)
        by_metric[metric] = _measure(labelled, own, rows, roll, metric)
    shown.show("measuring", len(metrics), len(metrics))
    return Evaluation(
        labelled=labelled,
        recipe=recipe,
        failures={
            file: one.failure for file, one in zip(labelled.files, seen, strict=True) if one.failure
        },
        milliseconds=_milliseconds(seen),
        enrolled=0 if roll is None else len(roll.enrolled),
        probes=0 if roll is None else len(roll.probes),
        no_ranks=why_not,
        metrics=by_metric,
    )


def pair_distances(rows: Sequence[Embeddings], pairs: Ints, metric: Metric) -> evaluation.Floats:
    """The smallest distance over all faces of each pair of files; inf where one has none."""
    counts = np.array([len(part) for part in rows], np.int64)
    starts = np.cumsum(counts) - counts
    faces = np.concatenate(rows)
    result = np.full(len(pairs), np.inf)
    several = counts[pairs].prod(axis=1)
    for at in _chunks(np.flatnonzero(several), several):
        times, (a, b) = several[at], pairs[at].T
        ends = np.cumsum(times)
        nth = np.arange(ends[-1]) - np.repeat(ends - times, times)
        width = np.repeat(counts[b], times)
        first = np.repeat(starts[a], times) + nth // width
        second = np.repeat(starts[b], times) + nth % width
        between = paired(faces[first], faces[second], metric)
        result[at] = np.minimum.reduceat(between, ends - times)
    return result


def own_threshold(spec: ModelSpec, recipe: Recipe, metric: Metric) -> Threshold | None:
    """None where the model's spec has none."""
    try:
        return spec.threshold(recipe.detector, metric, recipe.align)
    except NoThreshold:
        return None


def _chunks(at: Ints, sizes: Ints) -> Iterator[Ints]:
    """`at` in parts of about CHUNK pairs of faces."""
    if len(at):
        number = np.cumsum(sizes[at]) // CHUNK
        yield from np.split(at, np.flatnonzero(np.diff(number)) + 1)


def _measure(
    labelled: Labelled,
    own: Threshold | None,
    rows: Sequence[Embeddings],
    roll: _Roll | None,
    metric: Metric,
) -> Measured:
    trials = Trials(
        distances=pair_distances(rows, labelled.pairs, metric),
        same=labelled.same,
        folds=labelled.fold_of,
        people=labelled.people,
        balanced=labelled.kind == "tree",
    )
    curve, fitted = evaluation.curve(trials), evaluation.fit(trials)
    tars = [evaluation.tar_at_far(curve, far, trials.strangers) for far in evaluation.FARS]
    intervals = _intervals(trials, tars, own)
    probabilities = evaluation.held_out_probabilities(trials)
    limit = fitted.threshold if own is None else own.value
    return Measured(
        trials=trials,
        curve=curve,
        fitted=fitted,
        interval=intervals["best"],
        accuracy=evaluation.accuracy(trials, fitted.threshold),
        wrong=int((~evaluation.answered_right(trials, fitted.threshold)).sum()),
        held_out=evaluation.held_out(trials),
        calibration=None
        if probabilities is None
        else evaluation.calibration(trials, probabilities),
        tars=tuple(
            Tar(t.far, t.tar, t.threshold, t.accepted, intervals.get(str(t.far)), t.reason)
            for t in tars
        ),
        own=None if own is None else _own(trials, own, intervals["own"]),
        ranks=None if roll is None else _ranks(rows, roll, metric, limit),
    )


def _intervals(
    trials: Trials, tars: Sequence[Tar], spec: Threshold | None
) -> dict[str, tuple[float, float] | None]:
    """Of the best threshold, of the accuracy at the spec's, and of each TAR, from the same draws of people."""
    fars = [t.far for t in tars if t.tar is not None]
    limit = 0.0 if spec is None else spec.value

    def statistic(curve: Curve) -> list[float]:
        return [
            evaluation.best_threshold(curve),
            evaluation.accuracy_at(curve, limit),
            *(evaluation.at_far(curve, far)[0] for far in fars),
        ]

    names = ["best", "own", *map(str, fars)]
    return dict(zip(names, evaluation.intervals(trials, statistic), strict=True))


def _own(trials: Trials, spec: Threshold, interval: tuple[float, float] | None) -> Own:
    fits = None
    if spec.slope is not None:
        shown = Logistic(spec.value, spec.slope)
        fits = evaluation.calibration(trials, shown(trials.distances))
    return Own(
        threshold=spec.value,
        slope=spec.slope,
        data=spec.data,
        accuracy=evaluation.accuracy(trials, spec.value),
        interval=interval,
        wrong=int((~evaluation.answered_right(trials, spec.value)).sum()),
        calibration=fits,
    )


def _roll(labelled: Labelled, rows: Sequence[Embeddings]) -> tuple[_Roll | None, str | None]:
    """One photograph with a face per person is enrolled, drawn with a seed; all others of these people are probes."""
    if labelled.owners is None:
        return None, "people cannot be told from the paths"
    usable = np.array([len(part) > 0 for part in rows])
    order = np.random.default_rng(SEED).permutation(np.flatnonzero(usable))
    people, first = np.unique(labelled.owners[order], return_index=True)
    enrolled = order[first]
    probes = np.setdiff1d(np.flatnonzero(np.isin(labelled.owners, people)), enrolled)
    if len(people) < 2 or len(probes) == 0:
        return None, "two people with a face are needed, one with two photographs"
    own = np.searchsorted(people, labelled.owners[probes])
    return _Roll(enrolled, probes, own.astype(np.int64)), None


def _ranks(rows: Sequence[Embeddings], roll: _Roll, metric: Metric, threshold: float) -> Ranks:
    gallery = np.stack([rows[file][0] for file in roll.enrolled])
    size = max(1, TABLE_BYTES // (gallery.size * 8))
    parts = []
    for start in range(0, len(roll.probes), size):
        probes = roll.probes[start : start + size]
        between = np.full((len(probes), len(gallery)), np.inf)
        seen = np.array([len(rows[file]) > 0 for file in probes])
        if seen.any():
            faces = np.stack([rows[file][0] for file in probes[seen]])
            between[seen] = distances(faces, gallery, metric)
        parts.append(evaluation.identification(between, roll.own[start : start + size]))
    found: Identification = evaluation.joined(parts)
    return Ranks(
        rank_1=found.share(1),
        interval=evaluation.wilson(int((found.ranks == 1).sum()), len(roll.probes)),
        rank_5=found.share(5) if len(gallery) > 5 else None,
        threshold=threshold,
        identified=found.identified(threshold),
        false_alarms=found.false_alarms(threshold),
    )


def _milliseconds(seen: Sequence[Seen]) -> dict[str, float | None]:
    """The median of each stage; None where it never ran."""
    columns = np.array([one.seconds for one in seen], np.float64).T
    known = [column[np.isfinite(column)] for column in columns]
    return {
        stage: 1000 * float(np.median(column)) if len(column) else None
        for stage, column in zip(STAGES, known, strict=True)
    }
