"""The service as a supervisor runs it: a process that can be killed, and is started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import orjson

from tests.service.conftest import REPOSITORY, free_port

READY_S = 120.0
"""A bound, on a busy machine; not a measurement."""
STOP_S = 60.0


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Ours, with these FACESEARCH_ settings, given in lower case, and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FACESEARCH_")}
    own = {"home": str(home), **settings}
    return kept | {f"FACESEARCH_{name.upper()}": value for name, value in own.items()}


class Service:
    """`log` must not lie where disks are filled."""

    def __init__(self, home: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._told = 0
        self._environment = environment(home, log_level="WARNING", **settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "service", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=REPOSITORY, stdout=log, stderr=log
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """At once, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def client(self, timeout: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def until_ready(self, seconds: float = READY_S) -> None:
        """Raises TimeoutError, and AssertionError if it has ended by itself."""
        deadline = time.monotonic() + seconds
        said = "nothing"
        while time.monotonic() < deadline:
            assert self.alive, f"the service ended by itself: {self.log()[-2000:]}"
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(self.url + "/readyz", trust_env=False, timeout=10)
                if answer.status_code == httpx.codes.OK:
                    return
                said = answer.text
            time.sleep(0.1)
        raise TimeoutError(f"the service is not ready: {said}; {self.log()[-2000:]}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What was logged as an error since this was last asked: nothing that is foreseen is one."""
        text = self.log()
        lines, self._told = text[self._told :].splitlines(), len(text)
        found = Counter(_short(line) for line in lines if _is_error(line))
        return [f"{count} x {line}" for line, count in found.items()]


def _is_error(line: str) -> bool:
    return '"level":"error"' in line or line.startswith(("ERROR", "Traceback"))


def _short(line: str) -> str:
    with contextlib.suppress(orjson.JSONDecodeError):
        told = orjson.loads(line)
        trace = told.get("traceback", "").strip().splitlines()
        return f"logged: {told['message']}: {trace[-1] if trace else ''}"
    return f"logged: {line}"
