"""DeepFace's anti-spoofing on given boxes; runs in an environment of its own, with nothing of this project.

    python antispoofing_peer.py JOB OUT

JOB is JSON: `faces`, each with the file of an image ((height, width, 3) uint8 BGR, .npy) and a `box`, x, y, w, h.
OUT gets for each face the verdict and the score, and the networks' probabilities on the waves of `waves`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(job: Path, out: Path) -> None:
    fasnet = importlib.import_module("deepface.models.spoofing.pytorch.FasNet").Fasnet()
    told = []
    for face in json.loads(job.read_text())["faces"]:
        is_real, score = fasnet.analyze(np.load(face["image"], allow_pickle=False), face["box"])
        told.append({"is_real": bool(is_real), "score": float(score)})
    networks = (fasnet.first_model, fasnet.second_model)
    shares = [probabilities(network, waves()) for network in networks]
    out.write_text(json.dumps({"faces": told, "waves": shares}))


def probabilities(network: Any, faces: Any) -> list[list[float]]:  # of another environment
    torch = importlib.import_module("torch")
    with torch.no_grad():
        rows = torch.softmax(network(torch.from_numpy(faces)), dim=1)
    return [[float(value) for value in row] for row in rows]


def waves() -> Any:
    """(3, 3, 80, 80) float32 in 0..255."""
    k, c, y, x = np.indices((3, 3, 80, 80))
    values = 127.5 + 127.5 * np.sin(0.13 * x * (1 + c) + 0.21 * y + k)
    return values.round().astype(np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
