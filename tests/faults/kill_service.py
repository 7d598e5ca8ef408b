"""The service is killed in the middle of enrolments, and started again."""

from __future__ import annotations

import time
from collections import Counter

from tests.faults.fault import Dose, Fault
from tests.faults.load import under_load
from tests.faults.world import World


def act(world: World, dose: Dose) -> Counter[str]:
    with under_load(world, dose.chance):
        time.sleep(dose.chance.uniform(0.5, 3))
        world.service.kill()
        time.sleep(dose.chance.uniform(0, 0.5))
        world.service.start()
        world.service.until_ready()
        time.sleep(dose.chance.uniform(0.5, 1.5))
    return Counter({"services killed": 1})


FAULT = Fault("kill-service", act)
