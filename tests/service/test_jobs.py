"""Reindexing over HTTP: created, watched, cancelled, interrupted, carried on."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageEnhance

from tests.service.conftest import Server, Start, encoded, enrol, find, problem, quoted

WAIT_S = 120


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Path:
    """Two people; the one with many files, so that a run takes a while."""
    root = tmp_path_factory.mktemp("trees")
    (root / "people" / "Joe Biden").mkdir(parents=True)
    (root / "people" / "Joe Biden" / "a.jpg").write_bytes(photos["biden"])
    (root / "many" / "Barack Obama").mkdir(parents=True)
    image = Image.open(io.BytesIO(photos["obama"])).convert("RGB").resize((900, 1100))
    for n in range(150):
        lighter = ImageEnhance.Brightness(image).enhance(0.5 + n / 150)
        path = root / "many" / "Barack Obama" / f"{n}.jpg"
        path.write_bytes(encoded(lighter, "JPEG"))
    return root


@pytest.fixture(scope="module")
def rooted(start: Start, tree: Path) -> Iterator[Server]:
    with start(image_roots=str(tree), keep_uploads="true") as server:
        yield server


@pytest.fixture(scope="module")
def http(rooted: Server) -> Iterator[httpx.Client]:
    with rooted.client() as client:
        yield client


def reindex(client: httpx.Client, **fields: object) -> str:
    response = client.post("/admin/reindex", json=fields)
    assert response.status_code == 202, response.text
    job_id = response.json()["job_id"]
    assert response.headers["location"] == f"/jobs/{job_id}"
    return job_id


def finished(client: httpx.Client, job_id: str) -> dict[str, object]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        job = client.get(f"/jobs/{job_id}").json()
        if job["finished_at"] is not None:
            return job
        time.sleep(0.1)
    pytest.fail(f"not finished: {job}")


def running(client: httpx.Client, job_id: str, done: int = 1) -> dict[str, object]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        job = client.get(f"/jobs/{job_id}").json()
        if job["state"] == "running" and job["done"] >= done:
            return job
        assert job["finished_at"] is None, job
        time.sleep(0.05)
    pytest.fail(f"not running: {job}")


def test_indexing_a_folder(
    http: httpx.Client, tree: Path, gallery: str, photos: dict[str, bytes]
) -> None:
    job = finished(http, reindex(http, gallery=gallery, path=str(tree / "people")))
    assert job["state"] == "done", job
    assert job["gallery"] == gallery
    found = find(http, gallery, photos["biden"]).json()["results"][0]["matches"]
    assert found[0]["identity"] == "Joe Biden"
    assert found[0]["image"] == "Joe Biden/a.jpg"
    assert job["job_id"] in [each["job_id"] for each in http.get("/jobs").json()["jobs"]]
    # Now that the folder is known, it may be named to a server without roots as well.


def test_changing_the_detector(http: httpx.Client, gallery: str, photos: dict[str, bytes]) -> None:
    enrol(http, gallery, "Ada", photos["obama"])
    job_id = reindex(http, gallery=gallery, detector_backend="MTCNN")
    names, last = [], {}
    with http.stream("GET", f"/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert names[-1] == "finished"
    assert names.count("finished") == 1
    assert last["state"] == "done", last
    assert last["detector_backend"] == "mtcnn"
    active = http.get(f"/galleries/{quoted(gallery)}").json()["spaces"]["active"]
    assert active["detector"] == "mtcnn"
    answer = find(http, gallery, photos["obama2"]).json()
    assert answer["detector_backend"] == "mtcnn"
    assert answer["results"][0]["matches"][0]["identity"] == "Ada"


def test_cancelling(http: httpx.Client, tree: Path, gallery: str) -> None:
    job_id = reindex(http, gallery=gallery, path=str(tree / "many"))
    job = running(http, job_id)
    assert job["total"] == 150
    asked = http.delete(f"/jobs/{job_id}").json()
    assert asked["cancel_requested"] is True or asked["state"] == "cancelled"
    job = finished(http, job_id)
    assert job["state"] == "cancelled"
    assert job["done"] < 150


def test_a_queued_job_is_cancelled_at_once(http: httpx.Client, tree: Path, gallery: str) -> None:
    first = reindex(http, gallery=gallery, path=str(tree / "many"))
    running(http, first)
    second = reindex(http, gallery=gallery)
    answer = http.delete(f"/jobs/{second}").json()
    assert answer["state"] == "cancelled" or answer["cancel_requested"]
    http.delete(f"/jobs/{first}")
    finished(http, first)
    assert finished(http, second)["state"] in ("cancelled", "done")


def test_a_stopped_server_leaves_the_job_to_the_next_one(
    start: Start, tree: Path, gallery: str, client: httpx.Client, photos: dict[str, bytes]
) -> None:
    roots = {"image_roots": str(tree)}
    with start(**roots) as one, one.client() as http:
        job_id = reindex(http, gallery=gallery, path=str(tree / "many"))
        running(client, job_id)
        with one.client() as watching, watching.stream("GET", f"/jobs/{job_id}/events"):
            one.process.terminate()  # with an event stream open
            assert one.process.wait(30) is not None
    before = client.get(f"/jobs/{job_id}").json()
    assert before["state"] in ("queued", "running", "done"), before
    job = finished(client, job_id)
    assert job["state"] == "done", job
    counts = client.get(f"/galleries/{quoted(gallery)}").json()["counts"]
    assert counts["states"] == {"ready": 150}
    assert counts["faces"] == 150


def test_folders_that_may_not_be_indexed(http: httpx.Client, tree: Path, gallery: str) -> None:
    for path in ("/etc", "/", "", f"{tree}/../..", f"{tree}x", "relative"):
        response = http.post("/admin/reindex", json={"gallery": gallery, "path": path})
        problem(response, 403, "path-refused")


def test_bad_jobs(http: httpx.Client, gallery: str) -> None:
    def ask(**fields: object) -> httpx.Response:
        return http.post("/admin/reindex", json={"gallery": gallery, **fields})

    problem(ask(model_name="Nonet"), 422, "unknown-name")
    problem(ask(detector_backend="nodet"), 422, "unknown-name")
    problem(ask(gallery="no such gallery"), 404, "not-found")
    problem(ask(model="Dlib"), 422, "invalid-request")


def test_a_failing_job_says_why(http: httpx.Client, tree: Path, gallery: str) -> None:
    job = finished(http, reindex(http, gallery=gallery, path=str(tree / "nowhere")))
    assert job["state"] == "failed"
    assert job["error"]
