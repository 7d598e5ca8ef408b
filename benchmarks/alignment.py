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

from benchmarks.accuracy import Pair, best_threshold, held_out, read_pairs, share_right
from indexer.settings import Settings
from recognition import registry
from recognition.images import ImageLimits, decode
from recognition.metrics import distances
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


def summary(
    detector: str, files: Sequence[str], found: dict[str, Measured], pairs: Sequence[Pair]
) -> str:
    """One row of the table."""
    counted = [p for p in pairs if p.a in found and p.b in found]
    values = np.array([distances(found[p.a].row, found[p.b].row, METRIC)[0, 0] for p in counted])
    same = np.array([p.same for p in counted])
    folds = np.array([p.fold for p in counted])
    best = best_threshold(values, same)
    stages = 1000 * np.median([m.seconds for m in found.values()], axis=0)
    return (
        f"| {detector} | {len(found) / len(files):.2%} | {len(counted)} "
        f"| {share_right(values, same, THEIRS):.4f} | {best:.3f} "
        f"| {share_right(values, same, best):.4f} | {held_out(values, same, folds):.4f} "
        f"| {stages[0]:.1f} | {stages[1]:.1f} | {stages[2]:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detectors", default=",".join(registry.DETECTORS))
    given = parser.parse_args()
    pairs = read_pairs(given.pairs)
    files = sorted({p.a for p in pairs} | {p.b for p in pairs})
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
        all_found = {
            file: measure(recognizer, recipe, read(recognizer, detector, given.folder / file))
            for file in files
        }
        found = {file: m for file, m in all_found.items() if m is not None}
        print(summary(detector, files, found, pairs), flush=True)


if __name__ == "__main__":
    main()
