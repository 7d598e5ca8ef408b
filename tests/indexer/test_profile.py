"""Where the time goes, as the command tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from indexer.cli import main
from recognition.idle import IdleCores
from recognition.images import ImageLimits
from recognition.pipeline import Recognizer, Selection
from recognition.spec import Resources
from recognition.stages import Stage
from tests.indexer.conftest import RECIPE

LIMITS = ImageLimits()


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    for name in ("obama1", "biden"):
        (tmp_path / f"{name}.jpg").write_bytes(photos[name])
    return tmp_path


def test_profile(folder: Path, home: Path) -> None:
    (folder / "damaged.jpg").write_bytes(b"no image")
    told = CliRunner(env={"FACESEARCH_HOME": str(home)}).invoke(
        main, ["profile", str(folder), "--rounds", "2", "--json"]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["images"], found["unusable"], found["faces"]) == (6, 2, 4)
    stages = [row["stage"] for row in found["stages"]]
    assert stages == ["read", "decode", "detect", "align", "embed", "serialize"]
    assert sum(row["share_percent"] for row in found["stages"]) == pytest.approx(100, abs=0.5)
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in found["stages"])


def test_nothing_to_profile(tmp_path: Path, home: Path) -> None:
    for name in ("a.txt", "a.jpg"):
        (tmp_path / name).write_text("no image")
        told = CliRunner(env={"FACESEARCH_HOME": str(home)}).invoke(
            main, ["profile", str(tmp_path)]
        )
        assert told.exit_code == 1
        assert "images" in told.stderr


def test_half_of_the_work_on_an_idle_core(
    recognizer: Recognizer, resources: Resources, photos: dict[str, bytes]
) -> None:
    seen: list[Stage] = []
    idle = Recognizer(
        replace(resources, idle=IdleCores(lambda: 1)), observe=lambda stage, _: seen.append(stage)
    )
    rows = []
    for each in (recognizer, idle):
        image = each.decode(photos["obama1"], LIMITS)
        (faces,) = each.represent([image], RECIPE, Selection())
        rows.append(each.embeddings(faces, RECIPE))
    assert np.abs(rows[0] - rows[1]).max() < 1e-6
    assert seen == ["decode", "detect", "align", "embed"]
