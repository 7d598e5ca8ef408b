"""`python -m proof [--scratch FOLDER] [--only NAME]... [PART]...`: prove again, print a table; 1 on a failure."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from indexer.settings import Settings
from proof.rows import table

PARTS = ("models", "pipelines")
"""Modules of this package with a `prove(scratch, only)` that gives rows."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scratch", type=Path, default=Settings().home / "proof")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    found = []
    for part in asked.parts or PARTS:
        for row in importlib.import_module(f"proof.{part}").prove(
            asked.scratch.resolve(), asked.only
        ):
            print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
            found.append(row)
    print(table(found))
    return 0 if found and all(row.proved for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
