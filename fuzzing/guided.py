"""Guided by coverage: libFuzzer by way of atheris, each reader in a process of its own.

    python -m fuzzing.guided NAME FOLDER SECONDS

runs one. FOLDER gets `corpus`, which grows, and `finds`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import atheris

MAX_INPUT = 1 << 16
MAX_SECONDS = 10
MAX_MEMORY_MB = 3072
LONGEST_SEED = 600_000


def run(names: Sequence[str], seconds: int, finds: Path) -> int:
    """One reader after the other; 1 if anything was found."""
    from fuzzing.readers import READERS  # noqa: PLC0415 - the child has them instrumented

    found = 0
    for name in names or tuple(READERS):
        with tempfile.TemporaryDirectory(prefix="facesearch-fuzz-") as folder:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "fuzzing.guided", name, folder, str(seconds)],
                capture_output=True,
                text=True,
                check=False,
            )
            took = time.perf_counter() - started
            kept = sorted((Path(folder) / "finds").iterdir())
            print(f"{name}: {_runs(done.stderr)} in {took:.0f} s, {len(kept)} finds", flush=True)
            if kept or done.returncode:
                print(done.stderr[-3000:])
                found += 1
            for file in kept:
                finds.mkdir(parents=True, exist_ok=True)
                (finds / f"{name}-{file.name}").write_bytes(file.read_bytes())
    return 1 if found else 0


def _runs(log: str) -> str:
    """libFuzzer's own count."""
    lines = [line for line in log.splitlines() if "number_of_executed_units" in line]
    return f"{lines[-1].split()[-1]} inputs" if lines else "no inputs"


def one(name: str, folder: Path, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    with atheris.instrument_imports(include=["recognition", "indexer.transfer"]):
        from fuzzing import readers  # noqa: PLC0415 - instrumented as it is imported
        from indexer.settings import Settings  # noqa: PLC0415
        from indexer.weights import weights_cache  # noqa: PLC0415
    reader = readers.READERS[name]
    corpus, finds = folder / "corpus", folder / "finds"
    for place in (corpus, finds):
        place.mkdir(exist_ok=True)
    longest = MAX_INPUT
    for number, seed in enumerate(reader.seeds(weights_cache(Settings(), addresses=True))):
        (corpus / str(number)).write_bytes(seed[:LONGEST_SEED])
        longest = max(longest, len(seed[:LONGEST_SEED]))
    options = [
        f"-max_total_time={seconds}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MEMORY_MB}",
        f"-artifact_prefix={finds}/", f"-max_len={longest}", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], lambda data: readers.check(reader, data))
    atheris.Fuzz()


if __name__ == "__main__":
    one(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
