"""Verification accuracy of a model with each detector on labelled pairs, as `/verify` answers them.

    python -m benchmarks.accuracy PAIRS.csv FOLDER [--detectors mediapipe,mtcnn] [--align none] [--json FILE]

PAIRS.csv has the columns file_a, file_b, same (0 or 1) and optionally fold; or file_x, file_y, Decision
(Yes or No). A pair whose faces are not found counts as answered no.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer import own_models
from indexer.settings import Settings
from recognition import registry
from recognition.images import ImageLimits, decode
from recognition.metrics import distances
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import ALIGNS, METRICS, Embeddings, Metric
from recognition.weights import WeightsCache

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NOT_FOUND = float("inf")
"""Stands for the distance where no face was found: beyond every threshold."""


@dataclass(frozen=True, slots=True)
class Pair:
    a: str
    b: str
    same: bool
    fold: str


@dataclass(frozen=True, slots=True)
class Result:
    """`held_out`: threshold from the other folds; `own`: the spec's; `best`: fitted on these pairs."""

    detector: str
    metric: str
    found: float
    own_threshold: float
    own: float
    wrong: int
    best_threshold: float
    best: float
    held_out: float
    slope: float
    ms_per_image: float


def read_pairs(path: Path) -> list[Pair]:
    """Raises KeyError when the columns are others than those named above."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "Decision" in rows[0]:
        return [Pair(r["file_x"], r["file_y"], r["Decision"] == "Yes", "1") for r in rows]
    return [Pair(r["file_a"], r["file_b"], r["same"] == "1", r.get("fold", "1")) for r in rows]


def embed(
    recognizer: Recognizer, recipe: Recipe, folder: Path, files: Sequence[str]
) -> tuple[dict[str, Embeddings], float]:
    """Embeddings of all faces by file, and milliseconds per image on one core."""

    def one(file: str) -> tuple[Embeddings, float]:
        image = decode((folder / file).read_bytes(), ImageLimits(max_bytes=2**27))
        started = time.thread_time()
        (faces,) = recognizer.represent([image], recipe, Selection())
        return recognizer.embeddings(faces, recipe), time.thread_time() - started

    recognizer.warm(recipe)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(one, files))
    found = {file: rows for file, (rows, _) in zip(files, results, strict=True)}
    return found, 1000 * float(np.median([seconds for _, seconds in results]))


def pair_distances(rows: dict[str, Embeddings], pairs: Sequence[Pair], metric: Metric) -> Floats:
    """The smallest distance over all faces of each pair."""
    return np.array(
        [
            distances(rows[p.a], rows[p.b], metric).min()
            if len(rows[p.a]) and len(rows[p.b])
            else NOT_FOUND
            for p in pairs
        ]
    )


def best_threshold(values: Floats, same: Flags) -> float:
    """The middle of the thresholds that get most pairs right."""
    order = np.argsort(values)
    ordered, labels = values[order], same[order]
    right = np.cumsum(labels) + (~labels).sum() - np.cumsum(~labels)
    at = np.flatnonzero(right == right.max())
    chosen = int(at[len(at) // 2])
    after = ordered[min(chosen + 1, len(ordered) - 1)]
    return float((ordered[chosen] + min(after, ordered[chosen] * 1.05)) / 2)


def fitted_slope(values: Floats, same: Flags, threshold: float) -> float:
    """Of the logistic through 1/2 at the threshold, by maximum likelihood over a grid, of pairs with faces."""
    values, same = values[values < NOT_FOUND], same[values < NOT_FOUND]
    side = np.where(same, 1.0, -1.0) * (np.minimum(values, 2 * threshold) - threshold)
    slopes = np.geomspace(0.01, 1000, 800)
    return float(min(slopes, key=lambda slope: float(np.logaddexp(0, slope * side).sum())))


def share_right(values: Floats, same: Flags, threshold: float) -> float:
    return float(((values <= threshold) == same).mean())


def held_out(values: Floats, same: Flags, folds: NDArray[np.str_]) -> float:
    """Mean accuracy over folds, each with the threshold of the others; nan for a single fold."""
    names = np.unique(folds)
    if len(names) < 2:
        return float("nan")
    return float(
        np.mean(
            [
                share_right(
                    values[folds == name],
                    same[folds == name],
                    best_threshold(values[folds != name], same[folds != name]),
                )
                for name in names
            ]
        )
    )


def measure(
    recognizer: Recognizer, recipe: Recipe, folder: Path, pairs: list[Pair]
) -> list[Result]:
    files = sorted({p.a for p in pairs} | {p.b for p in pairs})
    rows, milliseconds = embed(recognizer, recipe, folder, files)
    found = float(np.mean([len(rows[file]) > 0 for file in files]))
    same = np.array([p.same for p in pairs])
    folds = np.array([p.fold for p in pairs])
    results = []
    for metric in METRICS:
        values = pair_distances(rows, pairs, metric)
        spec = recognizer.spec(recipe)
        own = spec.threshold(recipe.detector, metric, recipe.align, float("nan")).value
        best = best_threshold(values, same)
        results.append(
            Result(
                detector=recipe.detector,
                metric=metric,
                found=found,
                own_threshold=own,
                own=share_right(values, same, own),
                wrong=int(((values <= own) != same).sum()),
                best_threshold=best,
                best=share_right(values, same, best),
                held_out=held_out(values, same, folds),
                slope=fitted_slope(values, same, best),
                ms_per_image=milliseconds,
            )
        )
    return results


def show(results: Sequence[Result]) -> str:
    lines = [
        "| detector | metric | faces found | own threshold | accuracy | wrong | best threshold "
        "| accuracy | held-out folds | slope | ms/image |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.detector} | {r.metric} | {r.found:.2%} | {r.own_threshold:.4g} | {r.own:.4f} "
        f"| {r.wrong} | {r.best_threshold:.4g} | {r.best:.4f} | {r.held_out:.4f} "
        f"| {r.slope:.4g} | {r.ms_per_image:.1f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="Dlib")
    parser.add_argument("--detectors", default=",".join(registry.DETECTORS))
    parser.add_argument("--align", choices=ALIGNS, default="native")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pairs = read_pairs(given.pairs)
    settings = Settings()
    weights = WeightsCache(settings.weights_folder)
    resources = Resources(weights=weights, runtime=Runtime(threads=1))
    recognizer = Recognizer(resources, own_models.load(settings.models_folder))
    spec = recognizer.models.named(given.model)
    results: list[Result] = []
    for detector in given.detectors.split(","):
        recipe = replace(Recipe.usual(spec, detector), align=given.align)
        results += measure(recognizer, recipe, given.folder, pairs)
    print(f"{len(pairs)} pairs; {os.cpu_count()} cores, {platform.machine()}, one thread an image")
    print(show(results))
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in results], indent=2))


if __name__ == "__main__":
    main()
