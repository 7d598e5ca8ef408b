"""A model of somebody's own, end to end: files put into a folder, commands, a server, and what happens without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.embedded import EmbeddedPostgres
from recognition.weights import WeightsCache
from tests import own_model
from tests.service.conftest import enrol, find, problem, running


class House:
    """A home with a database of its own, with a tree of people and models beside it."""

    def __init__(self, home: Path) -> None:
        self.home, self.models, self.tree = home, home / "models", home / "tree"

    def command(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "FACESEARCH_HOME": str(self.home)},
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr + done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.command(*arguments, "--json"))

    def people(self, photo: Path) -> list[str]:
        (face,) = self.json("find", str(photo), "--gallery", "own")["results"]
        return [match["identity"] for match in face["matches"]]


@pytest.fixture(scope="module")
def house(weights_cache: WeightsCache, photos: dict[str, bytes]) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="facesearch-own-"))
    folder.chmod(0o755)
    (folder / "weights").symlink_to(weights_cache.folder)
    made = House(folder)
    for person in ("obama", "biden"):
        (made.tree / person).mkdir(parents=True)
        (made.tree / person / "1.jpg").write_bytes(photos[person])
    own_model.write(made.models)
    own_model.write(made.models, "Spare")
    (made.models / "bad.toml").write_text('name = "Bad"\n')
    yield made
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_commands(house: House) -> None:
    rows = {row["name"]: row for row in house.json("models", "list")}
    assert rows["Tiny"]["dimension"] == own_model.DIMENSION
    assert rows["Tiny"]["available"]
    assert rows["Tiny"]["described_in"] == str(house.models / "tiny.toml")
    assert "licence: Field required" in rows["Bad"]["broken"]
    assert "Bad" in house.command("models", "list")
    checked = {
        row["file"]: row for row in json.loads(house.command("models", "check", "--json", code=1))
    }
    assert checked["bad.toml"]["state"] == "wrong"
    assert "licence: Field required" in checked["bad.toml"]["source"]
    assert checked["tiny.onnx"]["state"] == "valid"
    assert checked["tiny.onnx"]["used_by"] == ["Tiny"]
    first, second = (str(house.tree / name / "1.jpg") for name in ("obama", "biden"))
    verdict = house.json("verify", first, second, "--model", "tiny", "--threshold", "1e-6")
    assert (verdict["model"], verdict["verified"]) == ("Tiny", False)
    assert house.json("verify", first, first, "--model", "Tiny")["distance"] < 1e-6
    assert "no threshold" in house.command(
        "verify", first, first, "--model", "Tiny", "--metric", "euclidean", code=1
    )
    face = house.json("represent", first, "--model", "Tiny")
    assert len(face["results"][0]["embedding"]) == own_model.DIMENSION
    assert "bad.toml: licence: Field required" in house.command(
        "represent", first, "--model", "Bad", code=1
    )
    where = ("--gallery", "own")
    assert house.json("index", str(house.tree), *where, "--model", "Tiny")["counts"]["added"] == 2
    for person in ("obama", "biden"):
        assert house.people(house.tree / person / "1.jpg")[0] == person


def test_http(house: House, photos: dict[str, bytes], tmp_path: Path) -> None:
    with (
        running(house.home, tmp_path / "log", keep_uploads="true") as server,
        server.client() as client,
    ):
        assert "bad.toml: " in server.lines()
        listed = client.get("/models").json()
        tiny = {m["name"]: m for m in listed["models"]}["Tiny"]
        assert tiny["available"]
        assert tiny["thresholds"]["default"]["cosine"] == {
            "value": 0.2, "data": "made up", "accuracy": 0.75, "slope": 9.0,
        }  # fmt: skip
        assert {"angular", "euclidean_l2"} < set(tiny["thresholds"]["default"])
        assert [b["name"] for b in listed["broken"]] == ["Bad"]
        seen = _represent(client, photos["obama"], "tiny").json()
        assert (seen["model"], seen["dimensions"]) == ("Tiny", own_model.DIMENSION)
        refused = problem(_represent(client, photos["obama"], "Bad"), 503, "model-unavailable")
        assert "bad.toml: licence" in str(refused["detail"])
        problem(_represent(client, photos["obama"], "Nonesuch"), 422, "unknown-name")
        pair = client.post(
            "/verify",
            files={"img1": photos["obama"], "img2": photos["obama"]},
            data={"model_name": "Tiny", "distance_metric": "angular"},
        ).json()
        assert pair["verified"]
        enrolled = enrol(client, "own", "obama", photos["obama2"])
        assert enrolled.status_code == 201
        version = enrolled.json()["version"]
        (found,) = find(client, "own", photos["obama2"], min_version=version).json()["results"]
        assert found["matches"][0]["identity"] == "obama"
        _reindex(client, "Dlib")
        assert _found(client, photos["obama"])["model"] == "Dlib"
        _reindex(client, "Tiny")
        assert _found(client, photos["obama"])["model"] == "Tiny"
        problem(find(client, "own", photos["obama"], model_name="Spare"), 409, "conflict")


def test_other_content_under_the_same_name(
    house: House, photos: dict[str, bytes], tmp_path: Path
) -> None:
    own_model.write(house.models, seed=2)
    probe = house.tree / "obama" / "1.jpg"
    with running(house.home, tmp_path / "log") as server, server.client() as client:
        told = problem(find(client, "own", photos["obama"]), 503, "model-unavailable")
        assert "tiny.toml" in str(told["detail"])
        assert "reindex" in str(told["detail"])
        problem(enrol(client, "own", "biden", photos["biden"]), 503, "model-unavailable")
        assert "tiny.toml" in house.command("find", str(probe), "--gallery", "own", code=1)
        assert "facesearch reindex" in house.command(
            "index", str(house.tree), "--gallery", "own", code=1
        )
        moved = house.json("reindex", "--gallery", "own", "--model", "Tiny")
        assert moved["counts"]["embedded"] == 3
        (found,) = _found(client, photos["obama"])["results"]
        assert found["matches"][0]["identity"] == "obama"
        assert found["matches"][0]["distance"] < 1e-6
    spaces = [row for row in house.json("spaces", "list") if row["recipe"].startswith("Tiny")]
    assert len(spaces) == 2


def test_without_the_file(house: House, photos: dict[str, bytes], tmp_path: Path) -> None:
    (house.models / "tiny.toml").unlink()
    with running(house.home, tmp_path / "log") as server, server.client() as client:
        told = problem(find(client, "own", photos["obama"]), 503, "model-unavailable")
        assert str(house.models) in str(told["detail"])
        assert client.get("/galleries/own").status_code == 200
        problem(enrol(client, "own", "biden", photos["biden"]), 503, "model-unavailable")
        assert _represent(client, photos["obama"], "Dlib").status_code == 200
    assert str(house.models) in house.command(
        "find", str(house.tree / "obama" / "1.jpg"), "--gallery", "own", code=1
    )


def test_a_default_model_that_is_not_there(
    house: House, photos: dict[str, bytes], tmp_path: Path
) -> None:
    with (
        running(house.home, tmp_path / "log", "/healthz", model="Bad") as server,
        server.client() as client,
    ):
        checks: dict[str, Any] = problem(client.get("/readyz"), 503, "not-ready")
        deadline = time.monotonic() + 20
        while checks["checks"]["weights"]["detail"] == "loading" and time.monotonic() < deadline:
            time.sleep(0.2)
            checks = problem(client.get("/readyz"), 503, "not-ready")
        assert "bad.toml" in checks["checks"]["weights"]["detail"]
        told = problem(
            client.post("/represent", files={"img": photos["obama"]}), 503, "model-unavailable"
        )
        assert "bad.toml" in str(told["detail"])
        assert _represent(client, photos["obama"], "Dlib").status_code == 200


def _represent(client: httpx.Client, image: bytes, model: str) -> httpx.Response:
    return client.post("/represent", files={"img": image}, data={"model_name": model})


def _found(client: httpx.Client, image: bytes) -> Any:
    """The first search after a move may be told to try again."""
    answer = find(client, "own", image)
    if answer.status_code == httpx.codes.CONFLICT:
        answer = find(client, "own", image)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _reindex(client: httpx.Client, model: str) -> None:
    asked = {"gallery": "own", "model_name": model}
    job = client.post("/admin/reindex", json=asked).json()["job_id"]
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        state = client.get(f"/jobs/{job}").json()
        if state["state"] in ("done", "failed", "cancelled"):
            assert state["state"] == "done", state
            return
        time.sleep(0.2)
    pytest.fail(f"the job did not end: {state}")
