"""Clients that enrol, find and erase people, whatever happens, and remember what they were told."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.faults.ledger import Person
from tests.faults.world import World

CLIENTS = 3
MOST_AT_ONCE = 3
TIMEOUT_S = 20.0
JOIN_S = 60.0
AWAY = frozenset({httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.REQUEST_TIMEOUT})
"""What a server may say in trouble; anything else that is no success is a mistake."""
OLD = 6
"""So many people of its own a client keeps before it erases some."""


class Client(threading.Thread):
    def __init__(self, world: World, name: str, chance: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self._world = world
        self._chance = chance
        self._numbers = itertools.count()
        self._own: list[Person] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        with self._world.service.client(TIMEOUT_S) as client:
            while not self._stopping.is_set():
                try:
                    self._act(client)
                except httpx.TransportError:
                    self._world.ledger.count("no answer")
                    time.sleep(0.1)
                except Exception as error:
                    self._world.ledger.violation(f"{self.name} ended: {error!r}")
                    raise
                time.sleep(self._chance.uniform(0, 0.05))

    def _act(self, client: httpx.Client) -> None:
        if self._chance.random() < 0.2:
            self._search(client)
        elif len(self._own) > OLD and self._chance.random() < 0.5:
            self._erase(client, self._own.pop(0))
        else:
            files = [
                self._world.photos.take(self._chance)
                for _ in range(self._chance.randint(1, MOST_AT_ONCE))
            ]
            person = self._world.ledger.begin(
                self._world.gallery, f"{self.name} {next(self._numbers)}", files
            )
            if enrol(self._world, client, person, files):
                self._own.append(person)

    def _search(self, client: httpx.Client) -> None:
        photo = {"img": self._world.photos.take(self._chance)}
        answer = client.post("/find", files=photo, data={"gallery": self._world.gallery})
        if said(self._world, answer, httpx.codes.OK):
            self._world.ledger.count("searched")

    def _erase(self, client: httpx.Client, person: Person) -> None:
        person.state = "either"
        answer = client.delete(f"/galleries/{person.gallery}/identities/{person.name}")
        if said(self._world, answer, httpx.codes.OK):
            person.state = "gone"
            self._world.ledger.count("erased")


def enrol(world: World, client: httpx.Client, person: Person, files: list[bytes]) -> bool:
    """Whether it was answered that they are there."""
    parts = [("files", (f"{n}.jpg", data)) for n, data in enumerate(files)]
    answer = client.post(
        f"/galleries/{person.gallery}/identities/{person.name}/images", files=parts
    )
    if not said(world, answer, httpx.codes.CREATED):
        return False
    person.state = "there"
    world.ledger.count("enrolled")
    return True


def said(world: World, answer: httpx.Response, wanted: int) -> bool:
    """Whether it is what was wanted; an answer that is no regular one is a violation."""
    if answer.status_code == wanted:
        return True
    if answer.status_code not in AWAY:
        world.ledger.violation(f"status {answer.status_code}: {answer.text[:300]}")
    world.ledger.count(f"answered {answer.status_code}")
    return False


@contextmanager
def under_load(world: World, chance: random.Random, clients: int = CLIENTS) -> Iterator[None]:
    """Clients at work for as long as the block lasts."""
    mark = f"{chance.getrandbits(40):010x}"
    seeds = [chance.getrandbits(64) for _ in range(clients)]
    threads = [Client(world, f"{mark}-{n}", random.Random(seed)) for n, seed in enumerate(seeds)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                world.ledger.violation(f"{thread.name} does not end")
