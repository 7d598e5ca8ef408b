"""Faces to embeddings by InsightFace's own code, in an environment with InsightFace and without this project.

python buffalo_peer.py NETWORK FACES.npz EMBEDDINGS.npy
"""

from __future__ import annotations

import importlib
import sys

import numpy as np


def main() -> None:
    arcface = importlib.import_module("insightface.model_zoo.arcface_onnx")
    common = importlib.import_module("insightface.app.common")
    network, faces, target = sys.argv[1:]
    model = arcface.ArcFaceONNX(network)
    model.prepare(-1)
    rows = []
    with np.load(faces) as given:
        for number in range(len(given.files) // 2):
            face = common.Face(kps=given[f"points{number}"])
            rows.append(model.get(np.ascontiguousarray(given[f"bgr{number}"]), face))
    np.save(target, np.stack(rows))


if __name__ == "__main__":
    main()
