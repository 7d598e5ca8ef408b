"""python -m tests.freshness --seconds 3600: prove that no update is lost, for as long as you like."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.freshness.run import Plan, fire


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.freshness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--writers", type=int, default=8)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    summary = fire(Plan(given.seconds, given.processes, given.writers))
    print(summary)
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
