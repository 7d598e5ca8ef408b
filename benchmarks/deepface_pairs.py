"""DeepFace's embeddings of photographs; runs in an environment of its own, with nothing of this project.

    python deepface_pairs.py ROOT DETECTOR OUT.npz < FILES

Model Dlib, everything else as `DeepFace.verify` does it for each of its two photographs: its function for that is
called, which is not quite `represent`. `rows`: (faces, 128); `counts`: faces of each file, 0 where DeepFace raises that
there is none; `seconds`: processor time of each file, of all threads.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "Dlib"
DIMENSION = 128


def look(verification: Any, path: str, detector: str) -> list[list[float]]:  # noqa: ANN401
    """The embeddings of all faces; none where DeepFace says that there is no face."""
    errors = importlib.import_module("deepface.modules.exceptions")
    try:
        found: list[list[float]] = vars(verification)["__extract_faces_and_embeddings"](
            path, model_name=MODEL, detector_backend=detector
        )[0]
    except (errors.FaceNotDetected, errors.ImgNotFound):
        return []
    return found


def main() -> None:
    root, detector, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    files = sys.stdin.read().splitlines()
    verification = importlib.import_module("deepface.modules.verification")
    look(verification, str(root / files[0]), detector)  # loads the networks
    rows: list[list[float]] = []
    counts, seconds = [], []
    for file in files:
        started = time.process_time()
        found = look(verification, str(root / file), detector)
        seconds.append(time.process_time() - started)
        counts.append(len(found))
        rows += found
    np.savez(
        out,
        rows=np.asarray(rows, np.float32).reshape(-1, DIMENSION),
        counts=np.asarray(counts, np.int64),
        seconds=np.asarray(seconds),
    )


if __name__ == "__main__":
    main()
