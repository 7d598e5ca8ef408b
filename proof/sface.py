"""SFace against OpenCV's FaceRecognizerSF: the same network, photographs and landmarks through both.

    python -m proof.sface [--network FILE] PHOTOGRAPHS...

Without the published network a seeded one with the same input and output stands in. Ends with 1 where the cosine
similarity of the two embeddings is not above 0.9999; faces of more than twice the chip's size are only shown: OpenCV
samples them without averaging.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from indexer.settings import Settings
from proof import small_network
from proof.faces import Photograph, cosine, photographs, table
from recognition.embedder import NetworkEmbedder
from recognition.models import sface
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.weights import WeightsCache

LEAST = 0.9999
AVERAGED = 0.5
"""Faces that are enlarged by less are averaged down first by us."""


def theirs(network: Path, photograph: Photograph) -> NDArray[np.float32]:
    """(128,) by OpenCV: alignCrop and feature."""
    recogniser = cv2.FaceRecognizerSF.create(str(network), "")
    box, points = photograph.face.box, photograph.face.landmarks
    assert points is not None
    row = np.array([[box.x, box.y, box.w, box.h, *points.ravel(), 1.0]], np.float32)
    bgr = np.ascontiguousarray(photograph.image[..., ::-1])
    return np.asarray(recogniser.feature(recogniser.alignCrop(bgr, row)), np.float32).ravel()


def ours(network: Path, photograph: Photograph) -> NDArray[np.float32]:
    """(128,) by the model's own input and alignment."""
    session = Runtime(1).session(network)
    embedder = NetworkEmbedder(session, sface.INPUT, sface.DIMENSION, single=True)
    crop = embedder.crop(photograph.image, photograph.face, "native")
    return np.asarray(embedder.embed([crop], "native", "base")[0], np.float32)


def compare(network: Path, photograph: Photograph) -> float:
    return cosine(theirs(network, photograph), ours(network, photograph))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--network", type=Path)
    given = parser.parse_args()
    weights = WeightsCache(Settings().weights_folder)
    found = photographs(Recognizer(Resources(weights, Runtime(1))), given.photographs)
    with tempfile.TemporaryDirectory() as folder:
        network = given.network or Path(folder, "sface.onnx")
        if given.network is None:
            small_network.save(network, sface.DIMENSION, batch=1, scale=1 / 128)
        rows = [(photograph, compare(network, photograph)) for photograph in found]
    print(table(rows))
    sys.exit(any(similar <= LEAST for p, similar in rows if p.enlarged > AVERAGED))


if __name__ == "__main__":
    main()
