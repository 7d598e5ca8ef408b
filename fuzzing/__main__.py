"""`python -m fuzzing requests` and `python -m fuzzing readers`; `--help` tells the options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.machine import memory
from benchmarks.serving import running, temporary_home
from fuzzing import guided, requests
from fuzzing.material import Material, photographs
from indexer.settings import Settings
from indexer.weights import weights_cache

FINDS = Path("finds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("--finds", type=Path, default=FINDS, help="folder for what is found")
    commands = parser.add_subparsers(dest="command", required=True)
    sends = commands.add_parser("requests", help="against a real server, over HTTP")
    sends.add_argument("--requests", type=int, default=100_000)
    sends.add_argument("--seed", type=int, default=1)
    reads = commands.add_parser(
        "readers", help="of images, weights and archives; guided by coverage"
    )
    reads.add_argument("--seconds", type=int, default=60, help="for each reader")
    reads.add_argument("--only", default="", help="names, comma separated")
    given = parser.parse_args()
    if given.command == "requests":
        return _requests(given.requests, given.seed, given.finds)
    names = tuple(name for name in given.only.split(",") if name)
    return guided.run(names, given.seconds, given.finds)


def _requests(count: int, seed: int, finds: Path) -> int:
    """A server over a home of its own; 1 if anything was found."""
    weights = weights_cache(Settings(), addresses=True)
    material = Material(photographs(weights))
    with temporary_home(weights.folder) as folder, running(folder) as service:
        before = memory(service.process).own
        url = f"http://127.0.0.1:{service.port}"
        tally = requests.against(url, material, count, seed, finds)
        if finds.exists():
            (finds / "service.log").write_bytes(service.log.read_bytes())
        print(f"memory: {before:.0f} MiB at first, {memory(service.process).own:.0f} MiB at last")
    print("statuses:", dict(sorted(tally.statuses.items())))
    print("operations:", dict(tally.operations.most_common()))
    print("not in the document:", dict(tally.unlisted.most_common(20)))
    print(f"finds: {len(tally.finds)}")
    for find in tally.finds[:10]:
        print(find["status"], find["method"], find["url"], find["answer"][:300])
    return 1 if tally.finds else 0


if __name__ == "__main__":
    sys.exit(main())
