"""How long each stage of an image's way takes on this machine, alone on one core."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from indexer.commands import Tools
from indexer.errors import IndexerError
from indexer.search import Query, Searcher
from indexer.workshop import recognizer
from recognition.errors import RecognitionError
from recognition.images import ImageLimits, suffixes
from recognition.pipeline import Face, Recipe, Recognizer, Selection
from recognition.stages import STAGES, Stage, timed

MOST_FILES = 200
WARM = 2


class NothingToProfile(IndexerError):
    """No image at the paths can be read."""


@dataclass(slots=True)
class Clock:
    """Seconds by stage, one entry for each image."""

    seconds: dict[Stage, list[float]] = field(default_factory=dict)

    def note(self, stage: Stage, seconds: float) -> None:
        self.seconds.setdefault(stage, []).append(seconds)


def profile(
    tools: Tools, paths: Sequence[Path], recipe: Recipe, gallery: str | None, rounds: int
) -> dict[str, Any]:
    """The summary, with a row for each stage. Raises NothingToProfile, NotFound."""
    files = _files(paths)
    clock = Clock()
    subject = _Subject(tools, recipe, gallery, clock)
    faces = unusable = 0
    for path in files[:WARM] * WARM:
        subject.run(path)
    clock.seconds.clear()
    started = time.perf_counter()
    for _ in range(rounds):
        for path in files:
            found = subject.run(path)
            faces += len(found or ())
            unusable += found is None
    elapsed = time.perf_counter() - started
    if unusable == rounds * len(files):
        raise NothingToProfile("none of the images can be decoded")
    images = rounds * len(files)
    return {
        "images": images,
        "unusable": unusable,
        "faces": faces,
        "recipe": str(recipe),
        "images_per_second": round(images / elapsed, 2),
        "stages": _rows(clock.seconds, images),
    }


class _Subject:
    def __init__(self, tools: Tools, recipe: Recipe, gallery: str | None, clock: Clock) -> None:
        settings = tools.settings
        self._recognizer: Recognizer = recognizer(settings, observe=clock.note)
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._recipe, self._clock = recipe, clock
        self._target = None
        if gallery is not None:
            self._searcher = Searcher(tools.database, None)
            self._target = self._searcher.target(gallery)

    def run(self, path: Path) -> tuple[Face, ...] | None:
        """The faces; None for what is no image."""
        with timed(self._clock.note, "read"):
            data = path.read_bytes()
        try:
            sight = self._recognizer.see(data, self._limits, self._recipe, Selection())
        except RecognitionError:
            return None
        faces = self._recognizer.describe_seen(sight, self._recipe)
        if self._target is not None and faces:
            probes = np.stack([face.embedding for face in faces])
            query = Query(gallery=self._target.gallery, threshold=2.0)
            with timed(self._clock.note, "search"):
                self._searcher.find(self._target, probes, query)
        with timed(self._clock.note, "serialize"):
            orjson.dumps([face.embedding.tolist() for face in faces])
        return faces


def _files(paths: Sequence[Path]) -> list[Path]:
    """Images at the paths and below folders, at most MOST_FILES."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [p for p in inside if p.suffix.lower() in suffixes() and p.is_file()]
    if not found:
        raise NothingToProfile("there are no images at the paths")
    return found[:MOST_FILES]


def _rows(seconds: Mapping[Stage, Sequence[float]], images: int) -> list[dict[str, Any]]:
    total = sum(map(sum, seconds.values()))
    return [
        {
            "stage": stage,
            "ms_per_image": round(1000 * sum(seconds[stage]) / images, 3),
            "p50_ms": round(1000 * float(np.median(seconds[stage])), 3),
            "p95_ms": round(1000 * float(np.quantile(seconds[stage], 0.95)), 3),
            "share_percent": round(100 * sum(seconds[stage]) / total, 1),
        }
        for stage in STAGES
        if stage in seconds
    ]
