"""No room is left on the disk of database and snapshots, while people are enrolled and a folder is indexed."""

from __future__ import annotations

import time
from collections import Counter

from tests.faults import mounts
from tests.faults.fault import Dose, Fault
from tests.faults.folders import INDEX_S, finish, folder, indexer
from tests.faults.load import under_load
from tests.faults.world import ROOM, World, until

LATEST_S = 30.0
MOST_LEFT = 2 * 2**20
"""Bytes that may be left at first, so that it gets full at different points."""


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    tree = folder(world, dose.chance)
    with under_load(world, dose.chance):
        process = indexer(world, tree)
        time.sleep(dose.chance.uniform(1, 6))
        left = dose.chance.choice([0, dose.chance.randint(0, MOST_LEFT)])
        mounts.resize(world.home, mounts.used(world.home) + left)
        try:
            before = _refused(world)
            until(lambda: _refused(world) > before, LATEST_S)
            time.sleep(dose.seconds(3, 20))
            counts["disks full"] += 1
            counts["refused"] += _refused(world) - before
        finally:
            mounts.resize(world.home, ROOM)
        counts[f"indexer ended with {process.wait(INDEX_S)}"] += 1
        world.service.until_ready()
    finish(world, tree)
    return counts


def _refused(world: World) -> int:
    """What was answered by a 503 so far."""
    return world.ledger.counts["answered 503"]


def missing(world: World) -> str:
    return "" if world.own_disk else "nothing can be mounted here"


FAULT = Fault("full-disk", act, missing)
