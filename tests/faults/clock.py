"""The wall clock jumps. To the database that is the same as all its times being moved the other way.

Whatever is decided by the clock is decided in the database by now(); the processes measure time by
clocks that do not jump, which `test_no_wall_clock` watches. So nothing has to be done to this machine's.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import text

from indexer.errors import DatabaseUnavailable
from indexer.maintain import maintain
from indexer.store import audit, jobs
from indexer.store.audit import Entry
from tests.faults.fault import Dose, Fault
from tests.faults.load import enrol, under_load
from tests.faults.world import World, until

JUMPS = tuple(timedelta(hours=hours) for hours in (-1000, -3, 3, 1000))
BACK = timedelta(hours=-1)
TRIES = 20
SOON_S = 90.0
"""A bound for what must not wait until the clock is where it was."""
COLUMNS = text(
    "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = 'public' AND data_type = 'timestamp with time zone'"
    " AND table_name <> 'audit_log'"  # its times are part of its hashes
)


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    with under_load(world, dose.chance, clients=1):
        for step in dose.chance.sample(JUMPS, len(JUMPS) if dose.long else 2):
            jump(world, step)
            time.sleep(1)
            with world.database() as database:
                maintain(database, world.settings)
            counts["jumps"] += 1
    _entries_of_other_times(world)
    job = _running(world)
    world.service.kill()  # its last signs of life lie in the future now
    jump(world, BACK)
    world.service.start()
    world.service.until_ready()
    _erase(world, dose)
    if not until(lambda: _state(world, job) == "done", SOON_S):
        world.ledger.violation(f"a job of a killed process is {_state(world, job)}")
    counts["jumps"] += 1
    return counts


def jump(world: World, step: timedelta) -> None:
    """In one transaction, which may get in the way of those of others: then once more."""
    for _ in range(TRIES):
        try:
            _move_all(world, step)
        except DatabaseUnavailable:
            continue
        return
    raise TimeoutError("the times cannot be moved")


def _move_all(world: World, step: timedelta) -> None:
    with world.database() as database, database.write() as connection:
        for table, column in connection.execute(COLUMNS).all():
            connection.execute(
                text(f'UPDATE {table} SET "{column}" = "{column}" - :step'), {"step": step}
            )


def _running(world: World) -> str:
    """A job of a process that is killed with the service."""
    with world.database() as database, database.write() as connection:
        job = jobs.create(connection, "reindex", world.gallery, {}, "running")
    return str(job)


def _state(world: World, job: str) -> str:
    with world.service.client() as client:
        answer = client.get(f"/jobs/{job}")
        return str(answer.json()["state"]) if answer.is_success else answer.text


def _entries_of_other_times(world: World) -> None:
    """Of clocks that were wrong by ten years; the chain goes by numbers."""
    entries = [
        Entry("command", "fault", world.gallery, at=datetime.now(UTC) + timedelta(days=days))
        for days in (-3650, 3650, 0)
    ]
    with world.database() as database, database.write() as connection:
        audit.append(connection, entries)


def _erase(world: World, dose: Dose) -> None:
    """An erasure is acknowledged by those that live, and waits for nobody else."""
    files = [world.photos.take(dose.chance)]
    name = f"erased {dose.chance.getrandbits(40):x}"
    person = world.ledger.begin(world.gallery, name, files)
    with world.service.client() as client:
        if not enrol(world, client, person, files):
            world.ledger.violation("after the jump nobody can be enrolled")
            return
        person.state = "gone"
        erased = client.delete(f"/galleries/{person.gallery}/identities/{person.name}").json()

        def clean() -> bool:
            told = client.get(f"/erasures/{erased['erasure_id']}")
            return told.status_code == httpx.codes.OK and bool(told.json()["clean"])

        if not until(clean, SOON_S):
            told = client.get(f"/erasures/{erased['erasure_id']}").text
            world.ledger.violation(f"an erasure is not acknowledged: {told}")


FAULT = Fault("clock-jumps", act)
