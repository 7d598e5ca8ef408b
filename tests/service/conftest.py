"""Real server processes over real HTTP; one for most tests, others with settings of their own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 120.0
Start = Callable[..., AbstractContextManager["Server"]]


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, headers=headers)

    def lines(self) -> str:
        return self.log.read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(home: Path, log: Path, ready: str = "/readyz", **settings: str) -> Iterator[Server]:
    """A server over `home`, with FACESEARCH_ settings given in lower case."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACESEARCH_")}
    environment |= {"FACESEARCH_HOME": str(home)}
    environment |= {f"FACESEARCH_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app"]
    command += ["--port", str(port), "--timeout-graceful-shutdown", "20"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait(server, ready)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, ready: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            pytest.fail(f"the server ended:\n{server.lines()[-3000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + ready, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    pytest.fail(f"the server did not become ready:\n{server.lines()[-3000:]}")


@pytest.fixture(scope="session")
def start(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts further servers over the same database."""

    def begin(**settings: str) -> AbstractContextManager[Server]:
        return running(home, tmp_path_factory.mktemp("server") / "log", **settings)

    return begin


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Server]:
    with start() as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def gallery(request: pytest.FixtureRequest, client: httpx.Client) -> Iterator[str]:
    """A gallery that only this test uses."""
    name = request.node.nodeid.rpartition("/")[2]
    path = f"/galleries/{quoted(name)}"
    assert client.put(path).status_code == 201
    yield name
    client.delete(path)


@pytest.fixture(scope="session")
def photos(portraits: dict[str, bytes]) -> dict[str, bytes]:
    """The portraits without their suffix, small enough to be quick; and an image of nobody."""
    made = {name.removesuffix(".jpg"): smaller(data) for name, data in portraits.items()}
    return {**made, "nobody": encoded(Image.new("RGB", (300, 200), "white"), "PNG")}


def smaller(jpeg: bytes) -> bytes:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((640, 640))
    return encoded(image, "JPEG", quality=95)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def enrol(client: httpx.Client, gallery: str, identity: str, *files: bytes) -> httpx.Response:
    return client.post(
        f"/galleries/{quoted(gallery)}/identities/{quoted(identity)}/images",
        files=[("files", (f"{n}.jpg", data)) for n, data in enumerate(files)],
    )


def find(client: httpx.Client, gallery: str, image: bytes, **fields: object) -> httpx.Response:
    return client.post("/find", files={"img": image}, data={"gallery": gallery, **fields})


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, object]:
    """The problem document, checked for what all of them have in common."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"/problems/{slug}", document
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in response.text
    return document
