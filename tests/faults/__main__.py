"""python -m tests.faults --rounds 10: commit every fault so often, and look what is left of the data after each."""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import time
from collections import Counter

from indexer.settings import Settings
from tests.faults.catalogue import FAULTS
from tests.faults.check import check
from tests.faults.fault import Dose, Fault
from tests.faults.world import World, built


def main() -> int:
    given = _arguments()
    names = given.only.split(",") if given.only else list(FAULTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    print(f"seed {given.seed}", flush=True)
    chance = random.Random(given.seed)
    done: Counter[str] = Counter()
    bad = 0
    with built(Settings().weights_folder) as world:
        for number in range(given.rounds):
            for name in names:
                why = FAULTS[name].missing(world)
                if why:
                    print(f"{number} {name}: left out, {why}", flush=True)
                    continue
                began = time.monotonic()
                counts, wrong = _committed(world, FAULTS[name], Dose(chance, long=not given.short))
                done[name] += 1
                bad += len(wrong)
                told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
                print(f"{number} {name}: {told}; {time.monotonic() - began:.0f} s", flush=True)
                print("".join(f"    {line}\n" for line in wrong), end="", flush=True)
        done.update({f"({what})": count for what, count in world.ledger.counts.items()})
    print("\n".join(f"{what:28} {count:>7,}" for what, count in sorted(done.items())))
    print(f"{'violations':28} {bad:>7,}")
    return 1 if bad else 0


def _committed(world: World, fault: Fault, dose: Dose) -> tuple[Counter[str], list[str]]:
    """What it did, and what is wrong after it."""
    try:
        counts = fault.act(world, dose)
    except Exception as error:
        return Counter(), [f"it could not be committed: {error!r}", *check(world)]
    return counts, check(world)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--short", action="store_true", help="as the tests do it: no whole minutes")
    given = parser.parse_args()
    for name in filter(None, given.only.split(",")):
        if name not in FAULTS:
            parser.error(f"there is no fault {name}")
    return given


if __name__ == "__main__":
    sys.exit(main())
