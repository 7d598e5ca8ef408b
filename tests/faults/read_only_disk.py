"""Nothing can be written: the disk is mounted read-only, or its files may not be changed any more."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults import mounts
from tests.faults.fault import Dose, Fault
from tests.faults.load import under_load
from tests.faults.world import World


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    with under_load(world, dose.chance):
        for way in ways(world):
            time.sleep(dose.chance.uniform(0.5, 1.5))
            with WAYS[way](world.home):
                if dose.chance.random() < 0.7 or way != "files immutable":
                    _kill_postgres(world)
                time.sleep(dose.seconds(3, 20))
            counts[way] += 1
            world.service.until_ready()
    return counts


def ways(world: World) -> list[str]:
    """What is possible here."""
    if not world.own_disk:
        return ["folders closed"]
    found = ["mounted read-only"]
    return [*found, "files immutable"] if mounts.may_be_immutable(world.home) else found


@contextlib.contextmanager
def closed(home: Path) -> Iterator[None]:
    """Postgres' account may make no file: for want of a mount. Root itself is not hindered."""
    folders = [p for p in (home / "postgres", home / "postgres" / "data") if p.is_dir()]
    modes = {folder: folder.stat().st_mode for folder in folders}
    try:
        for folder in folders:
            folder.chmod(0o500)
        yield
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode & 0o777)


def _kill_postgres(world: World) -> None:
    """It could go on with the files that it has open; when it starts again it cannot."""
    for pid in world.server_processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


WAYS = {
    "mounted read-only": mounts.read_only,
    "files immutable": mounts.immutable,
    "folders closed": closed,
}
FAULT = Fault("read-only-disk", act)
