"""Postgres' first process, or one of those that serve connections, is killed under load."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter

from tests.faults.fault import Dose, Fault
from tests.faults.load import under_load
from tests.faults.world import World


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    with under_load(world, dose.chance):
        for _ in range(3 if dose.long else 2):
            time.sleep(dose.chance.uniform(0.5, 3))
            counts[_kill(world, dose)] += 1
        world.service.until_ready()
        time.sleep(dose.chance.uniform(0.5, 1))
    return counts


def _kill(world: World, dose: Dose) -> str:
    first = world.postmaster()
    if first is None:
        return "was down already"
    if dose.chance.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        return "postmasters killed"
    children = [pid for pid in world.server_processes() if pid != first]
    for pid in dose.chance.sample(children, min(2, len(children))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "times two of its processes killed"


FAULT = Fault("kill-postgres", act)
