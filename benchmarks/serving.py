"""The service in a process of its own, and clients of it in others."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clients
from benchmarks.machine import ROOT
from benchmarks.timing import BUDGET_S, Latency, Timed, latency
from indexer.embedded import EmbeddedPostgres
from service.settings import ServiceSettings, environment

START_S = 1800.0
POLL_S = 0.02
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Service:
    """`started`: seconds from the start of the process until it was ready."""

    process: int
    port: int
    started: float
    log: Path


@contextmanager
def temporary_home(weights: Path) -> Iterator[Path]:
    """A home of its own with those weights; it and its database are gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="facesearch-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the user that Postgres runs as
        (folder / "weights").symlink_to(weights)
        try:
            yield folder
        finally:
            EmbeddedPostgres(folder).stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(home: Path, workers: int = 1) -> Iterator[Service]:
    """The service over that home, ready to search, in that many processes."""
    port = free_port()
    log = home / "service.log"
    began = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port)],
            env=environment(ServiceSettings(home=home, workers=workers)),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, port, log)
        yield Service(process.pid, port, time.perf_counter() - began, log)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    raise RuntimeError(f"the service did not become ready: {log.read_text()[-3000:]}")


def alone(service: Service, bodies: Path) -> Timed:
    """One client; with the numbers of the rows it was answered."""
    told = _ask(service, bodies, 1, 1)[0]
    return Timed(latency(told.seconds, told.end - told.start), told.answers)


def together(service: Service, bodies: Path, count: int) -> Latency:
    """So many clients at a time, in processes of their own."""
    told = _ask(service, bodies, count, PROCESSES)
    elapsed = max(t.end for t in told) - min(t.start for t in told)
    return latency([s for t in told for s in t.seconds], elapsed)


def _ask(service: Service, bodies: Path, count: int, processes: int) -> list[clients.Told]:
    command = [sys.executable, "-m", "benchmarks.clients", str(service.port), str(bodies)]
    command += [str(count // processes), str(BUDGET_S)]
    asking = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for process in asking:
        assert process.stdout is not None
        process.stdout.readline()  # it has connected and warmed up
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [clients.Told(**json.loads(process.communicate()[0])) for process in asking]
