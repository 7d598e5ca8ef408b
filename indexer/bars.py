"""Progress as bars, for terminals: apart from what knows of progress, as Rich is slow to import."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """A bar with rate and time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._phase = ""
        self._started = time.monotonic()
        self._progress.start()

    def show(self, phase: str, done: int, total: int | None) -> None:
        if phase != self._phase:
            self._phase, self._started = phase, time.monotonic()
        rate = f"{done / max(time.monotonic() - self._started, 1e-9):.1f}/s"
        if self._task is None:
            self._task = self._progress.add_task(phase, total=total, rate=rate)
        self._progress.update(self._task, description=phase, completed=done, total=total, rate=rate)

    def close(self) -> None:
        self._progress.stop()


class DownloadBar:
    """A bar for each file, with its bytes and their rate."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, phase: str, done: int, total: int | None) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase)
        self._progress.update(self._tasks[phase], completed=done, total=total)

    def close(self) -> None:
        self._progress.stop()
