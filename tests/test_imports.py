"""What is slow to import is imported where it is used: most starts, and all requests, have no need of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from recognition.pipeline import Recipe, Recognizer
from recognition.spec import Resources

ROOT = Path(__file__).parents[1]
CONVERTS = {"onnx", "google", "tflite", "flatbuffers", "h5py", "ml_dtypes", "lz4", "keras"}
RARE = CONVERTS | {
    "alembic", "mako", "rich", "pygments", "httpx", "scipy", "matplotlib", "tensorflow", "torch", "openvino", "ray",
}  # fmt: skip
EVERY = {"numpy", "cv2", "onnxruntime", "PIL", "sqlalchemy", "psycopg2"}
"""What the first request, or the first image, must not wait for."""

DETECTORS = ("mediapipe", "mtcnn")
USE = """
import sys
from pathlib import Path
from recognition.images import ImageLimits
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.weights import WeightsCache

folder, photo, *detectors = sys.argv[1:]
recognizer = Recognizer(Resources(WeightsCache(Path(folder), download=False), Runtime(threads=1)))
image = recognizer.decode(Path(photo).read_bytes(), ImageLimits())
for detector in detectors:
    (faces,) = recognizer.represent([image], Recipe("Dlib", detector), Selection())
    assert len(faces) == 1
    recognizer.analyze(image, [face.detection for face in faces], ["emotion"])
"""
TELL = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level names of all modules in a process that has run the code."""
    command = [sys.executable, "-c", code + TELL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_service_starts_with_what_requests_need() -> None:
    names = loaded("import service.app")
    assert names & RARE == set()
    assert names >= EVERY | {"faiss"}


def test_commands_start_with_what_most_of_them_need() -> None:
    names = loaded("import indexer.commands, indexer.runs")
    assert names & (RARE | {"faiss", "fastapi"}) == set()
    assert names >= EVERY


def test_converted_weights_are_used_without_what_converts(
    resources: Resources, portraits: dict[str, bytes], tmp_path: Path
) -> None:
    here = Recognizer(resources)
    here.attribute("emotion")
    for detector in DETECTORS:
        here.warm(Recipe("Dlib", detector))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(portraits["obama.jpg"])
    names = loaded(USE, str(resources.weights.folder), str(photo), *DETECTORS)
    assert names & RARE == set()
