"""DeepFace's `find`, timed; runs in an environment of its own, with nothing of this project.

    python deepface_peer.py FOLDER FACES PHOTO

Makes a folder of so many small JPEG files, with the datastore that DeepFace would have made of
them, but of made-up embeddings, and looks for the one face of the photograph in it: model Dlib,
detector opencv. Prints a line of JSON for each way of asking.
"""

from __future__ import annotations

import importlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 128
FACES_EACH = 5
RUNS = 5
BUDGET_S = 120.0
MODEL, DETECTOR = "Dlib", "opencv"
STORE = "ds_model_dlib_detector_opencv_aligned_normalization_base_expand_0.npz"


def make(folder: Path, faces: int) -> None:
    """The files, and DeepFace's datastore of them in its own format."""
    shutil.rmtree(folder, ignore_errors=True)
    cv2 = importlib.import_module("cv2")
    found_hash = importlib.import_module("deepface.commons.image_utils").find_image_hash
    jpeg = cv2.imencode(".jpg", np.full((8, 8, 3), 128, np.uint8))[1].tobytes()
    paths = []
    for number in range(faces):
        path = folder / f"person{number // FACES_EACH}" / f"{number % FACES_EACH}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)
        paths.append(str(path))
    random = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "embedding": random.standard_normal((faces, DIMENSION)),
        "has_embedding": np.ones(faces, np.bool_),
        "identity": np.array(paths, np.str_),
        "hash": np.array([found_hash(path) for path in paths], np.str_),
        **{f"target_{name}": np.zeros(faces, np.int64) for name in "xywh"},
    }
    np.savez(folder / STORE, **columns)


def times(work: Callable[[], object]) -> list[float]:
    """Seconds of some runs after the first."""
    work()
    taken: list[float] = []
    while len(taken) < RUNS and sum(taken) < BUDGET_S:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return taken


def ways(folder: Path, photo: str) -> Iterator[tuple[dict[str, Any], Callable[[], object]]]:
    """What is timed, first the probe alone: reading, detection, alignment, embedding."""
    deepface = importlib.import_module("deepface.DeepFace")
    common = {"model_name": MODEL, "detector_backend": DETECTOR}
    yield {"way": "probe"}, lambda: deepface.represent(photo, **common)
    for refresh in (True, False):
        for kind in ("pandas", "dict"):
            options = {"refresh_database": refresh, "return_type": kind}
            yield (
                {"way": "find", **options},
                lambda o=options: deepface.find(  # type: ignore[misc]
                    photo, str(folder), silent=True, **common, **o
                ),
            )


def main() -> None:
    folder, faces, photo = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    make(folder, faces)
    for way, work in ways(folder, photo):
        taken = times(work)
        told = {
            **way,
            "faces": faces,
            "median_s": statistics.median(taken),
            "longest_s": max(taken),
            "runs": len(taken),
        }
        print(json.dumps(told), flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
