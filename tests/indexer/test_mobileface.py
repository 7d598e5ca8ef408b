"""The worked example of docs/bring-your-own-model.md with its real network, where that is on the machine."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexer import own_models
from recognition.images import ImageLimits, decode
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.types import Embeddings
from recognition.verification import compare
from recognition.weights import WeightsCache

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own-model.md"
NETWORK = "mobileface_V2.converted.onnx"
EVERY = 15
"""Of the pairs, to be quick."""


@pytest.fixture
def recognizer(shared_data: Path, tmp_path: Path, weights_cache: WeightsCache) -> Recognizer:
    network = shared_data / "weights" / NETWORK
    if not network.is_file():
        pytest.skip("MobileFace is not on this machine")
    (example,) = re.findall(
        r"```toml\n(# mobileface\.toml\n.*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    (tmp_path / "mobileface.toml").write_text(example)
    shutil.copy(network, tmp_path / NETWORK)
    models = own_models.load(tmp_path)
    assert models.broken == ()
    return Recognizer(Resources(weights=weights_cache, runtime=Runtime(2)), models)


def test_pairs_are_told_apart(recognizer: Recognizer, shared_data: Path) -> None:
    spec = recognizer.models.named("MobileFace")
    recipe = Recipe.usual(spec, "mediapipe")
    own = spec.threshold("mediapipe", "cosine")
    with (shared_data / "lfw_pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))[::EVERY]

    def embed(file: str) -> Embeddings:
        image = decode((shared_data / "faces" / file).read_bytes(), ImageLimits())
        (faces,) = recognizer.represent([image], recipe, Selection())
        return recognizer.embeddings(faces, recipe)

    right = [
        compare(embed(p["file_a"]), embed(p["file_b"]), own).verified == (p["same"] == "1")
        for p in pairs
    ]
    assert np.mean(right) >= 0.975, f"{len(right) - sum(right)} of {len(right)} pairs are wrong"
