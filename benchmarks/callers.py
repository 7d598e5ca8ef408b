"""Clients of any of the HTTP services, in a process of their own.

    python -m benchmarks.callers URL BODIES COUNT SECONDS

BODIES holds a JSON body a line. COUNT threads keep a connection each and ask again as soon as they are answered, for so
many seconds after a warm-up; prints the seconds of every request as a JSON list.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

WARM = 2
TIMEOUT_S = 300


def _ask(url: str, bodies: list[bytes], first: int, until: list[float], told: list[float]) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    for number, body in enumerate(islice(cycle(bodies), first, None)):
        if number >= WARM and time.perf_counter() >= until[0]:
            return
        began = time.perf_counter()
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{response.status}: {answer[:300]!r}")
        if number >= WARM:
            told.append(time.perf_counter() - began)


def main() -> None:
    url, count, seconds = sys.argv[1], int(sys.argv[3]), float(sys.argv[4])
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    until = [time.perf_counter() + seconds]
    told: list[float] = []
    threads = [
        threading.Thread(target=_ask, args=(url, bodies, n, until, told)) for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
