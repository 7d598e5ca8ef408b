"""Hostile bytes for everything that reads files: what was found before, and some mutations of valid files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzzing.material import damaged
from fuzzing.readers import READERS, check
from recognition.weights import WeightsCache

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 60


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_was_found(file: Path) -> None:
    check(READERS[file.name.partition("-")[0]], file.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_mutations(name: str, weights_cache: WeightsCache) -> None:
    reader, dice = READERS[name], random.Random(name)
    seeds = reader.seeds(weights_cache)
    assert seeds
    for _ in range(MUTATIONS):
        check(reader, damaged(dice.choice(seeds), dice))
    check(reader, b"")
    check(reader, dice.randbytes(500))


@pytest.mark.parametrize(
    "name", sorted(set(READERS) - {"dlib", "dlib points", "archive", "mtcnn", "xception"})
)
def test_what_a_reader_takes(name: str, weights_cache: WeightsCache) -> None:
    """Of the seeds that are whole files, so that mutations begin behind the first check."""
    for seed in READERS[name].seeds(weights_cache):
        READERS[name].read(seed)
