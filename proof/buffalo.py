"""Buffalo_L against InsightFace's ArcFaceONNX: the same network, photographs and landmarks through both.

    python -m proof.buffalo --python INTERPRETER [--network FILE] [--record FILE] PHOTOGRAPHS...

INTERPRETER has InsightFace installed (pip install insightface onnxruntime "opencv-python-headless<5"). Without the
published network a seeded one with the same input and output stands in. Ends with 1 where the cosine similarity of the
two embeddings is not above 0.9999; faces of more than twice the chip's size are only shown: InsightFace samples them
without averaging.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.settings import Settings
from proof import buffalo_peer, small_network
from proof.faces import Photograph, cosine, photographs, table
from recognition.embedder import NetworkEmbedder
from recognition.models import buffalo_l
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.weights import WeightsCache

LEAST = 0.9999
AVERAGED = 0.5
"""Faces that are enlarged by less are averaged down first by us."""
RECORDED = 8
"""First numbers of each embedding that are kept."""


def theirs(python: Path, network: Path, found: Sequence[Photograph]) -> NDArray[np.float32]:
    """(n, 512) by InsightFace: norm_crop and get_feat."""
    faces, out = network.parent / "faces.npz", network.parent / "out.npy"
    arrays: dict[str, Any] = {f"bgr{n}": p.image[..., ::-1] for n, p in enumerate(found)}
    arrays |= {f"points{n}": p.face.landmarks for n, p in enumerate(found)}
    np.savez(faces, **arrays)
    command = [str(python), "-P", buffalo_peer.__file__, str(network), str(faces), str(out)]
    subprocess.run(command, check=True)
    return np.asarray(np.load(out), np.float32)


def ours(network: Path, photograph: Photograph) -> NDArray[np.float32]:
    """(512,) by the model's own input and alignment."""
    session = Runtime(1).session(network)
    embedder = NetworkEmbedder(session, buffalo_l.INPUT, buffalo_l.DIMENSION)
    crop = embedder.crop(photograph.image, photograph.face, "native")
    return np.asarray(embedder.embed([crop], "native", "base")[0], np.float32)


def stand_in(path: Path) -> None:
    small_network.save(path, buffalo_l.DIMENSION, batch="n", scale=1)


def record(found: Sequence[Photograph], rows: NDArray[np.float32]) -> str:
    """Landmarks, length and first numbers by photograph, as JSON."""
    told = {
        p.name: {
            "landmarks": np.asarray(p.face.landmarks, np.float64).round(3).tolist(),
            "length": float(np.linalg.norm(row)),
            "first": [float(v) for v in row[:RECORDED]],
        }
        for p, row in zip(found, rows, strict=True)
    }
    return json.dumps(told, indent=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    weights = WeightsCache(Settings().weights_folder)
    found = photographs(Recognizer(Resources(weights, Runtime(1))), given.photographs)
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, "w600k_r50.onnx")
        if given.network is None:
            stand_in(network)
        else:
            network.symlink_to(given.network.resolve())
        peers = theirs(given.python, network, found)
        rows = [(p, cosine(peer, ours(network, p))) for p, peer in zip(found, peers, strict=True)]
    print(table(rows))
    if given.record is not None:
        given.record.write_text(record(found, peers))
    sys.exit(any(similar <= LEAST for p, similar in rows if p.enlarged > AVERAGED))


if __name__ == "__main__":
    main()
