"""Connections that say nothing, or never come to the end of their headers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.protocol import Impatient

ANSWER_S = 1.0
WAIT_S = 30.0


class Hasty(Impatient):
    headers_s = 0.3


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes longer to answer than headers may take to come; reads the body first."""
    body = await Request(scope, receive).body()
    await asyncio.sleep(ANSWER_S)
    await PlainTextResponse(body or b"done")(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(slow, port=0, http=Hasty, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + WAIT_S
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(WAIT_S)


def everything(opened: socket.socket) -> bytes:
    """Until the server closes it."""
    opened.settimeout(WAIT_S)
    return b"".join(iter(lambda: opened.recv(65536), b""))


def dribble(opened: socket.socket) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        opened.sendall(b"a")
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_that_never_asks_is_closed(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(sent)
        assert everything(opened) == b""


def test_who_dribbles_its_headers_is_sent_away(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            dribble(opened)


def test_an_answer_may_take_its_time(port: int) -> None:
    """And so may a body; a second request whose headers stay away does not spoil it."""
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.sendall(request + b"a")
        time.sleep(2 * Hasty.headers_s)
        opened.sendall(b"b" + b"GET / HT")
        said = everything(opened)
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"ab")
