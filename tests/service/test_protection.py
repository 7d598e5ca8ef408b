"""Galleries whose embeddings are stored turned by a secret, as clients, the operator and a thief see them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from indexer.embedded import EmbeddedPostgres
from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.weights import WeightsCache
from tests.service.conftest import Server, enrol, find, problem, running


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


class House:
    """A home of its own with a file of keys."""

    def __init__(self, home: Path) -> None:
        self.home, self.keys = home, home / "keys"
        self.keys.write_text(new_key() + "\n")

    def command(self, *arguments: str, key: bool = True, code: int = 0) -> str:
        told = {"FACESEARCH_HOME": str(self.home)}
        if key:
            told["FACESEARCH_TEMPLATE_KEY_FILE"] = str(self.keys)
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **told},
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def people(self, photo: Path, gallery: str) -> list[str]:
        found = json.loads(self.command("find", str(photo), "--gallery", gallery, "--json"))
        return [match["identity"] for match in found["results"][0]["matches"]]

    def stored(self, gallery: str) -> np.ndarray:
        """The embeddings as they lie in the database."""
        query = (
            "SELECT e.vec::text FROM embedding e JOIN gallery g ON g.id = e.gallery_id"
            " WHERE g.name = :name AND e.space_id = g.active_space_id ORDER BY e.face_id"
        )
        return np.array([json.loads(row) for row in self.ask(query, name=gallery)])

    def originals(self) -> list[bytes]:
        return [bytes(row) for row in self.ask("SELECT data FROM original ORDER BY image_id")]

    def ask(self, query: str, **values: object) -> list[Any]:
        database = Database.open(Settings(home=self.home))
        try:
            with database.read() as connection:
                return list(connection.scalars(text(query), values))
        finally:
            database.close()


@pytest.fixture(scope="module")
def house(weights_cache: WeightsCache) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="facesearch-kept-"))
    folder.chmod(0o755)
    (folder / "weights").symlink_to(weights_cache.folder)
    yield House(folder)
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def plain(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server without a key, which has made the gallery `open`."""
    log = tmp_path_factory.mktemp("plain") / "log"
    with running(house.home, log, keep_uploads="true") as server, server.client() as client:
        yield client


@pytest.fixture(scope="module")
def server(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("keyed") / "log"
    keys = str(house.keys)
    with running(house.home, log, keep_uploads="true", template_key_file=keys) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server, plain: httpx.Client, photos: dict[str, bytes]) -> Iterator[httpx.Client]:
    """Of a server with the key; it has made the galleries `one` and `two`."""
    plain.put("/galleries/open")
    assert enrol(plain, "open", "obama", photos["obama"]).status_code == 201
    with server.client() as opened:
        for gallery in ("one", "two"):
            assert opened.put(f"/galleries/{gallery}").status_code == 201
            for person in ("obama", "biden"):
                assert enrol(opened, gallery, person, photos[person]).status_code == 201
        yield opened


def embedding(client: httpx.Client, image: bytes) -> np.ndarray:
    (face,) = client.post("/represent", files={"img": image}).json()["results"]
    return np.array(face["embedding"])


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def nearest(client: httpx.Client, gallery: str, image: bytes, **fields: object) -> dict[str, Any]:
    answer = find(client, gallery, image, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["matches"][0]


def test_what_lies_in_the_database(
    house: House, client: httpx.Client, photos: dict[str, bytes]
) -> None:
    seen = embedding(client, photos["obama"])
    assert alike(house.stored("open")[0], seen) > 0.9999
    one, two = house.stored("one"), house.stored("two")
    for rows in (one, two):
        assert abs(alike(rows[0], seen)) < 0.5
    assert abs(alike(one[0], two[0])) < 0.5
    assert alike(one[0], one[1]) == pytest.approx(alike(two[0], two[1]), abs=1e-6)
    first, *others = house.originals()
    assert first == photos["obama"]
    assert len(others) == 4
    assert all(not data.startswith(b"\xff\xd8") for data in others)
    assert client.get("/galleries/one").json()["protected"] is True
    assert client.get("/galleries/open").json()["protected"] is False


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "euclidean_l2", "angular"])
@pytest.mark.parametrize("scoring", [{}, {"score_by": "mean"}, {"score_by": "centroid"}])
def test_the_same_answers(
    client: httpx.Client, photos: dict[str, bytes], metric: str, scoring: dict[str, str]
) -> None:
    asked = {"distance_metric": metric, "threshold": 9, **scoring}
    found = [nearest(client, g, photos["obama2"], **asked) for g in ("open", "one", "two")]
    assert {match["identity"] for match in found} == {"obama"}
    distances = [match["distance"] for match in found]
    assert distances == pytest.approx([distances[0]] * 3, abs=2e-6)


def test_verify(client: httpx.Client, photos: dict[str, bytes]) -> None:
    def ask(gallery: str, identity: str) -> dict[str, Any]:
        data = {"gallery": gallery, "identity": identity}
        return client.post("/verify", files={"img": photos["obama2"]}, data=data).json()

    assert ask("one", "obama")["verified"] is True
    assert ask("one", "biden")["verified"] is False
    there = ask("open", "obama")["distance"]
    assert ask("one", "obama")["distance"] == pytest.approx(there, abs=1e-6)


def test_without_the_key(
    plain: httpx.Client, client: httpx.Client, house: House, photos: dict[str, bytes]
) -> None:
    assert client.get("/readyz").status_code == 200
    told = problem(find(plain, "one", photos["obama"]), 503, "template-key-missing")
    assert "FACESEARCH_TEMPLATE_KEY_FILE" in str(told["detail"])
    problem(enrol(plain, "one", "ada", photos["obama3"]), 503, "template-key-missing")
    asked = {"gallery": "one", "identity": "obama"}
    problem(
        plain.post("/verify", files={"img": photos["obama"]}, data=asked),
        503, "template-key-missing",
    )  # fmt: skip
    assert nearest(plain, "open", photos["obama2"])["identity"] == "obama"
    assert plain.get("/galleries/one").json()["counts"]["faces"] == 2
    target = house.home / "stolen.zip"
    told = house.command("export", "one", "--to", str(target), key=False, code=1)
    assert "FACESEARCH_TEMPLATE_KEY_FILE" in told
    assert not target.exists()


def test_moving(
    house: House, client: httpx.Client, photos: dict[str, bytes], tmp_path: Path
) -> None:
    archive = tmp_path / "one.zip"
    house.command("export", "one", "--to", str(archive))
    house.command("import", str(archive), "--gallery", "three")
    assert client.get("/galleries/three").json()["protected"] is True
    one, three = house.stored("one"), house.stored("three")
    assert abs(alike(one[0], three[0])) < 0.5
    photo = tmp_path / "probe.jpg"
    photo.write_bytes(photos["obama2"])
    assert house.people(photo, "three") == ["obama"]
    client.delete("/galleries/three")


def test_protecting_and_renewing(
    house: House, client: httpx.Client, photos: dict[str, bytes], tmp_path: Path
) -> None:
    photo = tmp_path / "probe.jpg"
    photo.write_bytes(photos["obama2"])
    before, plainly = house.stored("one"), embedding(client, photos["obama"])
    told = json.loads(house.command("galleries", "protect", "open", "--json"))
    assert told["protected"] is True
    assert told["counts"]["embedded"] == 1
    assert abs(alike(house.stored("open")[0], plainly)) < 0.5
    assert not any(data.startswith(b"\xff\xd8") for data in house.originals())
    house.keys.write_text(new_key() + "\n" + house.keys.read_text())
    house.command("galleries", "protect", "one", "--renew")
    assert abs(alike(house.stored("one")[0], before[0])) < 0.5
    house.keys.write_text(house.keys.read_text().split()[0] + "\n")
    assert house.people(photo, "one") == ["obama"]
    assert "protected by a key" in house.command("find", str(photo), "--gallery", "two", code=1)
    left = house.ask(
        "SELECT count(*) FROM embedding e JOIN gallery g ON g.id = e.gallery_id"
        " WHERE e.space_id <> g.active_space_id"
    )
    assert left == [0]


def test_no_longer(house: House, photos: dict[str, bytes], tmp_path: Path) -> None:
    photo = tmp_path / "probe.jpg"
    photo.write_bytes(photos["obama2"])
    house.command("galleries", "protect", "one", "--off")
    assert sum(data.startswith(b"\xff\xd8") for data in house.originals()) == 2
    told = json.loads(house.command("find", str(photo), "--gallery", "one", "--json", key=False))
    assert told["results"][0]["matches"][0]["identity"] == "obama"
