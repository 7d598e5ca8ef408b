"""How good the compressed search is, measured while it serves: some searches are repeated exactly."""

from __future__ import annotations

import itertools
import queue
import threading
from dataclasses import dataclass, replace

import numpy as np

from indexer.cache.ask import Answer, Ask, search
from indexer.cache.view import View
from recognition.types import Embeddings

WAITING = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    view: View
    probe: Embeddings
    ask: Ask
    found: frozenset[int]


class RecallSampler:
    """Repeats the first of every `every` compressed searches; what it cannot keep up with it skips."""

    def __init__(self, share: float) -> None:
        self._every = max(1, round(1 / share)) if share > 0 else 0
        self._seen = itertools.count()
        self._queue: queue.Queue[_Sample | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="recall", daemon=True)
        self.searches = 0
        self.expected = 0
        self.found = 0

    def start(self) -> None:
        if self._every:
            self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=5)

    def offer(self, view: View, probes: Embeddings, ask: Ask, answer: Answer) -> None:
        """A search that was answered; whether it is repeated is decided here."""
        if not self._every or answer.exact or len(probes) == 0 or next(self._seen) % self._every:
            return
        sample = _Sample(view, probes[:1], ask, _ids(answer, ask))
        try:
            self._queue.put_nowait(sample)
        except queue.Full:
            return

    def _work(self) -> None:
        while (sample := self._queue.get()) is not None:
            exact = search(sample.view.plain(), sample.probe, replace(sample.ask))
            wanted = _ids(exact, sample.ask)
            self.searches += 1
            self.expected += len(wanted)
            self.found += len(wanted & sample.found)


def _ids(answer: Answer, ask: Ask) -> frozenset[int]:
    """The faces, or the people, of the first probe."""
    hits = answer.hits[0]
    return frozenset(np.asarray(hits.people if ask.by == "person" else hits.faces).tolist())
