"""What batches would bring: embeddings a second of networks on every core, in batches of several sizes.

    python -m benchmarks.batches [--seconds 4] [NETWORK ...]

Weights of the networks other than Dlib are made up (seed 0): they cost what real ones cost. Keras builds them,
by default on OpenVINO.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import say, this_machine
from benchmarks.timing import Rows, many
from indexer.settings import Settings
from indexer.weights import weights_cache
from recognition.pipeline import Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources

SIZES = (1, 2, 3, 4, 8, 16)
OWN = ("Dlib", "Dlib_int8")
BUILT = {
    "ArcFace": "recognition.models.arcface:network",
    "Facenet512": "recognition.models.facenet:network_512",
    "GhostFaceNet": "recognition.models.ghostfacenet:network",
    "OpenFace": "recognition.models.openface:network",
}

Work = Callable[[int], object]
"""Embeds so many faces in one run of the network."""


def own(name: str) -> Work:
    recognizer = Recognizer(Resources(weights_cache(Settings(), addresses=False), Runtime(1)))
    embedder = recognizer.embedder(name)
    chip = np.random.default_rng(0).integers(0, 256, (150, 150, 3)).astype(np.uint8)
    return lambda size: embedder.embed([chip] * size, "native", "base")


def built(name: str, folder: Path) -> Work:
    os.environ.setdefault("KERAS_BACKEND", "openvino")  # noqa: TID251 - Keras knows no other way
    import keras
    import onnx

    from recognition.keras import graph

    keras.utils.set_random_seed(0)
    path = folder / f"{name}.onnx"
    onnx.save(graph.write(pkgutil.resolve_name(BUILT[name])()), str(path))
    session = Runtime(1).session(path)
    shape = [side or 1 for side in session.shape[1:]]
    face = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return lambda size: session(np.repeat(face[None], size, axis=0))


def rate(work: Work, size: int, seconds: float, threads: int) -> float:
    """Faces a second of so many threads together."""

    def run(_: int) -> Rows:
        work(size)
        return ()

    run(0)
    return size * many(run, sys.maxsize, seconds, threads).per_second


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*OWN, *BUILT], metavar="NETWORK")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    say(f"{this_machine()}\n\n| network |" + "".join(f" {size} |" for size in SIZES))
    say("|---" * (len(SIZES) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            work = own(name) if name in OWN else built(name, Path(folder))
            rates = (rate(work, size, given.seconds, Settings().threads) for size in SIZES)
            say(f"| {name} |" + "".join(f" {each:.1f} |" for each in rates))


if __name__ == "__main__":
    main()
