"""DeepFace's own HTTP service, and its way of indexing a folder; runs in an environment with nothing of this project.

python deepface_api.py serve PORT
python deepface_api.py index FOLDER DETECTOR
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def serve(port: str) -> None:
    """As its image starts it: gunicorn with one worker over its app."""
    source = importlib.import_module("deepface.api.src").__path__[0]
    os.chdir(source)
    command = ["gunicorn", "--workers=1", "--timeout=3600", f"--bind=127.0.0.1:{port}"]
    os.execv(sys.executable, [sys.executable, "-m", *command, "app:create_app()"])  # noqa: S606


def index(folder: str, detector: str) -> None:
    """The seconds of `find` over a folder that has no datastore yet, less those of one that has it."""
    deepface = importlib.import_module("deepface.DeepFace")
    photo = os.path.join(folder, sorted(os.listdir(folder))[0])  # noqa: PTH118, PTH208
    common = {"model_name": "Dlib", "detector_backend": detector, "enforce_detection": False}
    deepface.represent(photo, **common)
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        deepface.find(photo, folder, silent=True, **common)
        taken.append(time.perf_counter() - began)
    print(json.dumps({"seconds": taken[0] - taken[1]}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        index(sys.argv[2], sys.argv[3])
