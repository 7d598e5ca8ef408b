"""Every fault once, in its short form: what `python -m tests.faults` does for as long as you like."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from recognition.weights import WeightsCache
from tests.faults.catalogue import FAULTS
from tests.faults.check import check
from tests.faults.fault import Dose
from tests.faults.world import World, built

SEED = 6


@pytest.fixture(scope="module")
def world(weights_cache: WeightsCache) -> Iterator[World]:
    with built(weights_cache.folder) as made:
        yield made


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_left_behind_by(world: World, name: str) -> None:
    fault = FAULTS[name]
    why = fault.missing(world)
    if why:
        pytest.skip(why)
    done = fault.act(world, Dose(random.Random(f"{SEED} {name}")))
    assert check(world) == []
    assert done.total() > 0


def test_all_that_was_a_real_load(world: World) -> None:
    """Otherwise nothing was proved; the tests before this one are those that count."""
    counts = world.ledger.counts
    if not counts:
        pytest.skip("no fault was committed")
    assert counts["enrolled"] > 0, counts
    assert counts["no answer"] + counts["answered 503"] > 0, counts
