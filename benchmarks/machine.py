"""What was measured on, when, and at which state of the project."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory` in GiB; `commit` ends with a plus sign when there were changes on top of it."""

    processor: str
    cores: int
    memory: int
    python: str
    faiss: str
    numpy: str
    commit: str
    date: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.memory} GiB of memory; Python"
            f" {self.python}, FAISS {self.faiss}, numpy {self.numpy}; commit {self.commit},"
            f" {self.date}"
        )


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        python=platform.python_version(),
        faiss=version("faiss-cpu"),
        numpy=version("numpy"),
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process in MiB: of its own, and of files that are mapped into it."""

    own: float
    mapped: float


def memory(process: int | str = "self") -> Memory:
    """Linux only."""
    status = Path(f"/proc/{process}/status").read_text()
    own, mapped = (_kilobytes(status, name) / 1024 for name in ("RssAnon", "RssFile"))
    return Memory(own, mapped)


def megabytes(path: Path) -> float:
    """Of all files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / MEGABYTE


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        told = {
            key.strip(): value.strip()
            for key, _, value in (
                line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()
            )
        }
    except OSError:
        return platform.machine()
    name = told.get("model name", platform.machine())
    return f"{name} (family {told.get('cpu family', '?')} model {told.get('model', '?')})"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def _kilobytes(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) if found else 0
