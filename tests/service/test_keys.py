"""API keys: who is let in, to what, and how often; and addresses that need them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from starlette.datastructures import Headers

from indexer import keys
from indexer.errors import Conflict, InvalidName, NotFound
from indexer.settings import Settings
from indexer.store import keys as store
from indexer.store.engine import Database
from service.access import ANYBODY, FRESH_S, NEEDS, OPEN, Access, Limits, came_in_here, token_of
from service.app import create_app
from service.errors import Forbidden, TooManyRequests
from service.settings import ServiceSettings
from tests.service.conftest import REPOSITORY, Server, Start, problem, quoted, running

EVERYWHERE = "0.0.0.0"  # noqa: S104
WAIT_S = 30.0


@pytest.fixture(scope="module")
def keys_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these tests alone: where there are keys, others would need some. Root's Postgres must get into it."""
    made = tmp_path_factory.mktemp("keys")
    for folder in (made, *made.parents):
        if folder.stat().st_uid == made.stat().st_uid and folder != Path("/tmp"):  # noqa: S108
            folder.chmod(folder.stat().st_mode | 0o055)
    return made


@pytest.fixture(scope="module")
def database(keys_home: Path) -> Iterator[Database]:
    settings = Settings(home=keys_home)
    opened = Database.open(settings)
    opened.upgrade()
    yield opened
    opened.close()
    if opened.embedded is not None:
        opened.embedded.stop()


@pytest.fixture(scope="module")
def server(
    keys_home: Path, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with running(
        keys_home, tmp_path_factory.mktemp("log") / "log", "/healthz", key_concurrency="1"
    ) as started:
        yield started


def made(
    database: Database, scope: keys.Scope, *galleries: str, lasts: timedelta | None = None
) -> str:
    token, _ = keys.create(database, f"test {uuid.uuid4()}", scope, galleries or None, lasts)
    return token


def prefix(token: str) -> str:
    return token.split("_")[1]


def settled(server: Server, token: str, status: int) -> None:
    """Waits until the server answers so: it may know of keys some seconds late."""
    end = time.monotonic() + WAIT_S
    with server.client(**{"X-API-Key": token}) as client:
        while client.get("/galleries").status_code != status:
            assert time.monotonic() < end
            time.sleep(0.2)


def test_a_key_is_kept_as_a_hash_only(database: Database) -> None:
    token, key = keys.create(database, "  who  asks ", "read", ["Café"])
    assert (key.name, key.scope, key.galleries) == ("who  asks", "read", ("Café",))
    assert token.startswith(f"fs_{key.prefix}_")
    assert len(token) == 55
    secret = token.rpartition(f"{key.prefix}_")[2]
    with database.read() as connection:
        rows = str(connection.execute(text("SELECT * FROM api_key")).all())
        assert store.find(connection, key.prefix) == key
    assert secret not in rows
    with pytest.raises(InvalidName):
        keys.create(database, "", "read")


def test_matching(database: Database) -> None:
    token, key = keys.create(database, "m", "read")
    known = {key.prefix: key}
    assert keys.matching(token, known) is key
    for wrong in (
        "",
        "fs",
        "fs__",
        token[:-1],
        token + "x",
        token.replace("fs_", "fx_"),
        f"fs_{key.prefix}_",
        "é" * 50,
    ):
        assert keys.matching(wrong, known) is None
    assert keys.matching(token, {}) is None


def test_scopes_include_the_lesser_ones() -> None:
    table = {
        held: [needed for needed in keys.SCOPES if keys.allows(held, needed)]
        for held in (*keys.SCOPES, "none")
    }
    assert table == {
        "read": ["read"], "enrol": ["read", "enrol"], "admin": ["read", "enrol", "admin"], "none": [],
    }  # fmt: skip


def test_rotation(database: Database) -> None:
    old, key = keys.create(database, "r", "enrol", ["g"], timedelta(days=30))
    new, fresh = keys.rotate(database, key.prefix, timedelta(hours=1))
    assert (fresh.name, fresh.scope, fresh.galleries) == ("r", "enrol", ("g",))
    assert fresh.expires_at is not None
    assert fresh.expires_at - datetime.now(UTC) > timedelta(days=29)
    with database.read() as connection:
        valid = {k.prefix: k for k in store.valid(connection)}
    ends = valid[key.prefix].expires_at
    assert ends is not None
    assert ends - datetime.now(UTC) < timedelta(hours=1, minutes=1)
    assert keys.matching(new, valid)
    assert keys.matching(old, valid)
    keys.revoke(database, key.prefix)
    again = keys.revoke(database, key.prefix)
    assert again.revoked_at is not None
    with database.read() as connection:
        assert key.prefix not in {k.prefix for k in store.valid(connection)}
    with pytest.raises(Conflict, match="no longer valid"):
        keys.rotate(database, key.prefix, timedelta())
    with pytest.raises(NotFound):
        keys.revoke(database, "nobody")


def test_every_route_says_what_it_needs() -> None:
    """One that the document leaves out is refused to everybody."""
    paths = create_app(ServiceSettings()).openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {route for route in routes if route[1] not in OPEN} == set(NEEDS)


def test_scopes_over_http(server: Server, database: Database) -> None:
    gallery = "/galleries/scopes"
    tokens = {scope: made(database, scope) for scope in keys.SCOPES}
    settled(server, tokens["admin"], 200)
    wanted = {
        "read": (403, 403, 403), "enrol": (403, 404, 403), "admin": (201, 404, 200),
    }  # fmt: skip
    for scope, statuses in wanted.items():
        with server.client(Authorization=f"Bearer {tokens[scope]}") as client:
            answers = (
                client.put(gallery), client.delete(f"{gallery}/identities/nobody"), client.get("/jobs"),
            )  # fmt: skip
            assert tuple(a.status_code for a in answers) == statuses
            assert client.get("/galleries").status_code == 200
            for answer in answers:
                if answer.status_code == 403:
                    problem(answer, 403, "forbidden")
    with server.client() as client:
        refused = client.get("/galleries")
        problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"


def test_a_key_for_one_gallery(server: Server, database: Database) -> None:
    admin, bound = made(database, "admin"), made(database, "admin", "mine")
    settled(server, bound, 200)
    settled(server, admin, 200)
    with server.client(**{"X-API-Key": admin}) as client:
        for name in ("mine", "theirs"):
            assert client.put(f"/galleries/{name}").status_code in (200, 201)
    probe = {"embedding": [1.0] * 128}
    with server.client(**{"X-API-Key": bound}) as client:
        assert [g["gallery"] for g in client.get("/galleries").json()["galleries"]] == ["mine"]
        assert client.get("/galleries/mine").status_code == 200
        assert client.post("/find", json={**probe, "gallery": "mine"}).status_code == 200
        for refused in (
            client.get("/galleries/theirs"),
            client.get("/galleries/nobodys"),
            client.post("/find", json={**probe, "gallery": "theirs"}),
            client.post("/find", json=probe),
            client.post("/verify", json={"img": "x", "identity": "somebody"}),
            client.post("/verify", json={"img": "x", "identity": "somebody", "gallery": "theirs"}),
            client.post("/admin/reindex", json={"gallery": "theirs", "model_name": "Dlib"}),
            client.delete("/galleries/theirs"),
        ):
            problem(refused, 403, "forbidden")
    with server.client(**{"X-API-Key": admin}) as client:
        job = client.post(
            "/admin/reindex", json={"gallery": "theirs", "model_name": "Dlib"}
        ).json()["job_id"]
        assert client.get(f"/jobs/{job}").status_code == 200
    with server.client(**{"X-API-Key": bound}) as client:
        assert client.get("/jobs").json()["jobs"] == []
        for answer in (
            client.get(f"/jobs/{job}"),
            client.delete(f"/jobs/{job}"),
            client.get(f"/jobs/{job}/events"),
        ):
            problem(answer, 404, "not-found")


def test_revoked_and_expired_keys_let_nobody_in(server: Server, database: Database) -> None:
    lasting, short = made(database, "read"), made(database, "read", lasts=timedelta(seconds=8))
    settled(server, lasting, 200)
    settled(server, short, 200)
    keys.revoke(database, prefix(lasting))
    settled(server, lasting, 401)
    settled(server, short, 401)


def test_one_key_does_not_get_everything(
    server: Server, database: Database, photos: dict[str, bytes]
) -> None:
    """One request at a time here: a second one of the same key is told to come back, another key is served."""
    busy, other = made(database, "read"), made(database, "read")
    settled(server, other, 200)
    settled(server, busy, 200)
    with (
        server.client(**{"X-API-Key": busy}) as client,
        httpx.Client(
            base_url=server.url, trust_env=False, headers={"X-API-Key": other}, timeout=60
        ) as second,
    ):
        slow = iter([b"--x\r\n"])

        def forever() -> Iterator[bytes]:
            yield next(slow)
            refused = httpx.post(
                server.url + "/extract", files={"img": photos["obama"]}, trust_env=False,
                headers={"X-API-Key": busy},
            )  # fmt: skip
            problem(refused, 429, "too-many-requests")
            assert int(refused.headers["retry-after"]) >= 1
            assert httpx.get(
                server.url + "/galleries", trust_env=False, headers={"X-API-Key": busy}
            ).is_success
            assert second.post("/extract", files={"img": photos["obama"]}).status_code == 200
            yield b"--x--\r\n"

        client.post(
            "/extract",
            content=forever(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert client.post("/extract", files={"img": photos["obama"]}).status_code == 200


def test_the_rate_of_a_key() -> None:
    now = 100.0
    limits = Limits(rate=2, at_once=1, clock=lambda: now)
    for _ in range(4):
        with limits.taken("a", work=False):
            pass
    with pytest.raises(TooManyRequests) as refused, limits.taken("a", work=False):
        pass
    assert refused.value.retry_after == 1
    with limits.taken("b", work=True):
        with pytest.raises(TooManyRequests), limits.taken("b", work=True):
            pass
        with limits.taken("b", work=False):
            pass
    now = 100.6
    with limits.taken("a", work=True):
        pass


def test_answers_are_not_kept_or_framed(server: Server) -> None:
    with server.client() as client:
        for path in ("/healthz", "/galleries", "/nowhere"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "access-control-allow-origin" not in headers
        asked = client.options(
            "/find", headers={"Origin": "https://e.org", "Access-Control-Request-Method": "POST"}
        )
        assert "access-control-allow-origin" not in asked.headers


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
def test_with_a_key_of_the_settings(guarded: Server, headers: dict[str, str]) -> None:
    with guarded.client(**headers) as client:
        assert client.get("/galleries").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/jobs").status_code == 200
        assert client.get("/docs").status_code == 200
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
    assert httpx.get(guarded.url + "/galleries?x-api-key=first-key", trust_env=False).is_error


def test_keys_are_not_shown() -> None:
    settings = ServiceSettings(api_keys="a-secret")
    assert "a-secret" not in repr(settings)
    assert [key.get_secret_value() for key in settings.api_keys] == ["a-secret"]


@pytest.mark.parametrize(
    ("server", "local"),
    [
        (("127.0.0.1", 8000), True),
        (("127.9.0.1", 8000), True),
        (("::1", 8000), True),
        (("::ffff:127.0.0.1", 8000), True),
        (("/run/facesearch.sock", None), True),
        (("testserver", 80), True),
        (("10.0.0.5", 8000), False),
        (("::ffff:10.0.0.5", 8000), False),
        (("faces.example.org", 8000), False),
        (None, False),
    ],
)
def test_without_keys_only_this_machine_is_served(
    server: tuple[str, int | None] | None, local: bool
) -> None:
    assert came_in_here({"server": server}) is local


def serve(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACESEARCH_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**environment, "FACESEARCH_HOME": str(home), **more},
        capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.5", "faces.example.org"])
def test_an_open_address_without_keys_is_refused(settings: Settings, host: str) -> None:
    done = serve(settings.home, "--host", host)
    assert done.returncode == 1
    assert "FACESEARCH_API_KEYS" in done.stderr
    assert "facesearch keys create" in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_by_command(keys_home: Path, database: Database) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", "keys", *arguments],
            env={"FACESEARCH_HOME": str(keys_home), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    shown = json.loads(
        run("create", "by hand", "--scope", "enrol", "--gallery", "a", "--expires", "90d", "--json")
    )
    assert (shown["scope"], shown["galleries"]) == ("enrol", ["a"])
    listed = {row["prefix"]: row for row in json.loads(run("list", "--json"))}
    assert listed[shown["prefix"]]["name"] == "by hand"
    assert shown["key"] not in run("list")
    second = json.loads(run("rotate", shown["prefix"], "--keep", "0m", "--json"))
    assert second["key"] != shown["key"]
    assert json.loads(run("revoke", second["prefix"], "--json"))["revoked_at"]
    with database.read() as connection:
        assert not {shown["prefix"], second["prefix"]} & {k.prefix for k in store.valid(connection)}
    assert "no API key" in run("revoke", "nobody", code=1) or "API key" in run(
        "revoke", "nobody", code=1
    )
    assert "30m, 12h, 90d" in run("create", "x", "--scope", "read", "--expires", "soon", code=2)


def test_tokens() -> None:
    assert token_of(Headers({"authorization": "Bearer  a b "})) == "a b"
    assert token_of(Headers({"x-api-key": "k", "authorization": "Bearer t"})) == "k"
    assert token_of(Headers({})) == ""


def test_access() -> None:
    bound = Access("k", "read", frozenset({"Café"}))
    assert bound.may_see("Cafe\u0301")
    assert not bound.may_see("cafe")
    assert not bound.may_see("")
    with pytest.raises(Forbidden):
        bound.require("enrol")
    ANYBODY.require("admin")
    assert FRESH_S <= 5
    assert quoted("a b") == "a%20b"
