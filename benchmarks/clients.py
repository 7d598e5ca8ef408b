"""Clients that keep their connections and ask again as soon as they are answered.

    python -m benchmarks.clients PORT BODIES COUNT SECONDS

BODIES holds a request body a line. Says when it is ready, starts at a line on its standard input,
and prints the seconds of every request as JSON.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

WARM = 20
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Told:
    """When the first request began and the last one ended, on the machine's clock.

    `answers` are the row numbers that a single client was answered.
    """

    start: float
    end: float
    seconds: list[float]
    answers: list[Sequence[int]]


class Client:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.seconds: list[float] = []
        self.replies: list[bytes] = []

    def ask(self, body: bytes) -> bytes:
        self._connection.request("POST", "/find", body, HEADERS)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{response.status}: {data.decode(errors='replace')}")
        return data

    def run(self, bodies: Sequence[bytes], end: float) -> None:
        for body in bodies:
            started = time.monotonic()
            self.replies.append(self.ask(body))
            now = time.monotonic()
            self.seconds.append(now - started)
            if now > end:
                break


def rows(reply: bytes) -> list[int]:
    """Ids of faces count from 1."""
    return [match["face_id"] - 1 for match in json.loads(reply)["results"][0]["matches"]]


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[3])
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        for body in bodies[:WARM]:
            client.ask(body)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    end = start + float(sys.argv[4])
    shares = [bodies[number::count] for number in range(count)]
    threads = [
        threading.Thread(target=client.run, args=(share, end))
        for client, share in zip(clients, shares, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = Told(
        start,
        time.monotonic(),
        [s for client in clients for s in client.seconds],
        [rows(reply) for reply in clients[0].replies] if count == 1 else [],
    )
    print(json.dumps(asdict(told)))


if __name__ == "__main__":
    main()
