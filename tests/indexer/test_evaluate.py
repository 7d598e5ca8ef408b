"""Labelled files, distances of pairs, and the command from end to end."""

from __future__ import annotations

import json
import sys
import tomllib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import commands, labelled, report
from indexer.cli import main
from indexer.evaluate import Evaluator, pair_distances
from indexer.labelled import CannotEvaluate
from indexer.progress import Silent
from indexer.settings import Settings
from recognition.images import ImageLimits, decode
from recognition.metrics import distances
from recognition.pipeline import Recipe, Recognizer, Selection
from recognition.types import ALIGNS, METRICS, Align
from tests.indexer.conftest import write_tree

RECIPE = Recipe("Dlib", "mediapipe")


@pytest.fixture
def people(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/2.jpg": photos["obama2"],
            "Barack/later/3.jpg": photos["obama3"],
            "Joe/1.jpg": photos["biden"],
            "Joe/2.jpg": photos["biden_dark"],
            "Nobody/1.png": photos["nobody"],
            "Nobody/2.jpg": b"no image",
        },
    )


@pytest.fixture
def pairs(people: Path) -> Path:
    """DeepFace's form, with its line ends."""
    lines = [
        "file_x,file_y,Decision",
        "Barack/1.jpg,Barack/2.jpg,Yes",
        "Barack/1.jpg,Barack/later/3.jpg,Yes",
        "Joe/1.jpg,Joe/2.jpg,Yes",
        "Barack/1.jpg,Joe/1.jpg,No",
        "Barack/2.jpg,Joe/2.jpg,No",
        "Barack/2.jpg,Nobody/1.png,No",
    ]
    path = people / "master.csv"
    path.write_bytes("\r\n".join(lines).encode() + b"\r\n")
    return path


def tools(recognizer: Recognizer, settings: Settings) -> commands.Tools:
    return commands.Tools(settings, recognizer, None)


def test_the_smallest_distance_over_all_faces() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 8)).astype(np.float32) for n in (1, 3, 0, 2, 1)]
    pairs = np.array(list(combinations(range(5), 2)))
    for metric in METRICS:
        found = pair_distances(rows, pairs, metric)
        for (a, b), value in zip(pairs, found, strict=True):
            none = len(rows[a]) == 0 or len(rows[b]) == 0
            wanted = np.inf if none else distances(rows[a], rows[b], metric).min()
            assert value == pytest.approx(wanted, abs=1e-6), (a, b)


def test_parts_do_not_change_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n % 4, 8)).astype(np.float32) for n in range(1, 20)]
    pairs = np.array(list(combinations(range(19), 2)))
    whole = pair_distances(rows, pairs, "cosine")
    monkeypatch.setattr("indexer.evaluate.CHUNK", 5)
    assert np.array_equal(pair_distances(rows, pairs, "cosine"), whole)


def test_a_file_of_pairs_in_both_forms(people: Path, pairs: Path) -> None:
    found = labelled.read(pairs, None)
    assert found.same.tolist() == [True] * 3 + [False] * 3
    assert found.folds.origin == "made"
    assert found.folds.number == 3
    assert found.owners is not None
    assert len(np.unique(found.owners)) == 3
    other = people / "with_folds.csv"
    other.write_text(
        "fold,file_a,file_b,same\na,Barack/1.jpg,Barack/2.jpg,1\nb,Joe/1.jpg,Barack/2.jpg,0\n"
    )
    found = labelled.read(other, people)
    assert found.same.tolist() == [True, False]
    assert found.fold_of.tolist() == [0, 1]
    assert found.folds == labelled.Folds(2, "file", False, "the file has 2 folds; all were used")


def test_people_that_the_paths_do_not_tell(tmp_path: Path, people: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "file_a,file_b,same\npeople/Joe/1.jpg,people/Joe/2.jpg,1\npeople/Joe/1.jpg,people/Barack/1.jpg,0\n"
    )
    assert labelled.read(path, None).owners is not None, "by the last folder"
    path.write_text("file_a,file_b,same\nJoe/1.jpg,Barack/1.jpg,1\nJoe/1.jpg,Joe/2.jpg,0\n")
    found = labelled.read(path, people)
    assert found.owners is None, "the answers contradict the folders"
    assert found.people.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "other columns"),
        ("file_a,file_b,same\n", "no pairs"),
        ("file_a,file_b,same\nx,y,perhaps\n", "line 2"),
        ("file_a,file_b,same\nx,y,1\n", "one kind only"),
        ("file_a,file_b,same\nx,y,1\nx,z,0\n", "--root"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(CannotEvaluate, match=says):
        labelled.read(path, None)


def test_a_folder_of_people(people: Path) -> None:
    found = labelled.read(people, None)
    assert found.files[2] == "Barack/later/3.jpg"
    assert found.same.sum() == 3 + 1 + 1
    assert len(found.pairs) == 7 * 6 // 2
    assert found.folds.number == 1
    with pytest.raises(CannotEvaluate, match="--root"):
        labelled.read(people, people)
    with pytest.raises(CannotEvaluate, match="two photographs"):
        labelled.read(people / "Joe", None)


def test_the_folder_measured(people: Path, recognizer: Recognizer, settings: Settings) -> None:
    asked = commands.Asked(people, metrics=("cosine", "cosine"), failures=True)
    found = commands.evaluate(tools(recognizer, settings), asked, RECIPE, quiet=True)
    assert list(found["metrics"]) == ["cosine"]
    assert found["detection"] == {"found": 5, "no_face": 1, "unreadable": 1, "missing": 0}
    assert {f["file"]: f["reason"] for f in found["failures"]} == {
        "Nobody/1.png": "no_face",
        "Nobody/2.jpg": "unreadable",
    }
    cosine = found["metrics"]["cosine"]
    # Of five pairs of one person the one without faces is answered no; of 16 pairs of strangers none yes.
    assert cosine["own"]["wrong"] == 1
    assert cosine["own"]["accuracy"] == pytest.approx((4 / 5 + 1) / 2)
    assert cosine["own"]["calibration"]["pairs"] == 10
    assert "LFW" in cosine["own"]["data"]
    assert cosine["held_out"] is None
    assert found["identification"] == {"enrolled": 2, "probes": 3, "reason": None}
    assert (cosine["ranks"]["rank_1"], cosine["ranks"]["rank_5"]) == (1.0, None)
    assert [t["tar"] for t in cosine["tar_at_far"]] == [None, None, None]
    assert "16 pairs of strangers" in cosine["tar_at_far"][0]["reason"]
    assert all(found["milliseconds"][stage] > 0 for stage in ("decode", "detect", "align", "embed"))


def test_the_pairs_measured(pairs: Path, recognizer: Recognizer, settings: Settings) -> None:
    found = commands.evaluate(
        tools(recognizer, settings), commands.Asked(pairs), RECIPE, quiet=True
    )
    assert "failures" not in found
    assert "Nobody" not in json.dumps(found), "names only on request"
    for metric in METRICS:
        one = found["metrics"][metric]
        assert one["best"]["wrong"] == 0
        assert one["own"]["wrong"] == 0
        assert len(one["held_out"]["folds"]) == 3
    spec = tomllib.loads(found["spec"])["thresholds"]
    assert set(spec) == set(METRICS)
    assert set(spec["cosine"]) == {"value", "accuracy", "slope", "data"}
    assert spec["cosine"]["data"] == "master.csv, 6 pairs, mediapipe"
    assert spec["cosine"]["accuracy"] == 1.0
    best = found["metrics"]["cosine"]["best"]
    assert spec["cosine"]["value"] == pytest.approx(best["threshold"], rel=1e-3)


@pytest.mark.parametrize("align", ALIGNS)
def test_faces_are_those_of_every_other_command(
    align: Align, people: Path, photos: dict[str, bytes], recognizer: Recognizer, settings: Settings
) -> None:
    recipe = Recipe("Dlib", "opencv", align)
    seen = Evaluator(recognizer, settings).look(labelled.read(people, None), recipe, Silent())
    wanted = recognizer.represent([decode(photos["obama1"], ImageLimits())], recipe, Selection())[0]
    assert len(seen[0].rows) == len(wanted) > 0
    assert seen[0].rows == pytest.approx(recognizer.embeddings(wanted, recipe), abs=1e-5)


def test_thresholds_that_nobody_measured_have_no_confidence(
    pairs: Path, recognizer: Recognizer, settings: Settings
) -> None:
    asked = commands.Asked(pairs, align="deepface", metrics=("cosine",))
    found = commands.evaluate(tools(recognizer, settings), asked, RECIPE, quiet=True)
    own = found["metrics"]["cosine"]["own"]
    assert (own["threshold"], own["slope"], own["calibration"]) == (0.07, None, None)
    assert "DeepFace" in own["data"]
    assert found["recipe"]["align"] == "deepface"
    assert "align deepface" in tomllib.loads(found["spec"])["thresholds"]["cosine"]["data"]
    (row,) = dict(report.tables(found))[report.CONFIDENCE]
    assert row["spec's slope"] == "-"


def test_the_command_writes_tables_json_and_plots(
    pairs: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("FACESEARCH_HOME", str(settings.home))
    output = tmp_path / "out"
    run = CliRunner()
    done = run.invoke(main, ["evaluate", str(pairs), "--metric", "cosine", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "master.csv: Dlib + mediapipe (align native)" in done.output
    assert "[thresholds.cosine]" in done.output
    assert "FAR 0.0001: - (3 pairs of strangers; at least 10,000 are needed)." in done.output
    for name in ("roc.png", "distances_cosine.png"):
        with Image.open(output / name) as image:
            assert image.format == "PNG"
            assert image.width > 500
            assert len(image.convert("RGB").getcolors(2**20) or []) > 10, "something is drawn"
    found = json.loads((output / "evaluation.json").read_text())
    assert found["metrics"]["cosine"]["roc"]["tar"][-1] == 1.0
    assert "## Verification" in (output / "evaluation.md").read_text()
    assert "cosine" in tomllib.loads((output / "thresholds.toml").read_text())["thresholds"]


def test_without_the_library_that_draws(
    pairs: Path,
    tmp_path: Path,
    recognizer: Recognizer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = commands.Asked(pairs, metrics=("cosine",), output=tmp_path / "out")
    found = commands.evaluate(tools(recognizer, settings), asked, RECIPE, quiet=True)
    assert "pip install 'facesearch[evaluate]'" in found["no_plots"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(found["written"])
    assert "evaluation.json" in found["written"]


def test_nothing_but_files_without_faces(
    people: Path, recognizer: Recognizer, settings: Settings, photos: dict[str, bytes]
) -> None:
    tree = write_tree(
        people / "empty",
        {"A/1.png": photos["nobody"], "A/2.png": photos["nobody"], "B/1.png": photos["nobody"]},
    )
    with pytest.raises(CannotEvaluate, match="no_face"):
        commands.evaluate(tools(recognizer, settings), commands.Asked(tree), RECIPE, quiet=True)
