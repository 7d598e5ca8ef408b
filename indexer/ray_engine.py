"""Photographs become faces on a Ray cluster: `facesearch index TREE --engine ray [--address A]`.

The machine that runs the command reads the files and writes the database; the cluster's machines need this package with
the extra `ray`, and the weights (in their own FACESEARCH_HOME, where packaged ones are fetched). Ray: P. Moritz et al.,
Ray: A Distributed Framework for Emerging AI Applications (2018), Apache-2.0.
"""

from __future__ import annotations

import importlib
import queue
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from indexer.enrol import Extracted, Extractor
from indexer.errors import IndexerError
from indexer.settings import Settings
from indexer.store.spaces import Space
from indexer.workshop import WorkerFailed, fatal, recognizer
from recognition.errors import RecognitionError

OWN = (
    "home", "database_url", "database_password_file", "postgres_user", "threads", "template_key",
    "template_key_file",
)  # fmt: skip
"""Settings that each machine has for itself; the others are those of the run."""
AHEAD = 2
"""Photographs under way for each worker, so that none waits for the next one."""
CONNECT_S = 10.0
START_S = 600.0
"""A first worker may have to fetch weights."""


class RemoteExtractor:
    """In a worker process of the cluster. Answers with a text where the work cannot be done."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        own = Settings().model_copy(update=dict(settings))
        self._extractor = Extractor(recognizer(own, isolated=False), own)

    def ready(self) -> bool:
        return True

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted | str:
        try:
            return self._extractor.extract(data, targets)
        except (IndexerError, RecognitionError) as error:
            return str(error)


class RayCluster:
    """An engine of one actor for each core of the cluster, or of `workers`; Ray restarts those that end."""

    def __init__(self, settings: Settings, workers: int | None, address: str | None) -> None:
        """Raises WorkerFailed without Ray, or without a cluster at the address."""
        self._ray = ray = _import()
        self._mine = not ray.is_initialized()
        if self._mine:
            _connect(ray, address, workers or settings.threads)
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote = ray.remote(num_cpus=1, max_restarts=-1)(RemoteExtractor)
        self._told = settings.model_dump(exclude=set(OWN))
        self._actors = [self._remote.remote(self._told) for _ in range(count)]
        self.at_once = AHEAD * count
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for actor in self._actors * AHEAD:
            self._idle.put(actor)
        try:
            wait_ready(ray, self._actors, START_S)
        except WorkerFailed:
            self.close()
            raise

    def extract(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        actor = self._idle.get()
        try:
            return self._ask(actor, data, targets)
        finally:
            self._idle.put(actor)

    def _ask(self, actor: Any, data: bytes, targets: Sequence[Space]) -> Extracted:  # noqa: ANN401
        try:
            return self._answer(actor, data, targets)
        except self._ray.exceptions.RayActorError:
            return self._alone(data, targets)

    def _alone(self, data: bytes, targets: Sequence[Space]) -> Extracted:
        """By a worker that has nothing else to do: if that one ends too, it is the photograph's fault."""
        actor = self._remote.options(num_cpus=0).remote(self._told)
        try:
            wait_ready(self._ray, [actor], START_S)
            return self._answer(actor, data, targets)
        except self._ray.exceptions.RayActorError:
            return fatal(data)
        finally:
            self._ray.kill(actor)

    def _answer(self, actor: Any, data: bytes, targets: Sequence[Space]) -> Extracted:  # noqa: ANN401
        answer = self._ray.get(actor.extract.remote(data, tuple(targets)))
        if isinstance(answer, Extracted):
            return answer
        raise WorkerFailed(str(answer))

    def close(self) -> None:
        if self._mine:
            self._ray.shutdown()
            return
        for actor in self._actors:
            self._ray.kill(actor)


def wait_ready(ray: Any, actors: Sequence[Any], within: float) -> None:  # noqa: ANN401
    """Until every actor has started; one whose process ends before is waited for as Ray restarts it.

    `within`: seconds, for all of them. Raises WorkerFailed.
    """
    # Without retries, a call that meets a process as it ends fails though the actor comes back.
    asked = [actor.ready.options(max_task_retries=-1).remote() for actor in actors]
    try:
        ray.get(asked, timeout=within)
    except ray.exceptions.RayError as error:
        raise WorkerFailed(f"the Ray cluster gives no workers: {error}") from error


def _import() -> Any:  # noqa: ANN401 - Ray is optional and not typed here
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise WorkerFailed(
            "the engine ray needs the package ray: pip install 'facesearch[ray]'"
        ) from error


def _connect(ray: Any, address: str | None, workers: int) -> None:  # noqa: ANN401
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None:
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)
        return
    try:
        _reach(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkerFailed(f"no Ray cluster answers at {address}: {error}") from error


def _reach(address: str) -> None:
    """Ray itself waits for minutes. Raises OSError; `auto` and the like are left to Ray."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
