"""No room is left on the disk of database and snapshots, while people are enrolled and a folder is indexed."""

from __future__ import annotations

import os
import time
from collections import Counter

from tests.faults import mounts
from tests.faults.fault import Dose, Fault
from tests.faults.folders import INDEX_S, finish, folder, indexer
from tests.faults.load import under_load
from tests.faults.world import ROOM, World

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
            time.sleep(dose.seconds(6, 20))
            counts["disks full"] += mounts.used(world.home) + 2**20 > _size(world)
        finally:
            mounts.resize(world.home, ROOM)
        counts[f"indexer ended with {process.wait(INDEX_S)}"] += 1
        world.service.until_ready()
    finish(world, tree)
    return counts


def _size(world: World) -> int:
    found = os.statvfs(world.home)
    return found.f_blocks * found.f_frsize


def missing(world: World) -> str:
    return "" if world.own_disk else "nothing can be mounted here"


FAULT = Fault("full-disk", act, missing)
