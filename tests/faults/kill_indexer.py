"""`facesearch index` is killed at random points; what it left is carried on by the next run."""

from __future__ import annotations

import time
from collections import Counter

from tests.faults.check import stray_rows
from tests.faults.fault import Dose, Fault
from tests.faults.folders import begun, finish, folder, indexer
from tests.faults.world import World, until

LATEST_S = 4.0
START_S = 60.0


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    tree = folder(world, dose.chance)
    for attempt in range(3 if dose.long else 2):
        process = indexer(world, tree)
        if attempt == 0:  # at least once in the middle of the work, and not before it
            until(lambda: begun(world, tree) or process.poll() is not None, START_S)  # noqa: B023
            time.sleep(dose.chance.uniform(0, LATEST_S / 3))
        else:
            time.sleep(dose.chance.uniform(0, LATEST_S))
        counts["indexers killed" if process.poll() is None else "indexers too quick"] += 1
        process.kill()
        process.wait()
        with world.database() as database:
            for wrong in stray_rows(database):
                world.ledger.violation(f"after the kill: {wrong}")
    finish(world, tree)
    return counts


FAULT = Fault("kill-indexer", act)
