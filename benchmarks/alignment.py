"""What the alignment makes of each detector's faces: accuracy on pairs whose faces were found, time by stage.

    python -m benchmarks.alignment PAIRS.csv FOLDER [--detectors dlib,mtcnn,skip]

One face of each image counts, the most prominent one, so that neither bystanders nor missed faces play a part. The
detector skip is given loose crops: the square around mediapipe's box with three tenths of it on every side.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.labelled import Labelled, read_pairs
from indexer.settings import Settings
from recognition import evaluation, registry
from recognition.evaluation import Trials
from recognition.images import ImageLimits, decode
from recognition.metrics import paired
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Box, Metric, Rgb
from recognition.weights import WeightsCache

ONE = Selection(max_faces=1)
MARGIN = 0.3
METRIC: Metric = "euclidean"
THEIRS = 0.6
"""The threshold that the network was trained for."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One image: its embedding, (1, dimension), and the seconds of each stage."""

    row: NDArray[np.float32]
    seconds: tuple[float, float, float]


def measure(recognizer: Recognizer, recipe: Recipe, image: Rgb) -> Measured | None:
    """None without a face."""
    times = [time.perf_counter()]
    (faces,) = recognizer.detect([image], recipe.detector, ONE)
    times.append(time.perf_counter())
    if not faces:
        return None
    crop = recognizer.crop(image, faces[0], recipe)
    times.append(time.perf_counter())
    row = recognizer.embed([crop], recipe)
    times.append(time.perf_counter())
    first, second, third = np.diff(times)
    return Measured(row, (float(first), float(second), float(third)))


def loose(image: Rgb, box: Box) -> Rgb:
    """The part of the image in a square around the box, which is all that `skip` will see."""
    half = max(box.w, box.h) * (0.5 + MARGIN)
    (x, y), (height, width) = box.centre, image.shape[:2]
    rows = slice(max(0, int(y - half)), min(height, int(y + half)))
    columns = slice(max(0, int(x - half)), min(width, int(x + half)))
    return np.ascontiguousarray(image[rows, columns])


def read(recognizer: Recognizer, detector: str, path: Path) -> Rgb:
    image = decode(path.read_bytes(), ImageLimits())
    if detector != "skip":
        return image
    (faces,) = recognizer.detect([image], "mediapipe", ONE)
    return loose(image, faces[0].box) if faces else image


def summary(detector: str, found: Sequence[Measured | None], labelled: Labelled) -> str:
    """One row of the table; `found` by file."""
    seen = np.array([m is not None for m in found])
    counted = seen[labelled.pairs].all(axis=1)
    pairs, dimension = labelled.pairs[counted], registry.MODELS["Dlib"].dimension
    rows = np.concatenate([np.zeros((1, dimension)) if m is None else m.row for m in found])
    trials = Trials(
        paired(rows[pairs[:, 0]], rows[pairs[:, 1]], METRIC),
        labelled.same[counted],
        labelled.fold_of[counted],
        labelled.people[counted],
    )
    best = evaluation.best_threshold(evaluation.curve(trials))
    folds = evaluation.held_out(trials)
    stages = 1000 * np.median([m.seconds for m in found if m is not None], axis=0)
    return (
        f"| {detector} | {seen.mean():.2%} | {len(pairs)} "
        f"| {evaluation.accuracy(trials, THEIRS):.4f} | {best:.3f} "
        f"| {evaluation.accuracy(trials, best):.4f} | {folds.mean if folds else np.nan:.4f} "
        f"| {stages[0]:.1f} | {stages[1]:.1f} | {stages[2]:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detectors", default=",".join(registry.DETECTORS))
    given = parser.parse_args()
    labelled = read_pairs(given.pairs, given.folder)
    weights = WeightsCache(Settings().weights_folder)
    recognizer = Recognizer(Resources(weights=weights, runtime=Runtime(threads=1)))
    print(f"{os.cpu_count()} cores, {platform.machine()}, one thread; {METRIC} distance")
    print(
        "| detector | images with a face | pairs | accuracy at 0.6 | best threshold | accuracy ",
        end="",
    )
    print("| held-out folds | ms detect | ms align | ms embed |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for detector in given.detectors.split(","):
        recipe = Recipe("Dlib", detector)
        recognizer.warm(recipe)
        found = [
            measure(recognizer, recipe, read(recognizer, detector, given.folder / file))
            for file in labelled.files
        ]
        print(summary(detector, found, labelled), flush=True)


if __name__ == "__main__":
    main()
