"""Clients of any of the HTTP services, in a process of their own.

    python -m benchmarks.callers URL BODIES COUNT SECONDS

BODIES holds a JSON body a line. COUNT threads keep a connection each and ask again as soon as they are answered, for so
many seconds after a warm-up; prints as JSON how long it took until the last answer, and the seconds of every request.
"""

from __future__ import annotations

import http.client
import json
import math
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

WARM = 8
TIMEOUT_S = 300


def _ask(url: str, bodies: Iterable[bytes], until: float) -> list[float]:
    """The seconds of every request that was begun before `until`."""
    parts, told = urlsplit(url), []
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    for body in bodies:
        began = time.perf_counter()
        if began >= until:
            break
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{response.status}: {answer[:300]!r}")
        told.append(time.perf_counter() - began)
    return told


def main() -> None:
    url, count, seconds = sys.argv[1], int(sys.argv[3]), float(sys.argv[4])
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    _ask(url, islice(cycle(bodies), WARM), math.inf)
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as clients:
        starts = (islice(cycle(bodies), n, None) for n in range(count))
        told = [*clients.map(lambda each: _ask(url, each, began + seconds), starts)]
    taken = time.perf_counter() - began
    print(json.dumps({"taken": taken, "requests": [one for each in told for one in each]}))


if __name__ == "__main__":
    main()
