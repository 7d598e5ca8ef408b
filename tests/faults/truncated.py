"""Connections that are closed in the middle of an upload, at random points."""

from __future__ import annotations

from collections import Counter

from tests.faults.fault import Dose, Fault
from tests.faults.load import under_load
from tests.faults.uploads import connection, reset, upload
from tests.faults.world import World


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    with under_load(world, dose.chance, clients=1):
        for number in range(150 if dose.long else 60):
            counts[_cut(world, dose, f"cut {dose.chance.getrandbits(40):x} {number}")] += 1
    return counts


def _cut(world: World, dose: Dose, name: str) -> str:
    """Of such an upload nothing may be there."""
    chance = dose.chance
    files = [world.photos.take(chance) for _ in range(chance.randint(1, 3))]
    person = world.ledger.begin(world.gallery, name, files)
    person.state = "gone"
    head, body = upload(person, files, chunked=chance.random() < 0.5)
    # The last bytes are some that cannot be missed: the mark of the end, or of the last chunk.
    sent = (head + body)[: chance.randint(1, len(head) + len(body) - 8)]
    opened = connection(world.service)
    opened.sendall(sent)
    if chance.random() < 0.5:
        reset(opened)
        return "reset"
    opened.close()
    return "closed"


FAULT = Fault("truncated-uploads", act)
