"""A home of its own with everything in it that is real: database, weights, photographs, a service."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from indexer.embedded import EmbeddedPostgres
from indexer.embedded_system import processes
from indexer.settings import Settings
from indexer.store.engine import Database
from recognition.samples import SAMPLES
from recognition.weights import Policy, WeightsCache
from tests.faults import mounts
from tests.faults.ledger import Ledger
from tests.faults.photos import Photos
from tests.faults.service import Service

ROOM = 2 * 2**30
"""Bytes of a home on a file system of its own; taken only where they are used."""
SERVICE = {
    "keep_uploads": "true",
    "cache_snapshots": "5",  # so that the cache writes to disk
    "body_timeout": "4",
    "downloads": "false",
}
GALLERY = "default"


@dataclass(frozen=True, slots=True)
class World:
    """`own_disk`: whether the home is a file system of its own, which can be made small."""

    home: Path
    outside: Path
    own_disk: bool
    photos: Photos
    service: Service
    gallery: str = GALLERY
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, downloads=False)

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """Opened anew: its first connection would start a server that is down."""
        opened = Database.open(self.settings)
        try:
            yield opened
        finally:
            opened.close()

    def postmaster(self) -> int | None:
        return EmbeddedPostgres(self.home).status().pid

    def server_processes(self) -> list[int]:
        """The database's, with the postmaster; found by our own home in the postmaster's arguments."""
        data = str(EmbeddedPostgres(self.home).status().folder / "data")
        listed = list(processes())
        clusters = {
            word.removeprefix("cluster_name=")
            for _, line in listed
            if f" -D {data} " in line
            for word in line.split()
            if word.startswith("cluster_name=")
        }
        return [pid for pid, line in listed if any(name in line for name in clusters)]


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def portraits(weights: WeightsCache) -> dict[str, bytes]:
    paths = weights.ensure([sample.weights for sample in SAMPLES])
    return {s.file: p.read_bytes() for s, p in zip(SAMPLES, paths, strict=True)}


@contextlib.contextmanager
def built(weights: Path) -> Iterator[World]:
    """With the weights of that folder; everything is ended and removed at the end."""
    base = Path(tempfile.mkdtemp(prefix="facesearch-faults-"))
    base.chmod(0o755)
    home = base / "home"
    home.mkdir()
    own_disk = mounts.possible()
    if own_disk:
        mounts.tmpfs(home, ROOM)
    (home / "weights").symlink_to(weights)
    photos = Photos(portraits(WeightsCache(weights, policy=Policy(addresses=False))))
    service = Service(home, base / "service.log", **SERVICE)
    try:
        service.start()
        service.until_ready()
        yield World(home, base, own_disk, photos, service)
    finally:
        service.stop()
        EmbeddedPostgres(home).stop()
        if own_disk:
            mounts.unmount(home)
        shutil.rmtree(base, ignore_errors=True)
