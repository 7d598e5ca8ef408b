"""`make bench`: every benchmark that needs no data of one's own, into docs/benchmarks.md.

`benchmarks.accuracy` and `benchmarks.alignment` need labelled pairs and are run by themselves.
"""

from __future__ import annotations

import argparse

from benchmarks import network, search


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only-search", action="store_true", help="not the network")
    search.add_arguments(parser)
    given = parser.parse_args()
    if not given.render and not given.only_search:
        network.main()
        print()
    search.run(search.options(given))


if __name__ == "__main__":
    main()
