"""Where photographs become faces: in threads of this process, in processes of their own, or on a Ray cluster.

All three do the same work with the same results; a run reads files, hands their bytes to an engine and stores what
comes back. A photograph that ends a worker is tried again by another one, and reported if it ends that one too.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal, Protocol

from indexer.enrol import Extracted, Extractor
from indexer.errors import IndexerError
from indexer.ray_engine import RayCluster
from indexer.settings import Settings
from indexer.store.spaces import Space
from indexer.workshop import TRIES, WorkerFailed, fatal, recognizer
from recognition.errors import RecognitionError
from recognition.pipeline import Recognizer

EngineName = Literal["local", "processes", "ray"]
STOP_S = 5.0


class Engine(Protocol):
    """May be asked from `at_once` threads at a time."""

    at_once: int

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        """The faces of one file in every target. A bad image is part of the result; raises WorkerFailed."""
        ...


class Local:
    """Threads of this process: decoding, detection and networks run outside of Python's lock."""

    def __init__(
        self, recognise: Recognizer, settings: Settings, threads: int | None = None
    ) -> None:
        self.at_once = threads or settings.images_at_once
        self._extractor = Extractor(recognise, settings)

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        return self._extractor.extract(data, targets)


class Processes:
    """Worker processes on this machine, each with networks of its own."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.at_once = workers
        self._workers = [WorkerProcess(settings) for _ in range(workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        worker = self._idle.get()
        try:
            return worker.extract(data, targets)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class WorkerProcess:
    """One process, started anew when it ends. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process, self._pipe = _start(settings)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        for _ in range(TRIES):
            try:
                self._pipe.send((data, tuple(targets)))
                answer = self._pipe.recv()
            except (EOFError, OSError):
                self.close()
                self._process, self._pipe = _start(self._settings)
                continue
            if isinstance(answer, Extracted):
                return answer
            raise WorkerFailed(str(answer))
        return fatal(data)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _start(
    settings: Settings,
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """A worker that is ready; raises WorkerFailed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join(STOP_S)
        raise WorkerFailed(
            f"a worker process ended before it was ready (exit code {process.exitcode})"
        ) from None
    if answer is not True:
        raise WorkerFailed(str(answer))
    return process, ours


def _serve(pipe: Connection, settings: Settings) -> None:
    """A worker's life: until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the run decides
    with suppress(EOFError, OSError):
        try:
            extractor = Extractor(recognizer(settings, isolated=False), settings)
        except (IndexerError, RecognitionError) as error:
            pipe.send(str(error))
            return
        pipe.send(True)
        while True:
            data, targets = pipe.recv()
            try:
                pipe.send(extractor.extract(data, targets))
            except (IndexerError, RecognitionError) as error:
                pipe.send(str(error))


@dataclass(frozen=True, slots=True)
class Choice:
    """`workers`: how many at once, by default one for each core; `address`: of a Ray cluster, by default one of this
    machine alone that ends with the run."""

    name: EngineName = "local"
    workers: int | None = None
    address: str | None = None


@contextmanager
def opened(choice: Choice, recognise: Recognizer, settings: Settings) -> Iterator[Engine]:
    """That engine while it is needed. Raises WorkerFailed."""
    if choice.name == "local":
        yield Local(recognise, settings, choice.workers)
        return
    engine: Processes | RayCluster
    if choice.name == "ray":
        engine = RayCluster(settings, choice.workers, choice.address)
    else:
        engine = Processes(settings, choice.workers or settings.threads)
    try:
        yield engine
    finally:
        engine.close()
