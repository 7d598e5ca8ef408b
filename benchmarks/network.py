"""The Dlib network on ONNX Runtime beside dlib's own, on the same chips in the same run.

python -m benchmarks.network
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from indexer.settings import Settings
from recognition.images import ImageLimits, decode
from recognition.models.dlib import WEIGHTS
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import Resources
from recognition.types import Rgb
from recognition.weights import WeightsCache

RUNS = 15
RECIPE = Recipe("Dlib", "mediapipe")


def sample_chips(recognizer: Recognizer) -> list[Rgb]:
    """One aligned chip per sample photograph."""
    cache = recognizer.resources.weights
    images = [decode(cache.path(s.weights).read_bytes(), ImageLimits()) for s in SAMPLES]
    found = recognizer.detect(images, RECIPE.detector, Selection(max_faces=1))
    return [recognizer.crop(i, faces[0], RECIPE) for i, faces in zip(images, found, strict=True)]


def milliseconds(work: Callable[[], object], items: int) -> float:
    """Median over runs, per item, after one run to warm up."""
    work()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times) / items


def main() -> None:
    weights = WeightsCache(Settings().weights_folder)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    reference = importlib.import_module("dlib").face_recognition_model_v1(
        str(weights.path(WEIGHTS))
    )
    chips = sample_chips(Recognizer(Resources(weights=weights, runtime=Runtime(threads=1))))
    theirs = np.array([reference.compute_face_descriptor(chip) for chip in chips])
    own = milliseconds(lambda: reference.compute_face_descriptor(chips[0]), 1)
    print("| network | threads | batch | ms a face | times faster | largest difference |")
    print("|---|---|---|---|---|---|")
    print(f"| dlib's own | 1 | 1 | {own:.1f} | 1.0 | - |")
    for model in ("Dlib", "Dlib_int8"):
        for threads in (1, 2):
            resources = Resources(weights=weights, runtime=Runtime(threads=threads))
            embedder = Recognizer(resources).embedder(model)
            difference = float(np.abs(embedder.embed(chips, "native", "base") - theirs).max())
            for batch in (1, 32):
                faces = (chips * batch)[:batch]
                ours = milliseconds(lambda e=embedder, f=faces: e.embed(f, "native", "base"), batch)  # type: ignore[misc]
                print(
                    f"| {model}, ONNX Runtime | {threads} | {batch} | {ours:.2f} | {own / ours:.1f} "
                    f"| {difference:.1e} |"
                )


if __name__ == "__main__":
    main()
