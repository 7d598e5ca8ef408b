"""Server processes that can be killed, stopped and started again; and readers that check them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.freshness.ledger import FaceRecord, Ledger, Reply

REPOSITORY = Path(__file__).resolve().parents[2]
SAME = 1e-4
START_S = 120.0


class Server:
    def __init__(self, home: Path, number: int, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = home / f"server-{number}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FACESEARCH_")}
        own = {"home": str(home), "log_level": "WARNING", **settings}
        self._environment = kept | {f"FACESEARCH_{k.upper()}": v for k, v in own.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app"]
        command += ["--port", str(self.port), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=REPOSITORY, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """At once, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + "/readyz", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError(self._log.read_text(errors="replace")[-2000:])


def find(client: httpx.Client, gallery: str, vectors: np.ndarray, **fields: Any) -> dict[str, Any]:
    """The answer; raises httpx.HTTPError while the server or the database is away.

    Any other refusal is a mistake: AssertionError.
    """
    body = {"embedding": vectors.tolist(), "gallery": gallery, "k": 3, "threshold": 0.01, **fields}
    response = client.post("/find", json=body)
    if not response.is_success and response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        raise AssertionError(f"status {response.status_code}: {response.text}")
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    return found


def owner_of(face: dict[str, Any]) -> str | None:
    """Who has the very face that was asked for."""
    same = [m["identity"] for m in face["matches"] if m["distance"] < SAME]
    assert len(same) < 2, f"one face is said to be that of {same}"
    return str(same[0]) if same else None


class Reader(threading.Thread):
    """Asks one server for faces of the ledger, and checks every answer."""

    def __init__(self, server: Server, gallery: str, ledger: Ledger, seed: int) -> None:
        super().__init__(name=f"reader-{seed}", daemon=True)
        self._client = httpx.Client(base_url=server.url, timeout=30, trust_env=False)
        self._gallery = gallery
        self._ledger = ledger
        self._random = np.random.default_rng(seed)
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            self._read()
        except Exception as error:
            self.violations.append(f"{self.name} ended: {error!r}")

    def _read(self) -> None:
        while not self._stopping.is_set():
            if not self._ledger.faces:
                time.sleep(0.05)
                continue
            try:
                self._ask(self._chosen())
            except httpx.HTTPError:
                self.counts["not answered"] += 1
                time.sleep(0.05)
            except AssertionError as error:
                self.violations.append(str(error))

    def _chosen(self) -> FaceRecord:
        """Mostly one that was touched lately."""
        faces = self._ledger.faces
        back = int(self._random.exponential(40)) if self._random.random() < 0.8 else len(faces)
        return faces[max(0, len(faces) - 1 - int(back * self._random.random()))]

    def _ask(self, record: FaceRecord) -> None:
        version = record.version if self._random.random() < 0.5 else 0
        fields = {"min_version": version} if version else {}
        sent = time.monotonic()
        answer = find(self._client, self._gallery, record.vector[None, :], **fields)
        received = time.monotonic()
        engine = answer["engine"]
        reply = Reply(owner_of(answer["results"][0]), engine["version"], version, sent, received)
        wrong = self._ledger.check(record, reply)
        self.counts["searches"] += 1
        self.counts["with min_version"] += bool(version)
        self.counts[f"by {engine['name']}"] += 1
        if wrong:
            self.violations.append(f"{engine['name']}: {wrong}")
