"""What happened to every face, and whether an answer is possible in the light of it; no I/O."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Owner = str | None

KEPT = 20_000
"""So many faces are remembered; beyond that those that are gone for certain are forgotten."""


@dataclass(slots=True)
class Operation:
    """A change of a face's owner (None: there is no such face). Times are of one monotonic clock.

    `version` is None until the commit was acknowledged. `lost`: it never happened.
    """

    owner: Owner
    begun: float
    version: int | None = None
    acknowledged: float | None = None
    lost: bool = False


@dataclass(slots=True)
class FaceRecord:
    number: int
    vector: np.ndarray
    operations: list[Operation] = field(default_factory=list)

    @property
    def owner(self) -> Owner:
        """Who has it now, as far as that is settled."""
        done = [op for op in self.operations if op.version is not None and not op.lost]
        return done[-1].owner if done else None

    @property
    def version(self) -> int:
        """The version of the last acknowledged operation."""
        return max((op.version or 0 for op in self.operations if not op.lost), default=0)

    @property
    def over(self) -> bool:
        """Whether it is gone, or never came, and nothing is open: it can only stay away."""
        open_ = any(op.version is None and not op.lost for op in self.operations)
        return bool(self.operations) and not open_ and self.owner is None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said when it was asked for a face by its very embedding."""

    owner: Owner
    version: int
    min_version: int
    sent: float
    received: float


class Ledger:
    """Written by the writers, read by the checkers."""

    def __init__(self, clock: Callable[[], float], kept: int = KEPT) -> None:
        self._clock = clock
        self._kept = kept
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self.faces: list[FaceRecord] = []

    def new(self, vector: np.ndarray) -> FaceRecord:
        with self._lock:
            if len(self.faces) >= self._kept:
                self._forget()
            record = FaceRecord(next(self._numbers), vector)
            self.faces.append(record)
            return record

    def _forget(self) -> None:
        """The oldest of those that are over, a tenth of all at a time; readers go on with their list."""
        over = [record.number for record in self.faces if record.over]
        gone = set(over[: max(1, self._kept // 10)])
        self.faces = [record for record in self.faces if record.number not in gone]

    def begin(self, record: FaceRecord, owner: Owner) -> Operation:
        operation = Operation(owner, self._clock())
        with self._lock:
            record.operations.append(operation)
        return operation

    def done(self, operation: Operation, version: int) -> None:
        with self._lock:
            operation.version, operation.acknowledged = version, self._clock()

    def lost(self, operation: Operation) -> None:
        """It is certain that it did not happen."""
        with self._lock:
            operation.lost = True

    def check(self, record: FaceRecord, reply: Reply) -> str | None:
        """What is wrong with the reply, or None."""
        if reply.version < reply.min_version:
            return f"version {reply.version} is older than the min_version {reply.min_version}"
        with self._lock:
            possible = possible_owners(record.operations, reply)
        if reply.owner in possible:
            return None
        return (
            f"face {record.number} was said to be {reply.owner!r}'s at version {reply.version}; "
            f"possible: {sorted(map(str, possible))}"
        )


def possible_owners(operations: list[Operation], reply: Reply) -> set[Owner]:
    """Everything from the last change that the reply must know to the last that it may know.

    It must know the changes up to its version, and a deletion that was acknowledged before it was
    asked for: answers are confirmed by the database. It may know whatever was begun before it came.
    """
    possible: set[Owner] = {None}
    for operation in operations:
        if operation.lost or operation.begun > reply.received:
            continue
        known = operation.version is not None and operation.version <= reply.version
        deleted = operation.owner is None and (operation.acknowledged or np.inf) < reply.sent
        if known or deleted:
            possible = {operation.owner}
        else:
            possible.add(operation.owner)
    return possible
