"""A real database, and trees made of the sample people."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.pipeline import Recipe, Recognizer
from recognition.runtime import Runtime
from recognition.spec import Resources
from recognition.weights import WeightsCache

RECIPE = Recipe("Dlib", "mediapipe")


@pytest.fixture(scope="session")
def database(settings: Settings) -> Iterator[Database]:
    opened = Database.open(settings)
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def recognizer(weights_cache: WeightsCache) -> Recognizer:
    return Recognizer(Resources(weights=weights_cache, runtime=Runtime(threads=1)))


@pytest.fixture
def recipe() -> Recipe:
    return RECIPE


@pytest.fixture
def gallery(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return request.node.nodeid.replace("/", ".")[-200:]


def variant(jpeg: bytes, brightness: float) -> bytes:
    """The same photograph, smaller and lighter or darker: another file of the same person."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((480, 480))
    out = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(brightness).save(out, "JPEG", quality=92)
    return out.getvalue()


@pytest.fixture(scope="session")
def photos(portraits: dict[str, bytes]) -> dict[str, bytes]:
    """Small files: two photographs of one man, one of another, and one of nobody."""
    nobody = io.BytesIO()
    Image.new("RGB", (200, 200), (255, 255, 255)).save(nobody, "PNG")
    return {
        "obama1": variant(portraits["obama.jpg"], 1.0),
        "obama2": variant(portraits["obama2.jpg"], 1.0),
        "obama3": variant(portraits["obama3.jpg"], 1.0),
        "biden": variant(portraits["biden.jpg"], 1.0),
        "biden_dark": variant(portraits["biden.jpg"], 0.7),
        "nobody": nobody.getvalue(),
    }


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for locator, data in files.items():
        path = root / locator
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
