"""What a fault is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.world import World


@dataclass(frozen=True, slots=True)
class Dose:
    """How long faults last: `long` for a minute where that is what is asked for."""

    chance: random.Random
    long: bool = False

    def seconds(self, short: float, long: float) -> float:
        return long if self.long else short


def nothing(_world: World) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """`act` commits it, undoes it, and counts what it did; `missing` says why it cannot be done here."""

    name: str
    act: Callable[[World, Dose], Counter[str]]
    missing: Callable[[World], str] = nothing
