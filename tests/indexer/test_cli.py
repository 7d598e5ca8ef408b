"""The commands as a person runs them: processes, exit codes, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from indexer.settings import Settings
from indexer.store.engine import MIGRATIONS
from tests.indexer.conftest import write_tree

HEAD = ScriptDirectory(str(MIGRATIONS)).get_current_head()


class Command:
    def __init__(self, settings: Settings, gallery: str) -> None:
        self.environment = {**os.environ, "FACESEARCH_HOME": str(settings.home)}
        self.gallery = gallery

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", *arguments],
            capture_output=True,
            text=True,
            env=self.environment | more,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str, **more: str) -> object:
        return json.loads(self(*arguments, "--json", **more))


@pytest.fixture
def run(settings: Settings, gallery: str) -> Command:
    return Command(settings, gallery)


@pytest.fixture
def tree(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "people",
        {"Barack/1.jpg": photos["obama1"], "Joe/1.jpg": photos["biden"], "x/bad.jpg": b"no"},
    )


def test_index_find_list_delete(
    run: Command, tree: Path, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    where = ("--gallery", run.gallery)
    plan = run.json("index", str(tree), "--dry-run", *where)
    assert plan["counts"]["new"] == 3  # type: ignore[index]
    done = run.json("index", str(tree), *where)
    assert done["counts"]["added"] == 2  # type: ignore[index]
    assert [e["path"] for e in done["errors"]] == ["x/bad.jpg"]  # type: ignore[index]
    probe = tmp_path / "probe.jpg"
    probe.write_bytes(photos["obama3"])
    found = run.json("find", str(probe), *where)
    assert [m["identity"] for m in found["results"][0]["matches"]] == ["Barack"]  # type: ignore[index]
    assert "Barack" in run("find", str(probe), *where)
    people = run.json("identities", "list", *where)
    assert {p["identity"]: p["faces"] for p in people} == {"Barack": 1, "Joe": 1, "x": 0}  # type: ignore[union-attr]
    assert "already" not in run("identities", "delete", "Joe", "--yes", *where)
    assert len(run.json("identities", "list", *where)) == 2  # type: ignore[arg-type]
    assert run.gallery in str(run.json("galleries", "list"))
    run("galleries", "delete", run.gallery, "--yes")
    assert run.gallery not in str(run.json("galleries", "list"))


def test_reindex(run: Command, tree: Path) -> None:
    where = ("--gallery", run.gallery)
    run("index", str(tree), *where)
    assert "facesearch reindex" in run("index", str(tree), "--detector", "mtcnn", *where, code=1)
    done = run.json("reindex", "--model", "Dlib", "--detector", "mtcnn", "--drop-old", *where)
    assert done["counts"] == {"embedded": 2, "dropped": 2}  # type: ignore[index]
    rows = {g["gallery"]: g["space"] for g in run.json("galleries", "list")}  # type: ignore[union-attr]
    assert rows[run.gallery] == "Dlib + mtcnn (align native, base)"


def test_an_interrupted_run_says_so_and_carries_on(
    run: Command, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    tree = write_tree(
        tmp_path / "many", {f"P{n}/1.jpg": photos["biden"] + bytes([n]) for n in range(200)}
    )
    command = [sys.executable, "-m", "indexer.cli", "index", str(tree), "--gallery", run.gallery]
    process = subprocess.Popen(
        command, env=run.environment, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    assert process.stderr is not None
    while "indexing" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 1
    assert "run it again to carry on" in rest
    assert "Traceback" not in rest
    counts = run.json("index", str(tree), "--gallery", run.gallery)["counts"]  # type: ignore[index]
    assert counts["unchanged"] % 32 == 0, "batches are whole"
    assert counts["unchanged"] + counts["added"] == 200


def test_images_on_the_command_line(run: Command, tree: Path) -> None:
    a, b = str(tree / "Barack/1.jpg"), str(tree / "Joe/1.jpg")
    assert run.json("verify", a, a)["verified"] is True  # type: ignore[index]
    assert "LFW" in run.json("verify", a, a)["confidence_from"]  # type: ignore[index]
    assert run.json("verify", a, b)["verified"] is False  # type: ignore[index]
    assert len(run.json("represent", a)["results"][0]["embedding"]) == 128  # type: ignore[index]
    assert set(run.json("analyze", a)["results"][0]) >= {"age", "gender", "emotion"}  # type: ignore[index]
    assert run.json("extract", a)["results"][0]["facial_area"]["w"] > 50  # type: ignore[index]


def test_spoofs_on_the_command_line(
    run: Command, tree: Path, tmp_path: Path, spoof_home: Path, cut_outs: dict[str, bytes]
) -> None:
    run("index", str(tree), "--gallery", run.gallery)
    settings = {
        "FACESEARCH_DATABASE_URL": run("db", "url").strip(),
        "FACESEARCH_HOME": str(spoof_home),
    }
    live, spoof = str(tree / "Barack/1.jpg"), str(tmp_path / "spoof.jpg")
    Path(spoof).write_bytes(cut_outs["obama.jpg"])
    for image, is_real in ((live, True), (spoof, False)):
        (face,) = run.json("extract", image, "--anti-spoofing", **settings)["results"]  # type: ignore[index]
        assert face["is_real"] is is_real
        assert 0.9 < face["antispoof_score"] <= 1
    assert "is_real" not in run("extract", live, "--json", **settings)
    where = ("--gallery", run.gallery)
    for command in (("represent",), ("analyze",), ("verify", live), ("find", *where)):
        assert run(*command, live, "--anti-spoofing", **settings)
        says = run(*command, spoof, "--anti-spoofing", code=1, **settings)
        assert "spoof.jpg looks like a picture" in says
    says = run("extract", live, "--anti-spoofing", "--detector", "skip", code=1, **settings)
    assert "skip" in says


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("find", "/nowhere.jpg", "--gallery", "nonesuch"), 1, "no gallery"),
        (("verify", "/nowhere.jpg", "/nowhere.jpg"), 1, "cannot be read"),
        (("index", "/nowhere"), 1, "cannot be read"),
        (("evaluate", "/nowhere.csv"), 1, "cannot be read"),
        (("evaluate", "/nowhere.csv", "--align", "else"), 2, "--align"),
        (("identities", "list", "--gallery", "nonesuch"), 1, "no gallery"),
        (("reindex", "--model", "nonesuch"), 1, "unknown model"),
        (("models", "pull", "nonesuch"), 1, "unknown"),
        (("index",), 2, "Missing argument"),
        (("find", "x.jpg", "-k", "0"), 2, "-k"),
        (("nonesuch",), 2, "No such command"),
    ],
)
def test_mistakes(run: Command, arguments: tuple[str, ...], code: int, says: str) -> None:
    assert says in run(*arguments, code=code)


def test_an_undecodable_image(run: Command, tree: Path) -> None:
    assert "not an image" in run("extract", str(tree / "x/bad.jpg"), code=1)


def test_missing_weights_say_what_to_put_where(run: Command, tree: Path, tmp_path: Path) -> None:
    says = run(
        "represent", str(tree / "Joe/1.jpg"), code=1,
        FACESEARCH_HOME=str(tmp_path), FACESEARCH_DOWNLOADS="false",
    )  # fmt: skip
    assert "sha256" in says
    assert str(tmp_path / "weights") in says


def test_an_unreachable_database(run: Command) -> None:
    says = run(
        "galleries", "list", code=1,
        FACESEARCH_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing",
    )  # fmt: skip
    assert "cannot be reached" in says


def test_models_and_database_commands(run: Command, settings: Settings) -> None:
    models = {row["name"]: row for row in run.json("models", "list")}  # type: ignore[union-attr]
    assert {"Dlib", "mediapipe", "mtcnn", "opencv", "dlib", "skip", "age", "Fasnet"} <= set(models)
    assert all(row["state"] in ("valid", "missing") for row in run.json("models", "check"))  # type: ignore[union-attr]
    assert run.json("db", "start")["running"] is True  # type: ignore[index]
    assert run.json("db", "status")["revision"] == HEAD  # type: ignore[index]
    assert run.json("db", "upgrade") == {"revision": HEAD}
    assert settings.home.name in run("db", "url")
    assert all(row["ok"] for row in run.json("doctor"))  # type: ignore[union-attr]


def test_an_external_server_is_used(run: Command, settings: Settings) -> None:
    """Another name for the embedded server stands for a server of one's own."""
    url = run("db", "url").strip()
    status = run.json("db", "status", FACESEARCH_DATABASE_URL=url, FACESEARCH_HOME="/nonexistent")
    assert status == {"kind": "external", "running": True, "revision": HEAD}
    says = run("db", "stop", code=1, FACESEARCH_DATABASE_URL=url)
    assert "FACESEARCH_DATABASE_URL" in says


def test_help_is_quick_because_it_imports_little(run: Command) -> None:
    code = (
        "import sys; from indexer.cli import main;"
        "heavy = {'numpy', 'sqlalchemy', 'faiss', 'cv2', 'onnxruntime', 'fastapi', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
