"""Erases by itself what may no longer be kept, as everything is erased: with receipts and entries in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from indexer import people
from indexer.audit import COMMAND, Actor
from indexer.errors import NotFound
from indexer.store import galleries, identities
from indexer.store import retention as store
from indexer.store.engine import Database
from indexer.store.retention import Consent

SWEEPER = Actor("retention")
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Swept:
    people: int
    images: int


def sweep(database: Database) -> Swept:
    """Erase people whose consent has ended, and uploads past their gallery's retention."""
    persons = photographs = 0
    while True:
        with database.read() as connection:
            ended = store.ended(connection, AT_ONCE)
            old = store.too_old(connection, AT_ONCE)
        done = 0
        for gallery, name in ended:
            done += _gone(lambda: people.erase_identity(database, gallery, name, SWEEPER))  # noqa: B023
        persons, done_before = persons + done, done
        for gallery, image in old:
            done += _gone(lambda: people.erase_image(database, gallery, image, SWEEPER))  # noqa: B023
        photographs += done - done_before
        if not done:
            return Swept(persons, photographs)


def _gone(erase: Callable[[], people.Receipt]) -> int:
    """Whether it was there to be erased: somebody else may have been faster."""
    try:
        erase()
    except NotFound:
        return 0
    return 1


def set_consent(
    database: Database, gallery: str, identity: str, consent: Consent, by: Actor = COMMAND
) -> None:
    """Raises NotFound."""
    with database.write() as connection:
        held = galleries.hold(connection, gallery)
        identity_id = identities.find(connection, held.id, identity)
        store.set_consent(connection, identity_id, consent)
        by.record(connection, "identity.consent", held.name, identity_id=identity_id)
