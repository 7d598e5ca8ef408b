"""Telling people and the database how far a run is, and learning that it should stop."""

from __future__ import annotations

import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from indexer.errors import Cancelled, DatabaseUnavailable
from indexer.store import jobs
from indexer.store.engine import Database

MAX_ERRORS = 100
REPORT_S = 1.0
LINE_S = 5.0


class Display(Protocol):
    """Where progress is shown."""

    def show(self, phase: str, done: int, total: int | None) -> None: ...

    def close(self) -> None: ...


class Silent:
    def show(self, phase: str, done: int, total: int | None) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line every few seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._phase = ""

    def show(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._started = phase, now
        elif now - self._last < LINE_S and done != total:
            return
        self._last = now
        rate = done / max(now - self._started, 1e-9)
        rest = f", {(total - done) / rate:.0f} s left" if total and rate > 0 else ""
        print(f"{phase}: {done}/{total if total is not None else '?'} ({rate:.1f}/s{rest})",
              file=sys.stderr, flush=True)  # fmt: skip

    def close(self) -> None: ...


class DownloadLines:
    """A line when a download starts, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._file = ""
        self._last = 0.0

    def show(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase == self._file and done != total and now - self._last < LINE_S:
            return
        self._file, self._last = phase, now
        of = f" of {total / 1e6:.1f}" if total is not None else ""
        print(f"fetching {phase}: {done / 1e6:.1f}{of} MB", file=sys.stderr, flush=True)

    def close(self) -> None: ...


def downloads(quiet: bool) -> Display:
    """How files are shown that come by their bytes."""
    if quiet:
        return Silent()
    if not sys.stderr.isatty():
        return DownloadLines()
    from indexer.bars import DownloadBar  # noqa: PLC0415 - slow to import, for terminals only

    return DownloadBar()


def display(quiet: bool) -> Display:
    if quiet:
        return Silent()
    if not sys.stderr.isatty():
        return Lines()
    from indexer.bars import Bar  # noqa: PLC0415

    return Bar()


class Run:
    """One run's job row: counts, errors, heartbeat; `step` raises Cancelled when asked to stop."""

    def __init__(self, database: Database, job_id: uuid.UUID, shown: Display) -> None:
        self._database = database
        self._display = shown
        self._job_id = job_id
        self._reported = 0.0
        self._phase = ""
        self._done = 0
        self._total: int | None = None
        self.counts: Counter[str] = Counter()
        self.errors: list[dict[str, str]] = []
        self.interrupted: Callable[[], bool] = lambda: False

    def phase(self, name: str, total: int | None) -> None:
        self._phase, self._done, self._total = name, 0, total
        self._display.show(name, 0, total)
        self._report()

    def step(self, done: int = 1) -> None:
        """`done` more are finished. Raises Cancelled."""
        self._done += done
        self._display.show(self._phase, self._done, self._total)
        if self.interrupted():
            raise Cancelled("interrupted; run it again to carry on")
        if time.monotonic() - self._reported >= REPORT_S:
            self._report()

    def count(self, outcome: str, number: int = 1) -> None:
        self.counts[outcome] += number

    def problem(self, path: str, reason: str) -> None:
        """Note a file that could not be used; the first hundred are kept."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"path": path, "reason": reason})

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.close()
        state = "done" if error is None else "cancelled" if _stopped(error) else "failed"
        with suppress(DatabaseUnavailable), self._database.write() as connection:
            jobs.report(connection, self._job_id, self._progress())
            jobs.finish(connection, self._job_id, state, str(error) if error else None)

    def _report(self) -> None:
        self._reported = time.monotonic()
        with self._database.write() as connection:
            if jobs.report(connection, self._job_id, self._progress()):
                raise Cancelled("cancelled on request; run it again to carry on")

    def _progress(self) -> jobs.Progress:
        return jobs.Progress(
            self._phase, self._done, self._total, dict(self.counts), tuple(self.errors)
        )


def _stopped(error: BaseException) -> bool:
    return isinstance(error, Cancelled | KeyboardInterrupt)
