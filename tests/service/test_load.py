"""Many requests at once: the event loop stays free, the queue is bounded, the gone are forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.errors import ClientGone, Overloaded
from service.inference import InferencePool, while_connected
from service.middleware import BodyBounds, BodyLimits
from service.problems import response_for
from tests.service.conftest import Server, Start, find, problem


@pytest.fixture(scope="module")
def narrow(start: Start) -> Iterator[Server]:
    """One image at a time, two waiting, small bodies."""
    with start(
        concurrency="1", queue_limit="2", max_request_bytes="3000000", max_files="3",
        body_timeout="1.5",
    ) as server:  # fmt: skip
        yield server


async def at_once(url: str, image: bytes, count: int) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        fields = {"detector_backend": "dlib"}
        work = [client.post("/represent", files={"img": image}, data=fields) for _ in range(count)]
        return await asyncio.gather(*work)


def test_overload(narrow: Server, portraits: dict[str, bytes]) -> None:
    responses = asyncio.run(at_once(narrow.url, portraits["obama3.jpg"], 12))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 3
    refused = [response for response in responses if response.status_code == 503]
    for response in refused:
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
    (after,) = asyncio.run(at_once(narrow.url, portraits["obama.jpg"], 1))
    assert after.status_code == 200


def test_the_event_loop_stays_free(server: Server, portraits: dict[str, bytes]) -> None:
    """Others are answered while images are worked on, more often than there are images."""

    async def measure() -> int:
        work = asyncio.ensure_future(at_once(server.url, portraits["obama3.jpg"], 8))
        answers = 0
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            await client.get("/healthz")
            while not work.done():
                assert (await client.get("/healthz")).status_code == 200
                answers += 1
                await asyncio.sleep(0.01)
        assert [response.status_code for response in await work] == [200] * 8
        return answers

    assert asyncio.run(measure()) >= 16


def gauge(server: Server, name: str) -> float:
    text = httpx.get(server.url + "/metrics", trust_env=False).text
    (line,) = [x for x in text.splitlines() if x.startswith(f"{name} ")]
    return float(line.split()[1])


def test_clients_that_go_away_leave_the_queue(narrow: Server, portraits: dict[str, bytes]) -> None:
    async def vanish() -> None:
        async with httpx.AsyncClient(base_url=narrow.url, trust_env=False, timeout=0.2) as client:
            image = portraits["obama3.jpg"]
            fields = {"detector_backend": "dlib"}
            work = [client.post("/represent", files={"img": image}, data=fields) for _ in range(3)]
            results = await asyncio.gather(*work, return_exceptions=True)
            assert any(isinstance(result, httpx.TimeoutException) for result in results)

    asyncio.run(vanish())
    deadline = time.monotonic() + 10
    while gauge(narrow, "facesearch_inference_waiting") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gauge(narrow, "facesearch_inference_waiting") == 0
    while gauge(narrow, "facesearch_inference_running") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gauge(narrow, "facesearch_inference_running") == 0
    text = httpx.get(narrow.url + "/metrics", trust_env=False).text
    assert 'facesearch_http_requests_total{method="POST",route="/represent",status="499"}' in text


def test_large_bodies(narrow: Server) -> None:
    large = bytes(4_000_000)
    with narrow.client() as client:
        problem(client.post("/represent", files={"img": large}), 413, "request-too-large")

        def chunks() -> Iterator[bytes]:  # no Content-Length
            yield b'{"img": "'
            for _ in range(40):
                yield b"A" * 100_000
            yield b'"}'

        response = client.post(
            "/represent", content=chunks(), headers={"content-type": "application/json"}
        )
        problem(response, 413, "request-too-large")
        assert client.get("/healthz").status_code == 200


def test_too_many_files(narrow: Server) -> None:
    path = "/galleries/default/identities/Ada/images"
    with narrow.client() as client:
        four = client.post(path, files=[("files", b"x")] * 4)
        problem(four, 413, "request-too-large")
        problem(client.post(path, json={"files": ["x"] * 4}), 413, "request-too-large")
        problem(client.post(path, files=[("files", b"x")] * 3), 422, "nothing-enrolled")


def test_slow_bodies(narrow: Server) -> None:
    host, port = narrow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /represent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"/problems/body-too-slow" in answer


def test_bodies_together_are_bounded() -> None:
    async def swallow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
            await asyncio.sleep(0.1)
            await PlainTextResponse("ok")(scope, receive, send)
        except Overloaded as error:
            await response_for(error, scope)(scope, receive, send)

    async def scenario() -> list[int]:
        app = BodyLimits(swallow, BodyBounds(each=1000, together=1500, seconds=5))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            both = await asyncio.gather(*(client.post("/", content=bytes(900)) for _ in range(2)))
            after = await client.post("/", content=bytes(900))
        return [*sorted(response.status_code for response in both), after.status_code]

    assert asyncio.run(scenario()) == [200, 503, 200]


def test_the_pool_is_bounded() -> None:
    async def scenario() -> None:
        pool = InferencePool(concurrency=2, queue_limit=1, timeout_s=5)
        gate = threading.Event()
        running = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        pool.check()
        waiting = asyncio.ensure_future(pool.run(lambda: "waited"))
        await asyncio.sleep(0.05)
        assert (pool.running, pool.waiting) == (2, 1)
        with pytest.raises(Overloaded):
            pool.check()
        with pytest.raises(Overloaded):
            await pool.run(lambda: None)
        gate.set()
        assert await waiting == "waited"
        await asyncio.gather(*running)
        await asyncio.sleep(0)
        assert (pool.running, pool.waiting) == (0, 0)
        pool.close()

    asyncio.run(scenario())


def test_waiting_is_limited_in_time_and_can_be_cancelled() -> None:
    async def scenario() -> None:
        pool = InferencePool(concurrency=1, queue_limit=5, timeout_s=0.1)
        gate = threading.Event()
        running = asyncio.ensure_future(pool.run(gate.wait))
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded):
            await pool.run(lambda: None)
        ran: list[int] = []
        waiting = asyncio.ensure_future(pool.run(lambda: ran.append(1)))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        running.cancel()  # keeps its place until its thread is done
        await asyncio.sleep(0.02)
        assert (pool.running, pool.waiting) == (1, 0)
        gate.set()
        assert await pool.run(lambda: 3) == 3
        await asyncio.sleep(0)
        assert pool.running == 0
        assert ran == []
        pool.close()

    asyncio.run(scenario())


def test_errors_come_through_and_free_the_place() -> None:
    async def scenario() -> None:
        pool = InferencePool(concurrency=1, queue_limit=0, timeout_s=1)

        def fail() -> None:
            raise ValueError("x")

        for _ in range(3):
            with pytest.raises(ValueError, match="x"):
                await pool.run(fail)
            await asyncio.sleep(0)
        assert pool.running == 0
        pool.close()

    asyncio.run(scenario())


def test_a_client_that_is_gone_stops_the_wait() -> None:
    class Gone:
        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

    async def scenario() -> None:
        with pytest.raises(ClientGone):
            await while_connected(Gone(), asyncio.sleep(10))
        assert await while_connected(Gone(), asyncio.sleep(0, "done")) == "done"

    asyncio.run(scenario())


def test_stages_are_measured(client: httpx.Client, photos: dict[str, bytes]) -> None:
    assert client.post("/represent", files={"img": photos["obama"]}).status_code == 200
    find(client, "default", photos["obama"])
    lines = client.get("/metrics").text.splitlines()
    for stage in ("read", "decode", "detect", "align", "embed"):
        (count,) = (
            line
            for line in lines
            if line.startswith(f'facesearch_stage_seconds_count{{stage="{stage}"}}')
        )
        assert float(count.split()[1]) >= 1
