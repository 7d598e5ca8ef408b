"""Many clients that send a body byte by byte, never finish their headers, or never read; others are answered."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import httpx

from service.protocol import Impatient
from tests.faults.fault import Dose, Fault
from tests.faults.load import enrol
from tests.faults.uploads import connection, upload
from tests.faults.world import SERVICE, World, until

EACH = 60
NORMAL = 8
GRACE_S = 60.0
"""A bound for being sent away, beyond the time that a body may take."""


def act(world: World, dose: Dose) -> Counter[str]:
    counts: Counter[str] = Counter()
    many = EACH * (3 if dose.long else 1)
    with ExitStack() as stack:
        dribbling = [stack.enter_context(_begun(world, dose, n)) for n in range(many)]
        unfinished = [stack.enter_context(connection(world.service)) for _ in range(many)]
        for opened in unfinished:
            opened.sendall(b"POST /find HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for _ in range(many):
            stack.enter_context(_never_reading(world))
        with _dribble(dribbling):
            _others_are_answered(world, dose)
            limit = float(SERVICE["body_timeout"]) + GRACE_S
            if not until(lambda: all(_ended(each) for each in dribbling), limit):
                world.ledger.violation("bodies may be sent for ever")
            limit = Impatient.headers_s + GRACE_S
            if dose.long and not until(lambda: all(_ended(each) for each in unfinished), limit):
                world.ledger.violation("headers may be sent for ever")
        counts["slow clients at once"] = 3 * many
    return counts


def _others_are_answered(world: World, dose: Dose) -> None:
    with world.service.client() as client:
        for number in range(NORMAL):
            files = [world.photos.take(dose.chance)]
            name = f"beside {dose.chance.getrandbits(40):x} {number}"
            person = world.ledger.begin(world.gallery, name, files)
            if not enrol(world, client, person, files):
                world.ledger.violation("an enrolment beside slow clients was refused")
            found = client.post("/find", files={"img": files[0]}, data={"gallery": world.gallery})
            if found.status_code != httpx.codes.OK:
                world.ledger.violation(f"a search beside slow clients: {found.status_code}")


@contextmanager
def _begun(world: World, dose: Dose, number: int) -> Iterator[socket.socket]:
    """An upload of which half has been sent: nobody may ever be there by it."""
    files = [world.photos.take(dose.chance)]
    name = f"slow {dose.chance.getrandbits(40):x} {number}"
    person = world.ledger.begin(world.gallery, name, files)
    person.state = "gone"
    head, body = upload(person, files)
    with connection(world.service) as opened:
        opened.sendall(head + body[: len(body) // 2])
        yield opened


@contextmanager
def _never_reading(world: World) -> Iterator[socket.socket]:
    """Asks for something large, and reads nothing of it."""
    with connection(world.service) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(0.2)
        with suppress(TimeoutError):
            opened.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield opened


@contextmanager
def _dribble(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """A byte to each of them now and then."""
    over = threading.Event()

    def work() -> None:
        for each in itertools.cycle(sockets):
            if over.wait(0.2 / len(sockets)):
                return
            try:
                each.send(b"\0")
            except OSError:
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ended(opened: socket.socket) -> bool:
    """Whether the server answered, or closed the connection."""
    opened.settimeout(0.01)
    try:
        opened.recv(65536)
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


FAULT = Fault("slow-clients", act)
