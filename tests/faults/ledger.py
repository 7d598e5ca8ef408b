"""What clients were told of each person; no I/O."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

Whereabouts = Literal["there", "gone", "either"]


@dataclass(slots=True)
class Person:
    """`state`: what must be found of all the photographs together; never some of them."""

    gallery: str
    name: str
    photos: frozenset[bytes]
    state: Whereabouts = "either"

    def wrong(self, found: Collection[bytes]) -> str | None:
        """What is wrong with these photographs being the person's, or None."""
        whole, absent = set(found) == self.photos and len(found) == len(self.photos), not found
        if (whole and self.state != "gone") or (absent and self.state != "there"):
            return None
        told = f"{len(found)} of {len(self.photos)} photographs"
        return f"{self.name} must be {self.state}, and has {told}"


@dataclass(slots=True)
class Ledger:
    """Written by many clients at once."""

    people: list[Person] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, gallery: str, name: str, files: Sequence[bytes]) -> Person:
        """A person who is about to be enrolled by these files, in one request."""
        person = Person(gallery, name, frozenset(hashlib.sha256(data).digest() for data in files))
        with self._lock:
            self.people.append(person)
        return person

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def violation(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)

    def told(self) -> list[str]:
        """The violations since this was last asked."""
        with self._lock:
            told, self.violations = self.violations, []
            return told
