"""Networks that are published twice: as ONNX graphs, and as Keras weights for a network of ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recognition.errors import BadWeights, WeightsMissing
from recognition.runtime import Session
from recognition.spec import Resources
from recognition.weights import Weights, WeightsCache

RELEASES = (
    "https://github.com/serengil/deepface_models/releases/download/v1.0/",
    "https://huggingface.co/serengil/deepface/resolve/main/",
)
"""Where DeepFace's author publishes them."""

VERSION = 1
"""Of the conversion: raise it when the same weights would make another graph."""
TIMEOUT_S = 1800
EXTRA = "facesearch[keras]"


def released(name: str) -> tuple[str, ...]:
    """The addresses of a file of DeepFace's releases."""
    return tuple(folder + name for folder in RELEASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The graph takes (n, *shape) float32, and gives (n, values) first."""

    onnx: Weights
    keras: Weights
    network: str
    """`module:function` that makes the Keras network."""
    shape: tuple[int, int, int]
    """Height, width, channels."""

    def session(self, resources: Resources) -> Session:
        """Raises WeightsMissing, with what to do, and BadWeights."""
        path = self.graph(resources.weights)
        session = resources.runtime.session(path)
        if len(session.inputs) != 1 or session.shape[1:] != self.shape:
            raise BadWeights(
                f"{path} takes {session.shape}, not (n, height, width, channels) {self.shape}"
            )
        return session

    def graph(self, cache: WeightsCache) -> Path:
        """The published graph if it is there, else that of the Keras weights, else the graph from its addresses.

        Raises WeightsMissing, with what to do, and BadWeights.
        """
        if cache.present(self.onnx):
            return cache.path(self.onnx)
        if cache.present(self.keras):
            return self._converted(cache)
        try:
            return cache.path(self.onnx)
        except WeightsMissing as error:
            raise WeightsMissing(
                f"{error}. {self.keras.name} ({self.keras.source}) does as well, with {EXTRA} installed"
            ) from error

    def _converted(self, cache: WeightsCache) -> Path:
        source = cache.path(self.keras)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{Path(self.onnx.name).stem}_{digest[:12]}_{VERSION}.onnx"
        return cache.derived(name, [self.keras], lambda paths: self._convert(paths, cache.folder))

    def _convert(self, paths: Sequence[Path], folder: Path) -> bytes:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as scratch:
            target = Path(scratch) / "graph.onnx"
            command = [sys.executable, "-P", "-m", "recognition.keras", self.network]
            done = subprocess.run(
                [*command, str(paths[0]), str(target)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            if done.returncode == 0:
                return target.read_bytes()
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if done.returncode == 3:
            raise WeightsMissing(
                f"{paths[0].name} must be converted once, which takes Keras ({lines[-1]}): "
                f"install {EXTRA}, or put {self.onnx.name} into {folder} ({self.onnx.source})"
            )
        raise BadWeights(f"{paths[0]} cannot be converted: {lines[-1]}")
