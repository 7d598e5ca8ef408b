"""API keys, and addresses that need them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from service.settings import ServiceSettings
from tests.service.conftest import REPOSITORY, Server, Start, problem


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Server]:
    with start(api_keys="first-key, second-key") as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "first-key"},
        {"X-API-Key": "second-key"},
        {"Authorization": "Bearer second-key"},
        {"Authorization": "bearer first-key"},
    ],
)
def test_with_a_key(guarded: Server, headers: dict[str, str]) -> None:
    with guarded.client(**headers) as client:
        assert client.get("/galleries").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert {"key", "bearer"} == set(
            client.get("/openapi.json").json()["components"]["securitySchemes"]
        )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "first-ke"},
        {"X-API-Key": "first-key, second-key"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Bearer"},
    ],
)
def test_without_a_key(guarded: Server, headers: dict[str, str]) -> None:
    with guarded.client(**headers) as client:
        for path in ("/galleries", "/metrics", "/docs", "/openapi.json", "/nowhere"):
            refused = client.get(path)
            problem(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
        problem(client.post("/represent", files={"img": b"x"}), 401, "unauthorized")
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_keys_are_not_shown() -> None:
    settings = ServiceSettings(api_keys="a-secret")
    assert "a-secret" not in repr(settings)
    assert [key.get_secret_value() for key in settings.api_keys] == ["a-secret"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "faces.example.org"])  # noqa: S104
def test_open_addresses_need_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="without API keys"):
        ServiceSettings(host=host)
    assert ServiceSettings(host=host, api_keys="k").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_does_not(host: str) -> None:
    assert ServiceSettings(host=host).host == host


def test_the_command_refuses_clearly() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--host", "0.0.0.0"],  # noqa: S104
        capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FACESEARCH_API_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lost_key_is_no_way_in(guarded: Server) -> None:
    assert httpx.get(guarded.url + "/galleries?x-api-key=first-key", trust_env=False).is_error
