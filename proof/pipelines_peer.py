"""DeepFace's side of the proof of whole pipelines; runs in an environment of its own, with nothing of this project.

    python pipelines_peer.py FOLDER DETECTOR

Model Dlib. FOLDER/photographs/*.png through `DeepFace.represent`, every face; the embeddings and boxes go into
FOLDER/DETECTOR.json, by photograph. The SSD is read from its TensorFlow files where the Caffe ones are not to be had.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def use_tensorflow_files(weights: Path) -> None:
    """DeepFace reads the Caffe form of the SSD: it is given the other form of the same network instead."""
    cv2: Any = importlib.import_module("cv2")
    graph = weights / "opencv_face_detector.pbtxt"
    network = weights / "opencv_face_detector_uint8.pb"
    if network.exists():
        cv2.dnn.readNetFromCaffe = lambda *_: cv2.dnn.readNetFromTensorflow(
            str(network), str(graph)
        )
        for name in ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel"):
            (weights / name).touch()


def faces(deepface: Any, photograph: Path, detector: str) -> list[dict[str, Any]]:
    """None where DeepFace sees none."""
    errors = importlib.import_module("deepface.modules.exceptions")
    try:
        found = deepface.represent(str(photograph), model_name="Dlib", detector_backend=detector)
    except (errors.FaceNotDetected, errors.ImgNotFound):
        return []
    return [
        {
            "embedding": [float(value) for value in face["embedding"]],
            "box": [int(face["facial_area"][side]) for side in ("x", "y", "w", "h")],
        }
        for face in found
    ]


def main() -> None:
    folder, detector = Path(sys.argv[1]), sys.argv[2]
    home = importlib.import_module("deepface.commons.folder_utils").get_deepface_home()
    if detector == "ssd":
        use_tensorflow_files(Path(home, ".deepface", "weights"))
    deepface = importlib.import_module("deepface.DeepFace")
    photographs = sorted((folder / "photographs").glob("*.png"))
    told = {path.stem: faces(deepface, path, detector) for path in photographs}
    (folder / f"{detector}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
