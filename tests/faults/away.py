"""The database is away for a while: its processes stand still, or the way to it over the network is cut."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import httpx
from sqlalchemy import make_url

from indexer.embedded import EmbeddedPostgres
from tests.faults.check import check
from tests.faults.fault import Dose, Fault
from tests.faults.load import under_load
from tests.faults.proxy import Proxy
from tests.faults.service import Service
from tests.faults.world import SERVICE, World

SHORT_S, LONG_S = 4.0, 60.0
PATIENCE_S = 20.0
"""A bound for an answer that needs no database."""


def stopped(world: World, dose: Dose) -> Counter[str]:
    """Every process of the database stands still: connections stay open and nothing comes back."""
    with under_load(world, dose.chance):
        time.sleep(dose.chance.uniform(0.5, 1.5))
        still = world.server_processes()
        with _signalled(still):
            _alive(world, dose.seconds(SHORT_S, LONG_S))
        world.service.until_ready()
        time.sleep(1)
    return Counter({"seconds away": round(dose.seconds(SHORT_S, LONG_S))})


def unreachable(world: World, dose: Dose) -> Counter[str]:
    """A service of its own that comes to the same database over the network, cut and mended."""
    host = make_url(EmbeddedPostgres(world.home).url).query["host"]
    proxy = Proxy(world.home / str(host) / ".s.PGSQL.5432")
    url = f"postgresql://facesearch@127.0.0.1:{proxy.port}/facesearch"
    other = Service(world.home, world.outside / "other.log", **SERVICE, database_url=url)
    far = replace(world, service=other)
    with proxy.running():
        try:
            other.start()
            other.until_ready()
            with under_load(far, dose.chance):
                time.sleep(dose.chance.uniform(0.5, 1.5))
                proxy.swallow(True)
                time.sleep(1)
                proxy.cut()
                proxy.swallow(False)
                _alive(far, dose.seconds(SHORT_S, LONG_S))
                proxy.mend()
                other.until_ready()
                time.sleep(1)
            for wrong in check(far):
                world.ledger.violation(f"over the network: {wrong}")
        finally:
            other.stop()
    return Counter({"seconds away": round(dose.seconds(SHORT_S, LONG_S))})


@contextlib.contextmanager
def _signalled(pids: Sequence[int]) -> Iterator[None]:
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _alive(world: World, seconds: float) -> None:
    """What needs no database is answered all the time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        answer = httpx.get(world.service.url + "/healthz", timeout=PATIENCE_S, trust_env=False)
        if answer.status_code != httpx.codes.OK:
            world.ledger.violation(f"/healthz says {answer.status_code}")
        time.sleep(0.3)


STOPPED = Fault("database-stopped", stopped)
UNREACHABLE = Fault("database-unreachable", unreachable)
