"""Where images may come from: addresses, URLs, paths."""

from __future__ import annotations

import http.server
import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.urls import is_public
from tests.service.conftest import Server, Start, problem

PUBLIC = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:0808:0808::1"]
PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",  # noqa: S104
    "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
    "64:ff9b:1::7f00:1", "2002:7f00:1::1", "2001:0:7f00:1::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_other_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.fixture(scope="module")
def web(photos: dict[str, bytes]) -> Iterator[str]:
    """A web server of this machine; its port is part of the answer."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Host"])
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            known = {"/face.jpg": photos["obama"], "/large": bytes(30 * 2**20)}
            data = known.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.end_headers()
            if data is not None:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Path:
    """A folder that may be read, beside one that may not."""
    base = tmp_path_factory.mktemp("pictures")
    for folder in ("open", "closed"):
        (base / folder / "sub").mkdir(parents=True)
        (base / folder / "sub" / "face.jpg").write_bytes(photos["obama"])
    (base / "open" / "out.jpg").symlink_to(base / "closed" / "sub" / "face.jpg")
    (base / "open" / "in.jpg").symlink_to(base / "open" / "sub" / "face.jpg")
    (base / "open" / "loop.jpg").symlink_to(base / "open" / "loop.jpg")
    (base / "open" / "large.jpg").write_bytes(bytes(21 * 2**20))
    return base


@pytest.fixture(scope="module")
def liberal(start: Start, pictures: Path) -> Iterator[Server]:
    """URLs of localhost by name, and paths below one folder, are allowed."""
    with start(
        allow_urls="true", url_hosts="localhost, Example.org", allow_private_urls="true",
        image_roots=str(pictures / "open"),
    ) as server:  # fmt: skip
        yield server


@pytest.fixture(scope="module")
def opened(liberal: Server) -> Iterator[httpx.Client]:
    with liberal.client() as client:
        yield client


def represent(client: httpx.Client, image: str) -> httpx.Response:
    return client.post("/represent", json={"img": image})


def test_allowed_urls(opened: httpx.Client, web: str) -> None:
    for url in (f"{web}/face.jpg", f"{web}/to//face.jpg", f"{web}/to/{web}/face.jpg"):
        assert represent(opened, url).status_code == 200


def test_urls_that_are_not_allowed(opened: httpx.Client, web: str) -> None:
    port = web.rpartition(":")[2]
    refused = [
        f"http://127.0.0.1:{port}/face.jpg",
        f"http://[::1]:{port}/face.jpg",
        f"http://2130706433:{port}/face.jpg",
        f"http://localhost.evil.example:{port}/face.jpg",
        f"http://localhost@127.0.0.1:{port}/face.jpg",
        f"http://user:pass@localhost:{port}/face.jpg",
        f"{web}/to/http://127.0.0.1:{port}/face.jpg",
        f"{web}/to/file:///etc/passwd",
        "http://",
        "http://[broken/face.jpg",
    ]
    details = {
        problem(represent(opened, url), 403, "image-source-refused")["detail"] for url in refused
    }
    assert len(details) == 1


def test_urls_without_an_image(opened: httpx.Client, web: str) -> None:
    problem(represent(opened, f"{web}/absent.jpg"), 422, "image-fetch-failed")
    problem(represent(opened, f"{web}/to/" + "/to/" * 5 + "/face.jpg"), 422, "image-fetch-failed")
    problem(represent(opened, f"{web}/large"), 413, "image-too-large")
    problem(represent(opened, "http://localhost:1/face.jpg"), 422, "image-fetch-failed")


def test_without_private_urls_nothing_of_this_machine_is_fetched(start: Start, web: str) -> None:
    with start(allow_urls="true") as server, server.client() as client:
        problem(represent(client, f"{web}/face.jpg"), 403, "image-source-refused")
        by_number = web.replace("localhost", "127.0.0.1")
        problem(represent(client, f"{by_number}/face.jpg"), 403, "image-source-refused")


def test_allowed_paths(opened: httpx.Client, pictures: Path) -> None:
    below = pictures / "open"
    for path in (below / "sub" / "face.jpg", below / "in.jpg", "sub/face.jpg"):
        assert represent(opened, str(path)).status_code == 200, path
    problem(represent(opened, "large.jpg"), 413, "image-too-large")


def test_paths_that_are_not_allowed(opened: httpx.Client, pictures: Path) -> None:
    refused = [
        pictures / "closed" / "sub" / "face.jpg",
        pictures / "open" / ".." / "closed" / "sub" / "face.jpg",
        pictures / "open" / "out.jpg",
        pictures / "open" / "loop.jpg",
        pictures / "open" / "absent.jpg",
        "../closed/sub/face.jpg",
        "/etc/hostname.jpg",
        "/proc/self/../self/environ",
        ".",
        "a.\x00jpg",
    ]
    details = {
        problem(represent(opened, str(path)), 403, "image-source-refused")["detail"]
        for path in refused
    }
    assert len(details) == 1
