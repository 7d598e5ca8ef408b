"""Galleries of the sample people, and archives of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer import moving, runs
from indexer.commands import Tools
from indexer.enrol import Enroller, Extractor
from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.pipeline import Recognizer
from tests.indexer.conftest import RECIPE, write_tree


@pytest.fixture
def tools(settings: Settings, recognizer: Recognizer, database: Database) -> Tools:
    return Tools(settings, recognizer, database)


@pytest.fixture
def tree(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/deep/2.jpg": photos["obama2"],
            "Joe Ünïcode/1.jpg": photos["biden"],
            "nobody/1.png": photos["nobody"],
            "x/bad.jpg": b"no",
        },
    )


@pytest.fixture
def full(tools: Tools, gallery: str, tree: Path, photos: dict[str, bytes]) -> str:
    """A gallery of crawled and uploaded photographs, one of them kept, with metadata."""
    runs.index(tools, tree, RECIPE, runs.Order(gallery, 20, quiet=True))
    keeping = tools.settings.model_copy(update={"keep_uploads": True})
    enroller = Enroller(tools.database, Extractor(tools.recognizer, keeping), keeping)
    enroller.enrol(gallery, "Joe Ünïcode", [photos["biden_dark"]])
    return gallery


@pytest.fixture
def archive(tools: Tools, full: str, tmp_path: Path) -> Path:
    path = tmp_path / "gallery"
    moving.export(tools, full, path, quiet=True)
    return path
