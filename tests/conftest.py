"""Fixtures shared by all tests: real weights, real photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.settings import Settings, default_home
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import Resources
from recognition.weights import WeightsCache

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Development photographs that are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the development photographs are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def weights_cache() -> WeightsCache:
    """The machine's own weights cache, so that files are fetched once and not for every run."""
    return WeightsCache(Settings().weights_folder)


@pytest.fixture(scope="session")
def resources(weights_cache: WeightsCache) -> Resources:
    return Resources(weights=weights_cache, runtime=Runtime(threads=2))


@pytest.fixture(scope="session")
def portraits(weights_cache: WeightsCache) -> dict[str, bytes]:
    """File name -> JPEG bytes of the sample people."""
    paths = weights_cache.ensure([sample.weights for sample in SAMPLES])
    return {s.file: p.read_bytes() for s, p in zip(SAMPLES, paths, strict=True)}
