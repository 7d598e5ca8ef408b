"""Whether memory stays flat: `find` with photographs, through HTTP, tens of thousands of times.

    python -m benchmarks.steady [--requests 50000] [--clients 8]

Prints MiB of the service and of its decoder processes after each tenth of the requests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.endtoend import OURS, bodies, call, index, photographs, tree
from benchmarks.machine import memory
from benchmarks.serving import running, temporary_home
from indexer.settings import Settings
from indexer.weights import weights_cache

SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    weights = weights_cache(Settings(), addresses=True)
    photos = photographs(weights)
    with temporary_home(weights.folder) as folder:
        index(folder, tree(folder, photos), OURS[0])
        asked = bodies(folder, photos, "find", OURS[0])
        with running(folder) as service:
            done, told = 0, 0
            while done < given.requests:
                url = f"http://127.0.0.1:{service.port}/find"
                done += len(call(url, asked, given.clients, SECONDS)[1])
                if done * 10 // given.requests > told:
                    told = done * 10 // given.requests
                    print(f"{done:,} requests: {_mib(service.process)}", flush=True)


def _mib(process: int) -> str:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    decoders = sum(memory(child).own for child in children)
    return f"service {memory(process).own:.0f} MiB, {len(children)} decoders {decoders:.0f} MiB"


if __name__ == "__main__":
    main()
