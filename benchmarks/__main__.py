"""`make bench`: every benchmark that needs no data of one's own; `benchmarks.accuracy` needs labelled pairs."""

from __future__ import annotations

from benchmarks import network, search

if __name__ == "__main__":
    network.main()
    print()
    search.main()
